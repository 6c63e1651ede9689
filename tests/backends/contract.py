"""What every backend promises: the same tasks, submitted in the same way, end alike.

A backend is tested by a subclass of `Contract` with one fixture, `place`: see `test_threads.py`.
"""

import io
import logging
import os
import subprocess
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from flask import Flask, current_app, has_request_context
from tests.backends import work
from tests.backends.site import create_app
from werkzeug.datastructures import FileStorage
from werkzeug.wsgi import LimitedStream

from flask_delay import (
    DuplicateTask,
    Future,
    Retry,
    TaskExpired,
    TaskTimeout,
    chain,
    delay,
    gather,
    task,
    task_cancelled,
    task_failed,
    task_started,
    task_submitted,
    task_succeeded,
    using,
)

DEADLINE = 20.0
ROOT = Path(__file__).parents[2]
NOTHING: Mapping[str, str] = MappingProxyType({})


class Place:
    """One backend, with room for two tasks at once, and what it does not promise.

    `settings` are what a process has in its environment, "DELAY_...". `refused` are the options
    that it refuses, and `lacks` those of `PROMISES` that it does not make; both with the reason.
    """

    def __init__(
        self,
        backend: str,
        *,
        settings: Mapping[str, str],
        refused: Mapping[str, str] = NOTHING,
        lacks: Mapping[str, str] = NOTHING,
    ) -> None:
        self.backend, self.settings, self.refused, self.lacks = backend, settings, refused, lacks
        # What the log of its tasks says so far, if they log in another process.
        self.log: Callable[[], str] | None = None
        self.app = self.make()

    def make(self, **config: object) -> Flask:
        """Another app with this backend."""
        return create_app(DELAY_BACKEND=self.backend, **self.settings, **config)

    def close(self) -> None:
        close(self.app)

    @property
    def environment(self) -> dict[str, str]:
        """Of another process that has this backend."""
        settings = {"DELAY_BACKEND": self.backend, **self.settings}
        return {f"FLASK_{key}": value for key, value in settings.items()}

    def run(self, script: str, *arguments: object) -> str:
        """What a process writes that has this backend."""
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", script, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=2 * DEADLINE,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT), **self.environment},
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout


# What a backend may leave out, if it says why.
PROMISES = {
    "elsewhere": "a task is in another process, and what it is given and returns is a copy",
    "attempts": "the process that submits counts all attempts",
    "task_started": "the process that submits hears when an attempt starts",
    "drain": "`drain` waits for tasks",
    "uploads": "a task may be given an upload",
    **{
        name: f"the option {name!r}"
        for name in ("limit", "rate", "scope", "unique", "debounce", "request", "stream_wait")
    },
}


def promise(name: str) -> pytest.MarkDecorator:
    """Mark a test of a promise that some backends do not make."""
    assert name in PROMISES
    return pytest.mark.promise(name)


def close(app: Flask) -> None:
    app.extensions["delay"].shutdown(wait=True, cancel_futures=True)


class Meeting:
    """Where a test meets its task."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._in, self._out = Path(f"{path}.in"), Path(f"{path}.out")

    def entered(self) -> int:
        """The process that the task has begun in."""
        end = time.monotonic() + DEADLINE
        while not (self._in.exists() and self._in.read_text()):
            assert time.monotonic() < end, "the task has not begun"
            time.sleep(0.005)
        return int(self._in.read_text())

    def has_begun(self) -> bool:
        return self._in.exists()

    def let_go(self) -> None:
        self._out.touch()


class Told:
    """A done callback that can be waited for."""

    def __init__(self) -> None:
        self.futures: list[Future[Any]] = []
        self._more = threading.Condition()

    def __call__(self, future: Future[Any]) -> None:
        with self._more:
            self.futures.append(future)
            self._more.notify_all()

    def wait(self, number: int) -> list[Future[Any]]:
        with self._more:
            assert self._more.wait_for(lambda: len(self.futures) >= number, DEADLINE), self.futures
            return list(self.futures)


def ended(future):
    """The future, when its callbacks have run."""
    told = Told()
    future.add_done_callback(told)
    told.wait(1)
    return future


def expired(function: Any, *args: object) -> Future[Any]:
    """A task that must have started before it may."""
    moment = datetime.now(UTC) + timedelta(seconds=0.3)
    return function.using(eta=moment, expires=0.1).delay(*args)


def stopped(future: Future[Any], meeting: Meeting | None = None) -> Future[Any]:
    """The future, told to stop, after its task has begun if it has a meeting."""
    if meeting is not None:
        meeting.entered()
    assert future.stop(after=0)
    return future


class Contract:
    """Each test is a promise."""

    pytestmark = pytest.mark.keeps_threads

    @pytest.fixture(autouse=True)
    def _promised(self, request, place):
        lacks = {**place.lacks, **place.refused}
        assert lacks.keys() <= PROMISES.keys()
        for mark in request.node.iter_markers("promise"):
            if reason := lacks.get(mark.args[0]):
                pytest.skip(f"not promised: {reason}")

    @pytest.fixture
    def app(self, place):
        """The current one."""
        with place.app.app_context():
            yield place.app

    @pytest.fixture
    def background(self, app):
        return app.extensions["delay"].owner

    @pytest.fixture
    def meeting(self, tmp_path):
        meeting = Meeting(tmp_path / "meeting")
        yield meeting
        meeting.let_go()

    @pytest.fixture
    def path(self, tmp_path):
        return tmp_path / "written"

    @pytest.fixture
    def said(self, place, caplog, wait_until):
        """How often one of these texts is in the log; waits until one is."""

        def log():
            if place.log is not None:
                return place.log()
            return "\n".join(map(logging.Formatter().format, caplog.records))

        def said(*texts):
            assert wait_until(lambda: any(it in log() for it in texts)), log()
            return sum(map(log().count, texts))

        return said

    @pytest.fixture
    def attempts(self, place):
        """Check how many attempts a future tells of: `attempts(future, 3)`."""

        def check(future, number):
            if "attempts" in place.lacks:
                assert 1 <= future.attempts <= max(number, 1)
            else:
                assert future.attempts == number

        return check

    # --- Results ----------------------------------------------------------------------

    def test_a_result_and_what_is_known_of_a_task(self, app):
        future = work.add.delay(1, b=2)
        assert future.result(DEADLINE) == 3
        assert future.exception() is None
        assert (future.name, future.state, future.attempts) == ("add", "finished", 1)
        assert (future.done(), future.running(), future.cancelled()) == (True, False, False)
        times = [future.enqueued_at, future.started_at, future.finished_at]
        assert times == sorted(times)
        assert not future.cancel()
        assert not future.stop()

    def test_every_way_to_submit_goes_there(self, app, background, place):
        looks = [
            delay(work.look),
            work.look.delay(),
            work.look.using(retry=1).delay(),
            using(timeout=DEADLINE).delay(work.look),
            background.delay(work.look),
            background.using(backend=place.backend).delay(work.look),
            work.look.using(priority=-1).delay(),
        ]
        for look in looks:
            assert (look.result(DEADLINE)["pid"] == os.getpid()) == ("elsewhere" in place.lacks)
        here = work.look.using(backend="threads").delay()
        assert here.result(DEADLINE)["pid"] == os.getpid()

    def test_many_at_once(self, app):
        futures = [work.add.delay(number) for number in range(50)]
        assert [future.result(DEADLINE) for future in futures] == list(range(50))

    def test_map(self, app):
        assert list(work.add.map(range(4), [1] * 4)) == [1, 2, 3, 4]
        assert list(using(retry=1).map(work.echo, "abc", buffersize=1)) == ["a", "b", "c"]

    def test_a_coroutine(self, app):
        future = work.shout.delay("quiet")
        text, id = future.result(DEADLINE)
        assert (text, id) == ("QUIET", future.id)

    def test_what_follows_a_task(self, app):
        followed = work.add.delay(1).then(task(backend="threads")(str))
        assert followed.result(DEADLINE) == "1"
        both = gather(work.add.delay(1), work.add.delay(2))
        assert both.result(DEADLINE) == [1, 2]
        failed = gather(work.add.delay(1), work.fail.delay("no"))
        assert type(failed.exception(DEADLINE)) is work.SoldOut
        steps = chain(task(backend="threads")(int), task(backend="threads")(str))
        assert steps.delay("7").result(DEADLINE) == "7"

    # --- The world of a task ----------------------------------------------------------

    @pytest.mark.parametrize("function", [work.look, work.look_later], ids=["plain", "coroutine"])
    def test_each_has_an_app_context_of_its_own_and_no_request(self, app, function):
        with app.test_request_context():
            futures = [function.delay() for _ in range(4)]
        for future in futures:
            seen = future.result(DEADLINE)
            del seen["pid"]
            assert seen == {
                "app": "contract",
                "request": False,
                "fresh": True,
                "id": future.id,
                "attempt": 1,
                "name": function.__name__,
            }

    def test_each_attempt_has_a_context_and_its_teardown(self, app, path):
        future = work.note.delay(str(path), 2)
        assert future.result(DEADLINE) == 3
        assert path.read_text().split() == ["IndexError", "IndexError", "NoneType"]

    def test_other_modes_run_nothing_there(self, place):
        app = place.make(DELAY_MODE="immediate")
        with app.app_context():
            assert work.look.delay().result(0)["pid"] == os.getpid()
        close(app)

    # --- Failures ---------------------------------------------------------------------

    def test_an_error_with_its_traceback(self, app, said):
        future = work.fail.delay("no such row")
        error = future.exception(DEADLINE)
        assert type(error) is work.SoldOut
        assert error.args == ("no such row", 7)
        assert "in fail\n    raise SoldOut(text, 7)\n" in "".join(traceback.format_exception(error))
        with pytest.raises(work.SoldOut):
            future.result()
        assert said(f"task fail ({future.id}) failed") == 1
        assert said("in fail\n")

    def test_an_exception_that_ends_programs_ends_its_task_alone(self, app):
        error = work.leave.delay().exception(DEADLINE)
        assert "SystemExit(3)" in repr(error)
        assert work.add.delay(1).result(DEADLINE) == 1

    # --- What is given to a task ------------------------------------------------------

    def test_arguments_that_do_not_fit_are_refused(self, app):
        with pytest.raises(TypeError, match=r"add\(\) got an unexpected keyword argument 'c'"):
            work.add.delay(1, c=2)
        with pytest.raises(TypeError, match="must be callable, got 5"):
            delay(5)

    def test_what_dies_with_the_request_is_refused(self, app):
        with pytest.raises(TypeError, match="current_app"):
            work.echo.delay(current_app)
        with app.test_request_context(), pytest.raises(TypeError, match="stream of a request"):
            work.echo.delay(LimitedStream(io.BytesIO(), 0))

    @promise("uploads")
    def test_an_upload_arrives(self, app):
        with app.test_request_context():
            file = FileStorage(io.BytesIO(b"data"), "a.txt", "report", "text/plain")
            future = work.uploaded.delay([file])
        assert future.result(DEADLINE) == ("a.txt", "report", "text/plain", b"data")

    @promise("elsewhere")
    def test_what_cannot_be_sent_is_refused(self, app):
        lock = threading.Lock()
        with pytest.raises(TypeError, match=r"(?s)arg.* of task '.*echo'.*|of task '.*echo'.*arg"):
            work.echo.delay(lock)
        with pytest.raises(TypeError, match="'value'"):
            work.echo.delay(value=lock)

    @promise("elsewhere")
    def test_a_result_that_cannot_be_sent_is_an_error(self, app):
        future = work.lend.using(retry=2).delay()
        with pytest.raises(TypeError, match=r"generator"):
            future.result(DEADLINE)

    @promise("elsewhere")
    def test_arguments_are_those_of_the_submit(self, app):
        values = [1]
        future = work.echo.using(countdown=0.1).delay(values)
        values.append(2)
        assert future.result(DEADLINE) == [1]

    @promise("elsewhere")
    def test_a_generator_function_is_refused(self, app):
        with pytest.raises(TypeError, match=r"generator function.*backend=\"threads\""):
            work.tell.delay(3)

    @promise("stream_wait")
    def test_a_generator_function_yields_items(self, app):
        future = work.tell.using(stream_wait=DEADLINE).delay(3)
        assert list(future.stream()) == [0, 1, 2]
        assert future.result(DEADLINE) is None

    def test_options_that_make_no_sense_there_are_refused(self, app, place):
        values = {
            "stream_wait": 1,
            "debounce": 1,
            "limit": 1,
            "rate": "1/s",
            "scope": "machine",
            "unique": True,
            "request": True,
        }
        for name in place.refused:
            option = {name: values[name], **({"limit": 1} if name == "scope" else {})}
            with pytest.raises(ValueError, match=f"the option '{name}' is not for this backend"):
                work.add.using(**option).delay(1)
            with pytest.raises(ValueError, match=f"the option '{name}' is not for this backend"):
                task(backend=place.backend, **option)

    # --- Keys and requests ------------------------------------------------------------

    @promise("unique")
    def test_one_task_of_a_key(self, app, meeting):
        only = work.meet.using(unique=True)
        first = only.delay(meeting.path)
        assert only.delay(meeting.path) is first
        assert work.add.using(unique=True).delay(1).result(DEADLINE) == 1
        with pytest.raises(DuplicateTask):
            work.meet.using(unique="raise").delay(meeting.path)
        meeting.let_go()
        first.result(DEADLINE)
        assert only.delay(meeting.path) is not first

    @promise("limit")
    def test_a_limit_goes_by_the_function(self, app, meeting, tmp_path):
        second = Meeting(tmp_path / "second")
        limited = work.meet.using(limit=1)
        running, held = limited.delay(meeting.path), limited.delay(second.path)
        meeting.entered()
        # There is room for another one, but not of this function.
        assert work.add.using(limit=1).delay(1).result(DEADLINE) == 1
        assert (running.state, held.state, second.has_begun()) == ("running", "pending", False)
        second.let_go()
        meeting.let_go()
        assert running.result(DEADLINE)
        assert held.result(DEADLINE)

    @promise("rate")
    def test_a_rate_goes_by_the_function(self, app):
        limited = work.echo.using(rate="1/h")
        assert limited.delay(1).result(DEADLINE) == 1
        held = limited.delay(2)
        assert work.add.using(rate="1/h").delay(1).result(DEADLINE) == 1
        assert held.state == "pending"
        assert held.cancel()

    @promise("request")
    def test_a_copy_of_the_request(self, app):
        with app.test_request_context(headers={"X-Mine": "mine"}):
            future = work.header.using(request=True, retry=1).delay()
        assert future.result(DEADLINE) == ("mine", "contract")

    # --- Retries ----------------------------------------------------------------------

    @pytest.mark.parametrize("function", [work.flaky, work.flaky_later], ids=["plain", "coroutine"])
    def test_retries(self, app, said, attempts, function):
        future = function.delay(2)
        assert future.result(DEADLINE) == 3
        attempts(future, 3)
        assert said(f"({future.id}) failed and runs again in 0.020 s") == 1

    @pytest.mark.parametrize("function", [work.flaky, work.flaky_later], ids=["plain", "coroutine"])
    def test_it_gives_up(self, app, said, attempts, function):
        future = function.using(retry=Retry(1, backoff=0.01)).delay(9)
        error = future.exception(DEADLINE)
        assert (type(error), error.args) == (IndexError, ("attempt 2",))
        attempts(future, 2)
        assert said(f"{function.__name__} ({future.id}) failed\n") == 1

    @pytest.mark.parametrize(
        ("kind", "retry", "number"),
        [
            ("KeyError", work.SOON, 1),
            ("OSError", work.SOON, 1),
            ("OSError", 1, 2),
            ("OSError", 0, 1),
        ],
    )
    def test_for_some_errors_alone(self, app, attempts, kind, retry, number):
        future = work.flaky.using(retry=retry).delay(9, kind)
        assert f"attempt {number}" in str(future.exception(DEADLINE))
        attempts(future, number)

    def test_a_task_asks_for_another_attempt(self, app, attempts):
        future = work.ask_again.delay(2)
        assert future.result(DEADLINE) == 3
        used_up = work.ask_again.using(retry=1).delay(2)
        assert "are used up" in str(used_up.exception(DEADLINE))
        attempts(used_up, 2)

    # --- Time -------------------------------------------------------------------------

    def test_a_timeout(self, app, said):
        future = work.too_long.delay()
        error = future.exception(DEADLINE)
        assert type(error) is TaskTimeout
        assert str(error) == 'task "too_long" took longer than its timeout of 0.2 s'
        line = f"task too_long ({future.id})"
        assert said(f"{line} failed", f"{line} did not end after its timeout")
        assert work.add.delay(1).result(DEADLINE) == 1

    def test_a_timeout_of_a_coroutine_and_its_retry(self, app, said):
        future = work.too_late.using(retry=Retry(1, backoff=0.01)).delay()
        error = future.exception(DEADLINE)
        assert type(error) is TaskTimeout
        assert str(error) == 'task "too_late" took longer than its timeout of 0.2 s'
        line = f"task too_late ({future.id})"
        # On a busy machine it may not end in time, and is not run again then.
        assert said(f"{line} failed and runs again", f"{line} did not end after its timeout")

    def test_a_countdown_and_a_moment(self, app):
        begin = datetime.now(UTC)
        later = work.add.using(countdown=0.5).delay(1)
        moment = work.add.using(eta=begin + timedelta(seconds=0.5)).delay(1)
        assert (later.state, moment.state) == ("pending", "pending")
        for future in (later, moment):
            assert future.result(DEADLINE) == 1
            assert future.started_at >= begin + timedelta(seconds=0.5)

    def test_a_task_that_expires(self, app, path, attempts):
        moment = datetime.now(UTC) + timedelta(seconds=0.4)
        in_time = work.write.using(eta=moment, expires=DEADLINE).delay(str(path), "y")
        late = expired(work.write, str(path), "x")
        error = late.exception(DEADLINE)
        assert type(error) is TaskExpired
        assert "write" in str(error)
        attempts(late, 0)
        in_time.result(DEADLINE)
        assert path.read_text() == "y"

    # --- Cancel and stop --------------------------------------------------------------

    def test_what_is_cancelled_before_it_begins_never_does(self, app, path):
        told, soon = Told(), using(countdown=0.7)
        futures = [soon.delay(work.write, str(path), text) for text in "ab"]
        for future, way in zip(futures, (Future.cancel, Future.stop), strict=True):
            future.add_done_callback(told)
            assert way(future)
            assert (future.cancelled(), future.state, future.attempts) == (True, "cancelled", 0)
            with pytest.raises(CancelledError):
                future.result(0)
        assert told.wait(2) == futures
        using(countdown=0.8).delay(work.write, str(path), "c").result(DEADLINE)
        assert path.read_text() == "c"

    def test_what_runs_is_not_cancelled(self, app, meeting, wait_until):
        future = work.meet.delay(meeting.path)
        pid = meeting.entered()
        assert wait_until(future.running)
        assert not future.cancel()
        assert (future.state, future.done()) == ("running", False)
        meeting.let_go()
        assert future.result(DEADLINE) == pid

    @pytest.mark.parametrize("function", [work.meet, work.meet_later], ids=["plain", "coroutine"])
    def test_stop_ends_what_runs(self, app, meeting, function):
        told = Told()
        future = function.delay(meeting.path)
        future.add_done_callback(told)
        meeting.entered()
        assert future.stop(after=0)
        with pytest.raises(CancelledError):
            future.result(DEADLINE)
        assert future.state == "cancelled"
        assert not future.stop()
        assert work.add.delay(1).result(DEADLINE) == 1
        assert told.wait(1) == [future]

    # --- Progress, callbacks, signals -------------------------------------------------

    def test_progress(self, app, meeting, wait_until):
        future = work.report.delay(meeting.path)
        assert wait_until(lambda: future.progress == (1, 2, "waiting"))
        meeting.let_go()
        future.result(DEADLINE)
        assert future.progress == (2, 2, "done")
        many = work.count.delay(1000)
        assert many.result(DEADLINE) == 1000
        assert many.progress == (1000, 1000, "row 1000")

    @pytest.mark.parametrize(
        "end", ["result", "coroutine", "error", "timeout", "expiry", "cancel", "stop"]
    )
    def test_callbacks_run_once_here_in_the_app_without_a_request(self, app, meeting, end):
        seen = []

        def look(future):
            where = current_app.name, has_request_context(), os.getpid()
            seen.append((future, where, future.done()))

        submit = {
            "result": lambda: work.add.delay(1),
            "coroutine": lambda: work.shout.delay("quiet"),
            "error": lambda: work.fail.delay("no"),
            "timeout": work.too_long.delay,
            "expiry": lambda: expired(work.add, 1),
            "cancel": lambda: work.add.using(countdown=60).delay(1),
            "stop": lambda: work.meet.delay(meeting.path),
        }[end]
        with app.test_request_context():
            future = submit()
            future.add_done_callback(look)
            if end == "cancel":
                assert future.cancel()
            elif end == "stop":
                meeting.entered()
                assert future.stop(after=0)
            # One that comes late is called all the same.
            ended(future).add_done_callback(look)
        ended(future)
        assert seen == [(future, ("contract", False, os.getpid()), True)] * 2

    def test_a_callback_that_fails_is_logged(self, app, caplog, wait_until):
        told = Told()
        future = work.add.using(countdown=0.1).delay(1)
        for callback in (lambda _: 1 / 0, lambda _: int("no"), told):
            future.add_done_callback(callback)
        assert told.wait(1) == [future]
        assert [it.exc_info[0] for it in caplog.records] == [ZeroDivisionError, ValueError]
        assert future.result(0) == 1

    def test_default_callbacks_and_signals(self, place, meeting):
        app, order, told = place.make(), [], Told()
        background = app.extensions["delay"].owner

        @background.add_default_done_callback
        def default(future):
            order.append(("default", future.id))
            assert (current_app.name, has_request_context()) == ("contract", False)
            told(future)

        def listener(name):
            return lambda app, future: order.append((name, future.id))

        signals = (task_submitted, task_started, task_succeeded, task_failed, task_cancelled)
        # Receivers are held weakly.
        listeners = [(it, listener(it.name.removeprefix("task-"))) for it in signals]
        for signal, tell in listeners:
            signal.connect(tell, app)
        started = () if "task_started" in place.lacks else ("started",)
        ends = [
            (lambda: work.add.delay(1), (*started, "succeeded")),
            (lambda: work.fail.delay("no"), (*started, "failed")),
            (lambda: work.flaky.delay(1), (*started * 2, "succeeded")),
            (work.too_long.delay, (*started, "failed")),
            (lambda: expired(work.add, 1), ("failed",)),
            (lambda: stopped(work.add.using(countdown=60).delay(1)), ("cancelled",)),
            (lambda: stopped(work.meet.delay(meeting.path), meeting), (*started, "cancelled")),
        ]
        expected = []
        with app.app_context():
            for number, (submit, names) in enumerate(ends):
                future = submit()
                told.wait(number + 1)
                expected += [(name, future.id) for name in ("submitted", *names, "default")]
        close(app)
        assert order == expected

    # --- Ids --------------------------------------------------------------------------

    def test_ids(self, app, background):
        futures = [work.add.delay(1) for _ in range(3)]
        ids = [future.id for future in futures]
        assert len(set(ids)) == 3
        assert {uuid.UUID(id).version for id in ids} == {4}
        assert [background.get(id) for id in ids] == futures
        assert background.get(str(uuid.uuid4())) is None

    @pytest.mark.parametrize("id", ["order 7", str(uuid.uuid4())])
    def test_an_id_of_ones_own(self, app, background, id):
        # Where results are kept under it, it has to be a new one.
        id = f"{id}-{uuid.uuid4()}"
        future = work.look.using(id=id).delay()
        assert background.get(id) is future
        assert future.result(DEADLINE)["id"] == id
        for backend in ({}, {"backend": "threads"}):
            with pytest.raises(DuplicateTask):
                work.look.using(id=id, **backend).delay()

    def test_the_status_of_a_task(self, app, meeting, wait_until):
        client = app.test_client()

        def page(id):
            answer = client.get(f"/tasks/{id}")
            return answer.status_code, answer.get_json()

        running = work.report.delay(meeting.path)
        pending = work.add.using(countdown=60).delay(1)
        found = {"id": running.id, "error": None}
        at_half = {"done": 1, "total": 2, "note": "waiting"}
        assert wait_until(lambda: running.progress)
        assert page(running.id) == (200, found | {"state": "running", "progress": at_half})
        assert page(pending.id)[1]["state"] == "pending"
        assert pending.cancel()
        assert page(pending.id)[1]["state"] == "cancelled"
        meeting.let_go()
        running.result(DEADLINE)
        over = {"state": "finished", "progress": {"done": 2, "total": 2, "note": "done"}}
        assert page(running.id) == (200, found | over | {"result": "result"})
        failed = work.fail.delay("no such row")
        assert failed.exception(DEADLINE)
        error = {"class": "SoldOut", "message": str(failed.exception())}
        assert page(failed.id)[1]["error"] == error
        assert page(uuid.uuid4())[0] == 404

    # --- The end ----------------------------------------------------------------------

    @promise("drain")
    def test_drain_waits_for_tasks_and_callbacks(self, app, background, meeting):
        told = Told()
        future = work.meet.delay(meeting.path)
        future.add_done_callback(told)
        meeting.entered()
        assert not background.drain(0.01)
        meeting.let_go()
        assert background.drain(DEADLINE)
        assert told.futures == [future]

    def test_shutdown_cancels_what_has_not_begun_and_takes_no_more(self, place):
        app = place.make()
        with app.app_context():
            future = work.add.using(countdown=60).delay(1)
            app.extensions["delay"].owner.shutdown(cancel_futures=True)
            assert future.cancelled()
            with pytest.raises(RuntimeError, match="after shutdown"):
                work.add.delay(1)

    def test_what_is_accepted_before_an_exit_is_done_in_a_forked_process_too(
        self, place, path, wait_until
    ):
        script = """
import os, sys
from tests.backends import site, work
from flask_delay import ForkedFutureError

with site.create_app().app_context():
    before = work.add.using(countdown=60).delay(1)
    assert work.add.delay(1).result(20) == 1
    pid = os.fork()
    assert work.add.delay(2).result(20) == 2
    if pid == 0:
        try:
            before.result(20)
        except ForkedFutureError:
            work.write.delay(sys.argv[1], "child ")
    else:
        assert os.waitpid(pid, 0)[1] == 0
        assert before.cancel()
    for _ in range(3):
        work.write.delay(sys.argv[1], "now ")
    work.write.using(countdown=0.2).delay(sys.argv[1], "later ")
"""
        assert place.run(script, path) == ""
        assert wait_until(lambda: path.exists() and len(path.read_text().split()) >= 9)
        assert sorted(path.read_text().split()) == ["child", *["later"] * 2, *["now"] * 6]
