"""The blueprint behind `Delay.stream_blueprint`: the items of a task, as they come.

Server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import contextlib
import functools
import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from importlib import resources
from typing import Any, NamedTuple

from flask import Blueprint, Flask, Response, request
from flask.blueprints import BlueprintSetupState
from werkzeug.wrappers import Response as AnyResponse

from flask_delay import context, rights, validators
from flask_delay._native import Future, JournalUnavailable, Progress, Stream, StreamLagged
from flask_delay.backends.base import BrokerUnavailable
from flask_delay.logs import log as _log
from flask_delay.observe import status
from flask_delay.rights import Authorize
from flask_delay.servers import capacity
from flask_delay.state import State

# Seconds that one answer takes at most. The browser asks again, so that a process that ends waits
# no longer for its viewers, and another viewer may have the thread.
_LONGEST = 10.0
# Seconds without an event until a comment shows that the connection is alive.
_HEARTBEAT = 4.0
# Seconds between two looks at the progress, and at whether the client is still there.
_TICK = 1.0
# Milliseconds until a browser asks again: after an answer that waited, and after one that did not.
_SOON, _LATER = 100, 1_000
# Items of one answer that does not wait for more.
_MOST = 1_000
# What ends a line of an event.
_LINES = re.compile("\r\n|\r|\n")
# Digits of a number that is an item's.
_DIGITS = 18
# So many threads at once, where the server has no limit.
_UNLIMITED = 1_000
# Errors by which the stream cannot be read now; the task goes on.
_AWAY = (ConnectionError, JournalUnavailable, BrokerUnavailable)


class Options(NamedTuple):
    """The arguments of `Delay.stream_blueprint`, checked."""

    authorize: Authorize
    max_streams: int | None
    results: bool
    errors: bool


def blueprint(
    name: str,
    url_prefix: str | None,
    find: Callable[[], State],
    *,
    authorize: Any = rights.MISSING,
    max_streams: int | None,
    results: bool,
    errors: bool,
) -> Blueprint:
    """Make the blueprint; see `Delay.stream_blueprint`. `find` is called during a request."""
    rights.check(authorize, rights.OF_STREAMS)
    if max_streams is not None:
        most = validators.integer(0)
        max_streams = validators.checked(most, max_streams, "max_streams", "an integer from 0")
    made = Blueprint(name, __name__, url_prefix=url_prefix)
    views = _Views(find, Options(authorize, max_streams, results, errors))

    def add_rules(state: BlueprintSetupState) -> None:
        # At the root, other texts may be URLs of other views.
        id = "<id>" if state.url_prefix else "<uuid:id>"
        state.add_url_rule("/stream.js", "script", views.script)
        state.add_url_rule(f"/{id}/events", "events", views.events)
        state.add_url_rule(f"/{id}/items", "items", views.items)

    made.record(add_rules)
    return made


class _RefusedError(Exception):
    def __init__(self, answer: AnyResponse) -> None:
        super().__init__()
        self.answer = answer


class _Seats:
    """The threads of this process that wait for items. May be used from any thread."""

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._taken = 0

    def count(self) -> int:
        """How many may wait at the same time; to be asked for during a request."""
        if self._most is not None:
            return self._most
        whole = capacity.at_once(request.environ)
        return _UNLIMITED if whole is None else whole // 2

    @contextlib.contextmanager
    def taken(self, most: int) -> Iterator[bool]:
        """Let this thread wait; False if so many do already."""
        with self._lock:
            if self._pid != os.getpid():
                # The threads of another process.
                self._pid, self._taken = os.getpid(), 0
            pid, may = self._pid, self._taken < most
            self._taken += may
        try:
            yield may
        finally:
            with self._lock:
                if self._pid == pid:
                    self._taken -= may


# --- Reading ------------------------------------------------------------------------


class _Item(NamedTuple):
    """An item and the task's attempt that yielded it, or how many are no longer kept."""

    number: int
    value: Any = None
    attempt: int = 1
    missed: int = 0


_Seated = Callable[[], contextlib.AbstractContextManager[bool]]
"""Takes a thread, if there is one for it."""


class _Part(NamedTuple):
    """Some items; `ended` says that the task has ended and that they are the last."""

    items: list[_Item]
    ended: bool


class _Reader:
    """One reading of a task's stream. A task that yields nothing has an end and no items."""

    def __init__(self, future: Future[Any], after: int, timeout: float) -> None:
        self._future = future
        self._after = after
        self._timeout = timeout
        self._stream = self._open(after, timeout)
        self._ended = False

    def _open(self, after: int, timeout: float) -> Stream[Any] | None:
        try:
            return self._future.stream(after=after, timeout=timeout)
        except TypeError:
            return None
        except ValueError as error:
            raise _RefusedError(_refusal(400, "unknown item", str(error))) from None

    def again(self, timeout: float) -> "_Reader":
        """Another reading from the same number on."""
        return _Reader(self._future, self._after, timeout)

    @property
    def ended(self) -> bool:
        """Whether the task has ended and all its items were read."""
        return self._ended

    @property
    def progress(self) -> Progress | None:
        """How far the task says that it is."""
        return self._future.progress

    def next(self) -> _Item | None:
        """The next item; None at the end, or if there is none within the time.

        Raises what an unreachable journal raises.
        """
        stream = self._stream
        if stream is None:
            self._ended = self._future in wait([self._future], self._timeout).done
            return None
        try:
            value = next(stream)
        except StreamLagged as error:
            return _Item(error.oldest - 1, missed=error.missed)
        except BaseException as error:
            self._ended = stream.ended
            if stream.ended or isinstance(error, TimeoutError):
                return None
            raise
        return _Item(stream.number, value, stream.attempt)

    def rest(self, most: int) -> _Part:
        """The next items, at most so many; waits for the first one alone."""
        found: list[_Item] = []
        reader = self
        while len(found) < most and (item := reader.next()) is not None:
            if not found:
                reader = _Reader(self._future, item.number, 0)
            found.append(item)
        return _Part(found, ended=reader.ended)


class _Events:
    """The events of one answer, which takes some seconds, or has only what there is now."""

    def __init__(
        self, app: Flask, reader: _Reader, told: Callable[[], str], seated: _Seated
    ) -> None:
        self._app = app
        self._reader = reader
        self._told = told
        self._seated = seated

    def __iter__(self) -> Iterator[str]:
        # Not before the server asks for the first one: it closes only what it has begun.
        with self._seated() as may_wait:
            yield f"retry: {_SOON if may_wait else _LATER}\n\n"
            try:
                yield from self._all(_LONGEST if may_wait else 0.0)
            except _AWAY as error:
                # The browser asks again.
                _log.warning("a stream cannot be read: %s", error)

    def _all(self, seconds: float) -> Iterator[str]:
        reader = self._reader.again(_TICK if seconds else 0)
        count, attempt = 0, 1
        progress: Progress | None = None
        heard = time.monotonic()
        end = heard + seconds
        while True:
            item = reader.next()
            if item is not None:
                if item.attempt != attempt and not item.missed:
                    # A page that shows one answer begins it again.
                    attempt = item.attempt
                    yield _event("attempt", str(attempt))
                yield _event_of(self._app, item)
                heard = time.monotonic()
            if reader.progress != progress:
                progress = reader.progress
                yield _event("progress", self._app.json.dumps(status.told_progress(progress)))
                heard = time.monotonic()
            if reader.ended:
                yield _event("end", self._told())
                return
            count += 1
            now = time.monotonic()
            if now >= end if seconds else item is None or count >= _MOST:
                return
            if now - heard >= _HEARTBEAT:
                yield ": still here\n\n"
                heard = now


def _event_of(app: Flask, item: _Item) -> str:
    if item.missed:
        return _event("lagged", str(item.missed), item.number)
    text = _dumped(app, item)
    if text is None:
        return _event("unreadable", app.json.dumps(type(item.value).__name__), item.number)
    return _event("item", text, item.number)


def _as_json(app: Flask, item: _Item) -> str:
    text, key = _dumped(app, item), "data"
    if text is None:
        text, key = app.json.dumps(type(item.value).__name__), "unreadable"
    return f'{{"number": {item.number}, "attempt": {item.attempt}, "{key}": {text}}}'


def _dumped(app: Flask, item: _Item) -> str | None:
    try:
        text = app.json.dumps(item.value, allow_nan=False)
        text.encode()
    except Exception as error:
        # The app's encoder, or a method of the item, may raise anything.
        _log.warning("item %d of a stream is no JSON: %r", item.number, error)
        return None
    return text


def _event(name: str, text: str, number: int | None = None) -> str:
    lines = "".join(f"data: {line}\n" for line in _LINES.split(text))
    id = "" if number is None else f"id: {number}\n"
    return f"event: {name}\n{id}{lines}\n"


# --- Questions ----------------------------------------------------------------------


def _after(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= _DIGITS:
        return int(text)
    why = f"after is {text[:_DIGITS]!r}, but must be the number of an item, or 0"
    raise _RefusedError(_refusal(400, "bad number", why))


def _seconds() -> float:
    text = request.args.get("wait", "0")
    try:
        return min(validators.wait(float(text)), _LONGEST)
    except (ValueError, OverflowError):
        why = f"wait is {text[:_DIGITS]!r}, but must be a number of seconds"
        raise _RefusedError(_refusal(400, "bad number", why)) from None


def _refusal(code: int, state: str, why: str) -> Response:
    body = context.current().json.dumps({"state": state, "message": why})
    return status.answer(code, body, waits=False)


@functools.cache
def _script() -> str:
    return (resources.files(__package__) / "stream.js").read_text("utf-8")


# --- Views --------------------------------------------------------------------------


class _Views:
    def __init__(self, find: Callable[[], State], options: Options) -> None:
        self._find = find
        self._options = options
        self._seats = _Seats(options.max_streams)

    def script(self) -> AnyResponse:
        """The client's script."""
        response = Response(_script(), mimetype="text/javascript")
        response.set_etag(hashlib.sha256(_script().encode()).hexdigest()[:16])
        response.cache_control.max_age = 3600
        return response.make_conditional(request)

    def events(self, id: object) -> AnyResponse:
        """The items from a number on, as server-sent events."""
        try:
            future = self._future(str(id))
            after = request.headers.get("Last-Event-ID") or request.args.get("after", "0")
            reader = _Reader(future, _after(after), 0)
        except _RefusedError as refused:
            return refused.answer
        app = context.current()
        told = functools.partial(self._told, app, self._find(), str(id))
        seated = functools.partial(self._seats.taken, self._seats.count())
        events = iter(_Events(app, reader, told, seated))
        response = AnyResponse(events, mimetype="text/event-stream")
        response.cache_control.no_store = True
        # nginx would keep events back.
        response.headers["X-Accel-Buffering"] = "no"
        return response

    def items(self, id: object) -> AnyResponse:
        """The items from a number on, as JSON; waits for the first one if asked to."""
        try:
            future = self._future(str(id))
            after, seconds = _after(request.args.get("after", "0")), _seconds()
            with self._seats.taken(self._seats.count() if seconds else 0) as may_wait:
                found = _Reader(future, after, seconds if may_wait else 0).rest(_MOST)
        except _RefusedError as refused:
            return refused.answer
        except _AWAY as error:
            return status.unavailable(str(id), error)
        return self._as_json(str(id), found, waited=may_wait)

    def _as_json(self, id: str, found: _Part, *, waited: bool) -> AnyResponse:
        app = context.current()
        rest: dict[str, Any] = {
            "lagged": sum(it.missed for it in found.items),
            "ended": found.ended,
            "waited": waited,
        }
        items = ", ".join(_as_json(app, it) for it in found.items if not it.missed)
        task = self._told(app, self._find(), id)
        text = f'{{"items": [{items}], "task": {task}, {app.json.dumps(rest)[1:]}'
        return status.answer(200, text, waits=not found.ended)

    def _future(self, id: str) -> Future[Any]:
        """The task, for a visitor who may read its stream."""
        authorize = self._options.authorize
        if authorize is not None:
            verdict = context.current().ensure_sync(authorize)()
            try:
                found = rights.read(verdict)
            except ValueError as error:
                _log.error("streams are closed: %s", error)
                found = None
            if isinstance(found, AnyResponse):
                raise _RefusedError(found)
            if found is None:
                raise _RefusedError(_refusal(403, "forbidden", "You may not read this stream."))
        state = self._find()
        try:
            future = state.get(id)
            is_gone = future is None and state.is_gone(id)
        except _AWAY as error:
            raise _RefusedError(status.unavailable(id, error)) from None
        if future is None:
            raise _RefusedError(status.missing(is_gone=is_gone))
        return future

    def _told(self, app: Flask, state: State, id: str) -> str:
        """What is told of the task apart from its items."""
        with context.scope(app)():
            view = state.look(id)
            if view is None:
                return "null"
            return status.told(view, results=self._options.results, errors=self._options.errors)
