"""Background callbacks of Dash 3 and 4 as tasks of a `Delay`.

    from flask_delay.contrib.dash import DelayManager

    app = Dash(__name__, background_callback_manager=DelayManager(Delay(server)), server=server)

A callback with `background=True` runs on a thread of the app's own processes, with an app context.
Its progress, its end and its cancellation are those of a task, which the live page shows too.
"""

import inspect
import json
import traceback
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from dash._callback_context import context_value
from dash._utils import AttributeDict
from dash.background_callback._proxy_set_props import ProxySetProps
from dash.background_callback.managers import BaseBackgroundCallbackManager
from dash.exceptions import PreventUpdate
from plotly.io.json import to_json_plotly

from flask_delay import Delay, Future, context, current_task, validators

__all__ = ["DelayManager"]

_NO_UPDATE = {"_dash_no_update": "_dash_no_update"}
# Of the ids of cached results, and of what browsers have been told.
_REMEMBERED = 1000


class DelayManager(BaseBackgroundCallbackManager):  # type: ignore[misc]
    """A manager that runs the background callbacks of a Dash app as tasks of a `Delay`.

    With several worker processes, set `DELAY_JOURNAL`, by which each process finds the tasks of the
    others, and the `secret_key` of the Flask app, by which Dash signs what it tells browsers. May
    be used from any thread.
    """

    def __init__(
        self,
        executor: Delay,
        cache_by: object = None,
        expire: float | None = None,
    ) -> None:
        """Make a manager; `executor` is the Delay of the Flask app below.

        With `cache_by`, one function or several, a callback whose arguments and whose results of
        these functions are those of an earlier call has its result, if that was in this process
        and returned. With `expire` only for so many seconds. Results are kept as long as
        `DELAY_RESULT_LIMIT` allows. Raises TypeError and ValueError for bad arguments.
        """
        if not isinstance(executor, Delay):
            raise TypeError(
                f"'executor' is {executor!r}, but must be the app's Delay: Delay(app.server)"
            )
        if cache_by is not None:
            functions = list(cache_by) if isinstance(cache_by, Iterable) else [cache_by]
            wrong = [it for it in functions if not callable(it)]
            if wrong:
                raise TypeError(
                    f"'cache_by' has {wrong[0]!r}, but must be functions without arguments"
                )
            cache_by = functions
        if expire is not None:
            if cache_by is None:
                raise ValueError(f"'expire' is {expire!r}, but nothing is cached: say 'cache_by'")
            validators.checked(
                validators.seconds, expire, "'expire'", "a number of seconds above 0, or None"
            )
        self._executor = executor
        self._expire = expire
        self._cached: dict[str, str] = {}
        self._told: dict[tuple[str, str], str] = {}
        super().__init__(cache_by)

    # --- Calls of Dash, in requests ---------------------------------------------------

    def build_cache_key(self, *args: Any) -> str:
        """The id of the task for a call: a new one, or that of a cached result."""
        call: str = super().build_cache_key(*args)
        id = self._cached.get(call)
        if self.cache_by is None or id is None or not self._is_good(id):
            id = f"{call[:32]}-{uuid4().hex}"
        if self.cache_by is not None:
            _remember(self._cached, call, id)
        return id

    def make_job_fn(
        self, fn: Callable[..., Any], progress: bool, key: object = None
    ) -> Callable[..., Any]:
        """The function of the task for a callback."""
        del key
        job = _async_job(fn, progress) if inspect.iscoroutinefunction(fn) else _job(fn, progress)
        job.__module__, job.__name__ = fn.__module__, fn.__name__
        job.__qualname__ = fn.__qualname__
        return job

    def call_job_fn(self, key: str, job_fn: Callable[..., Any], args: Any, context: Any) -> str:
        """Submit the task, unless its result is cached; return its id.

        Raises RuntimeError if there is a journal, but no `secret_key`; otherwise as `Delay.delay`.
        """
        if self._executor.get(key) is None:
            self._require_secret()
            once = self._executor.using(id=key, backend="threads", durable=False)
            once.delay(job_fn, args, dict(context))
        return key

    def get_progress(self, key: str) -> Any:
        """The arguments of the last `set_progress` of the task that were not told yet, or None."""
        return self._news(key, "progress")

    def get_updated_props(self, key: str | None) -> Any:
        """What `set_props` has set in the task and was not told yet."""
        return (key and self._news(key, "props")) or {}

    def result_ready(self, key: str) -> bool:
        """Whether the task has ended."""
        future = self._executor.get(key)
        return future is not None and future.done()

    def get_result(self, key: str, job: str | None) -> Any:
        """The result of the task, its error as Dash has it, or UNDEFINED."""
        del job
        future = self._executor.get(key)
        if future is None or not future.done() or future.cancelled():
            return self.UNDEFINED
        try:
            return json.loads(future.result())
        except Exception as error:
            text = "".join(traceback.format_exception(error))
            return {"background_callback_error": {"msg": str(error), "tb": text}}

    def job_running(self, job: str | None) -> bool:
        """Whether the task has not ended, or has a result.

        Dash asks after `get_result`, and takes a task that ended in between for a cancelled one.
        """
        future = self._executor.get(job) if job else None
        return future is not None and not future.cancelled()

    def terminate_job(self, job: str | None) -> None:
        """Stop the task."""
        future = self._executor.get(job) if job else None
        if future is not None:
            future.stop()

    def terminate_unhealthy_job(self, job: str | None) -> bool:
        """Nothing to do: a task whose process has died has ended."""
        del job
        return False

    def _is_good(self, id: str) -> bool:
        future: Future[Any] | None = self._executor.get(id)
        if future is None or not future.done() or future.cancelled() or future.exception():
            return False
        ended = future.finished_at
        if self._expire is None or ended is None:
            return True
        return (datetime.now(UTC) - ended).total_seconds() < self._expire

    def _news(self, key: str, what: str) -> Any:
        future = self._executor.get(key)
        progress = None if future is None else future.progress
        if progress is None or not progress.note:
            return None
        found = json.loads(progress.note).get(what)
        told = json.dumps(found)
        if found is None or self._told.get((key, what)) == told:
            return None
        _remember(self._told, (key, what), told)
        return found

    def _require_secret(self) -> None:
        app = context.current()
        state = self._executor._state()  # noqa: SLF001
        if state.config.journal and not app.secret_key:
            raise RuntimeError(
                f"app {app.name!r} has no secret_key, so that other processes would not accept what"
                f" this one tells a browser: set the secret_key of the Flask app (app.server)"
            )


def _remember(known: dict[Any, Any], key: object, value: object) -> None:
    known.pop(key, None)
    known[key] = value
    if len(known) > _REMEMBERED:
        # Another thread may be doing the same.
        known.pop(next(iter(known), None), None)


class _Board:
    """What a task tells browsers before its end; it is the note of the task's progress."""

    def __init__(self) -> None:
        self._notes: dict[str, Any] = {}
        self._count = 0

    def set_progress(self, values: Any) -> None:
        """Dash's function of this name."""
        self._notes["progress"] = list(values) if isinstance(values, list | tuple) else [values]
        self._tell()

    def set_props(self, id: str, props: dict[str, Any]) -> None:
        """Note what `dash.set_props` was told."""
        self._notes.setdefault("props", {}).setdefault(id, {}).update(props)
        self._tell()

    def _tell(self) -> None:
        self._count += 1
        current_task.progress(self._count, None, to_json_plotly(self._notes))


def _arguments(
    progress: bool, args: Any, given: dict[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Prepare Dash's context for the callback, and return its arguments."""
    board = _Board()
    found = AttributeDict(**given)
    found.ignore_register_page = False
    found.updated_props = ProxySetProps(board.set_props)
    context_value.set(found)
    first = [board.set_progress] if progress else []
    if isinstance(args, dict):
        return first, args
    return [*first, *(args if isinstance(args, list | tuple) else [args])], {}


def _job(fn: Callable[..., Any], progress: bool) -> Callable[..., Any]:
    def job(args: Any, given: dict[str, Any]) -> str:
        positional, named = _arguments(progress, args, given)
        try:
            found = fn(*positional, **named)
        except PreventUpdate:
            found = _NO_UPDATE
        return _as_text(found)

    return job


def _async_job(fn: Callable[..., Any], progress: bool) -> Callable[..., Any]:
    async def job(args: Any, given: dict[str, Any]) -> str:
        positional, named = _arguments(progress, args, given)
        try:
            found = await fn(*positional, **named)
        except PreventUpdate:
            found = _NO_UPDATE
        return _as_text(found)

    return job


def _as_text(found: object) -> str:
    # As text, the result is the same in each process.
    text: str = to_json_plotly(found)
    return text
