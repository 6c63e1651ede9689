"""Durable tasks in one process: what plain tasks do, and what is theirs alone."""

import asyncio
import concurrent.futures
import fcntl
import gc
import os
import threading
import time
import weakref
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from flask import Flask

from flask_delay import (
    Delay,
    DuplicateTask,
    JournalUnavailable,
    QueueFull,
    Retry,
    TaskExpired,
    TaskTimeout,
    current_task,
    delay,
    task,
    task_failed,
    task_started,
    task_submitted,
    task_succeeded,
    using,
)
from flask_delay.journal.functions import Functions
from flask_delay.journal.store import Store
from flask_delay.testing import Delayed, LeakCheck, call

DEADLINE = 20.0

gates: dict[str, threading.Event] = {}
seen: list[object] = []


@pytest.fixture(autouse=True)
def _clear():
    gates.clear()
    seen.clear()
    yield
    for gate in gates.values():
        gate.set()


def gate(name):
    return gates.setdefault(name, threading.Event())


@task(durable=True)
def add(left, right=1):
    return left + right


@task(durable=True)
def echo(*args, **kwargs):
    seen.append((args, kwargs))
    return args, kwargs


@task(durable=True)
def hold(name):
    seen.append(name)
    gate(f"{name} began").set()
    gate(name).wait(DEADLINE)
    return name


@task(durable=True)
def fail(message="no such row"):
    raise LookupError(message)


@task(durable=True)
def flaky(times):
    seen.append(current_task.attempt)
    if current_task.attempt <= times:
        raise ConnectionError(f"attempt {current_task.attempt}")
    return current_task.attempt


@task(durable=True)
async def add_async(left, right=1):
    await asyncio.sleep(0.01)
    return left + right


@task(durable=True)
def give(kind):
    return {"object": object(), "set": {1, 2}}[kind]


@task(durable=True)
def sleep():
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        time.sleep(0.01)


@task(durable=True)
def report():
    current_task.progress(2, 4, "half")
    return current_task.id


@pytest.fixture
def app(make_app):
    app = make_app()
    with app.app_context():
        yield app


@pytest.fixture
def executor(app):
    return app.extensions["delay"].owner


def look(app, id):
    answer = app.test_client().get(f"/tasks/{id}")
    return answer.status_code, answer.get_json()


class TestEnds:
    def test_a_result(self, app):
        future = add.delay(1, right=2)
        assert future.result(DEADLINE) == 3
        assert (future.state, future.attempts, future.name) == ("finished", 1, "add")
        assert future.enqueued_at <= future.started_at <= future.finished_at

    @pytest.mark.parametrize(
        "value",
        [
            None,
            True,
            10**40,
            2.5,
            "a 🍎",
            b"\0\xff",
            (1, (2,)),
            [1, [2]],
            {"a": 1, (1, 2): {3}},
            frozenset({1}),
            datetime(2026, 12, 24, tzinfo=UTC),
            timedelta(1),
            Decimal("1.10"),
        ],
        ids=repr,
    )
    def test_arguments_and_results_keep_their_types(self, app, value):
        (args, kwargs) = echo.delay(value, named=value).result(DEADLINE)
        assert (args, kwargs) == ((value,), {"named": value})
        assert type(args[0]) is type(value)

    def test_the_task_has_a_copy_of_its_arguments(self, app):
        rows = [1, 2]
        future = echo.delay(rows)
        rows.append(3)
        future.result(DEADLINE)
        ((args, _),) = seen
        assert args == ([1, 2],)
        assert args[0] is not rows

    def test_an_error(self, app, caplog):
        future = fail.delay()
        with pytest.raises(LookupError, match="no such row") as caught:
            future.result(DEADLINE)
        assert future.exception() is caught.value
        assert [record.message for record in caplog.records] == [f"task fail ({future.id}) failed"]

    def test_a_result_that_is_not_kept(self, app, caplog):
        future = give.delay("object")
        # This process has it all the same.
        assert type(future.result(DEADLINE)) is object
        assert look(app, future.id)[1]["result_error"].startswith("the result is no JSON: object")
        give.delay("object").result(DEADLINE)
        # Once for a function.
        (record,) = caplog.records
        assert "give" in record.message
        assert "object" in record.message

    def test_a_coroutine(self, app):
        assert add_async.delay(1, 2).result(DEADLINE) == 3

    def test_await(self, app):
        async def main():
            first = add.delay(1)
            return await first, await asyncio.gather(add.delay(2), add_async.delay(3))

        assert asyncio.run(main()) == (2, [3, 4])

    def test_many(self, app):
        assert list(add.map(range(100))) == list(range(1, 101))
        assert list(using(priority=1).map(add, [1, 2], [3, 4])) == [4, 6]
        futures = [add.delay(number) for number in range(50)]
        done, _ = concurrent.futures.wait(futures, DEADLINE)
        assert sorted(future.result() for future in done) == list(range(1, 51))
        assert len(list(concurrent.futures.as_completed(futures, DEADLINE))) == 50

    def test_callbacks_and_signals(self, app, executor):
        heard = []
        executor.add_default_done_callback(lambda future: heard.append("default"))
        signals = {
            task_submitted: "submitted",
            task_started: "started",
            task_succeeded: "succeeded",
            task_failed: "failed",
        }
        receivers = []
        for signal, name in signals.items():

            def receive(sender, future, name=name):
                heard.append(name)

            receivers.append(receive)
            signal.connect(receive, app)
        future = hold.delay("gate")
        future.add_done_callback(lambda future: heard.append(future.result()))
        gate("gate").set()
        executor.drain(DEADLINE)
        assert heard == ["submitted", "started", "succeeded", "default", "gate"]
        heard.clear()
        fail.delay()
        executor.drain(DEADLINE)
        assert heard == ["submitted", "started", "failed", "default"]

    def test_a_task_that_follows(self, app):
        assert add.delay(1).then(add).result(DEADLINE) == 3

    def test_what_the_task_knows_of_itself(self, app):
        future = report.delay()
        assert future.result(DEADLINE) == future.id
        assert future.progress == (2, 4, "half")

    def test_figures(self, app, executor):
        add.delay(1).result(DEADLINE)
        fail.delay().exception(DEADLINE)
        executor.drain(DEADLINE)
        stats = executor.stats()
        assert (stats["done"], stats["failed"]) == (1, 1)
        assert stats["tasks"]["add"]["done"] == 1
        assert stats["journal"]["processes"] == 1
        assert stats["journal"]["bytes"] > 0


class TestAgain:
    def test_retry(self, app):
        future = flaky.using(retry=Retry(3, backoff=0.01)).delay(2)
        assert future.result(DEADLINE) == 3
        assert (seen, future.attempts) == ([1, 2, 3], 3)

    def test_retries_are_used_up(self, app):
        future = flaky.using(retry=Retry(1, backoff=0.01)).delay(5)
        with pytest.raises(ConnectionError, match="attempt 2"):
            future.result(DEADLINE)
        assert seen == [1, 2]

    def test_only_for_its_exceptions(self, app):
        future = flaky.using(retry=Retry(3, backoff=0.01, on=TimeoutError)).delay(2)
        with pytest.raises(ConnectionError, match="attempt 1"):
            future.result(DEADLINE)

    def test_at_its_own_request(self, app):
        assert ask_again.delay().result(DEADLINE) == [1, 2]

    def test_between_two_attempts(self, app):
        future = flaky.using(retry=Retry(3, backoff=60)).delay(2)
        end = time.monotonic() + DEADLINE
        while look(app, future.id)[1]["waits"] != "scheduled" and time.monotonic() < end:
            time.sleep(0.01)
        status, page = look(app, future.id)
        assert (status, page["state"], page["attempts"]) == (200, "pending", 1)
        assert future.cancel()
        assert look(app, future.id)[1]["state"] == "cancelled"


@task(durable=True)
def ask_again():
    seen.append(current_task.attempt)
    if current_task.attempt == 1:
        current_task.retry(after=0.01)
    return list(seen)


class TestTimes:
    @pytest.mark.parametrize("wait", [0.3, 0])
    def test_countdown(self, app, wait):
        begin = time.monotonic()
        assert add.using(countdown=wait).delay(1).result(DEADLINE) == 2
        assert time.monotonic() - begin >= wait

    def test_eta(self, app):
        later = add.using(eta=datetime.now(UTC) + timedelta(hours=1)).delay(1)
        assert later.state == "pending"
        assert look(app, later.id)[1]["waits"] == "scheduled"
        assert later.cancel() is True
        at = datetime.now(UTC) + timedelta(seconds=0.1)
        future = add.using(eta=at).delay(1)
        future.result(DEADLINE)
        assert future.started_at >= at

    def test_an_eta_that_has_passed(self, app):
        assert add.using(eta=datetime(2000, 1, 1, tzinfo=UTC)).delay(1).result(DEADLINE) == 2

    def test_expires(self, make_app):
        app = make_app(DELAY_MAX_WORKERS=1)
        with app.app_context():
            blocker = hold.delay("gate")
            assert gate("gate began").wait(DEADLINE)
            late = add.using(expires=0.2).delay(1)
            in_time = add.using(expires=60).delay(2)
            time.sleep(0.3)
            # It fails when a worker is free for it.
            gate("gate").set()
            with pytest.raises(TaskExpired):
                late.result(DEADLINE)
            assert (blocker.result(DEADLINE), in_time.result(DEADLINE)) == ("gate", 3)
            page = look(app, late.id)[1]
            assert (page["state"], page["error"]["class"]) == ("finished", "TaskExpired")

    def test_timeout(self, app):
        future = sleep.using(timeout=0.2).delay()
        with pytest.raises(TaskTimeout):
            future.result(DEADLINE)
        assert look(app, future.id)[1]["error"]["class"] == "TaskTimeout"


class TestKeys:
    def test_unique(self, app):
        first = hold.using(unique=True).delay("gate")
        assert hold.using(unique=True).delay("gate").id == first.id
        other = hold.using(unique=True).delay("other")
        assert other.id != first.id
        gate("gate").set()
        gate("other").set()
        assert (first.result(DEADLINE), other.result(DEADLINE)) == ("gate", "other")
        # It is over.
        again = hold.using(unique=True).delay("gate")
        assert again.result(DEADLINE) == "gate"
        assert again.id != first.id

    def test_unique_goes_by_all_arguments_however_they_are_given(self, app):
        echo_held = using(unique=True, countdown=60)
        first = echo_held.delay(echo, 1, a=1, b=2)
        assert echo_held.delay(echo, 1, b=2, a=1).id == first.id
        assert echo_held.delay(echo, 1, a=1, b=3).id != first.id
        assert echo_held.delay(echo, [1], a=1, b=2).id != first.id

    def test_unique_with_a_key(self, app):
        held = using(unique=True, key=lambda left, right=1: left, countdown=60)
        first = held.delay(add, 1, 2)
        assert held.delay(add, 1, 3).id == first.id
        assert held.delay(add, 2, 3).id != first.id

    def test_unique_raises(self, app):
        first = hold.using(unique="raise").delay("gate")
        with pytest.raises(
            DuplicateTask, match=f'a task of ".*hold" with the same key.*{first.id}'
        ):
            hold.using(unique="raise").delay("gate")
        gate("gate").set()

    def test_once(self, app):
        first = add.using(once="order-1").delay(1)
        assert first.result(DEADLINE) == 2
        # Also after its end, and whatever its arguments.
        again = using(once="order-1").delay(add, 5)
        assert (again.id, again.result(DEADLINE)) == (first.id, 2)
        assert add.using(once="order-2").delay(5).result(DEADLINE) == 6

    def test_once_is_for_one_function(self, app):
        add.using(once="order-1").delay(1)
        with pytest.raises(
            ValueError, match="the option 'once' is \"order-1\", which belongs to a"
        ):
            fail.using(once="order-1").delay()

    def test_once_and_a_failure(self, app):
        first = fail.using(once="order-1").delay("gone")
        with pytest.raises(LookupError, match="gone"):
            first.result(DEADLINE)
        with pytest.raises(LookupError, match="gone"):
            fail.using(once="order-1").delay("another").result(DEADLINE)

    def test_once_raises(self, app):
        held = using(once="order-1", unique="raise")
        first = held.delay(hold, "gate")
        # Whatever its arguments, while it runs and after its end.
        text = f"a task of \".*hold\" with the same key of 'once' already, done or not: {first.id}"
        with pytest.raises(DuplicateTask, match=text):
            held.delay(hold, "other")
        gate("gate").set()
        assert first.result(DEADLINE) == "gate"
        with pytest.raises(DuplicateTask, match=text):
            held.delay(hold, "gate")
        assert using(once="order-1").delay(hold, "gate").id == first.id
        with pytest.raises(ValueError, match="belongs to a"):
            held.delay(add, 1)

    def test_once_until_it_is_forgotten(self, make_app, wait_until):
        with make_app(DELAY_JOURNAL_KEEP=0.5).app_context() as context:
            first = add.using(once="order-1").delay(1)
            assert first.result(DEADLINE) == 2
            executor = context.app.extensions["delay"].owner
            assert wait_until(lambda: executor.get(first.id) is None)
            again = add.using(once="order-1", unique="raise").delay(5)
            assert (again.id != first.id, again.result(DEADLINE)) == (True, 6)

    def test_an_id(self, app, executor):
        first = add.using(id="order-1").delay(1)
        assert first.id == "order-1"
        assert executor.get("order-1").result(DEADLINE) == 2
        with pytest.raises(DuplicateTask, match="a task with the id .order-1. already"):
            add.using(id="order-1").delay(2)


class TestOrder:
    def test_priority(self, make_app):
        app = make_app(DELAY_MAX_WORKERS=1)
        with app.app_context():
            first = hold.delay("first")
            assert gate("first began").wait(DEADLINE)
            for name in ("low", "middle", "high"):
                gate(name).set()
            futures = [
                hold.using(priority=-10).delay("low"),
                hold.delay("middle"),
                hold.using(priority=10).delay("high"),
            ]
            gate("first").set()
            assert [future.result(DEADLINE) for future in [first, *futures]]
            assert seen == ["first", "high", "middle", "low"]

    def test_as_many_at_once_as_there_are_workers(self, make_app):
        app = make_app(DELAY_MAX_WORKERS=2)
        with app.app_context():
            futures = [hold.delay(str(number)) for number in range(5)]
            assert gate("0 began").wait(DEADLINE)
            assert gate("1 began").wait(DEADLINE)
            states = [look(app, future.id)[1]["state"] for future in futures]
            assert states == ["running"] * 2 + ["pending"] * 3
            assert look(app, futures[4].id)[1]["waits"] == "ready"
            for number in range(5):
                gate(str(number)).set()
            assert [future.result(DEADLINE) for future in futures] == list("01234")


class TestStopped:
    def test_cancel_before_it_begins(self, make_app, app):
        future = add.using(countdown=60).delay(1)
        assert future.cancel()
        assert future.cancelled()
        assert look(app, future.id)[1]["state"] == "cancelled"
        assert add.delay(1).result(DEADLINE) == 2

    def test_cancel_while_it_runs(self, app):
        future = hold.delay("gate")
        assert gate("gate began").wait(DEADLINE)
        assert not future.cancel()
        gate("gate").set()
        assert future.result(DEADLINE) == "gate"

    def test_stop(self, app):
        future = sleep.delay()
        end = time.monotonic() + DEADLINE
        while not future.running() and time.monotonic() < end:
            time.sleep(0.01)
        assert future.stop(after=0)
        with pytest.raises(concurrent.futures.CancelledError):
            future.result(DEADLINE)
        assert look(app, future.id)[1]["state"] == "cancelled"


class TestFound:
    def test_by_its_id(self, app, executor):
        future = hold.delay("gate")
        assert executor.get(future.id) is future
        gate("gate").set()
        future.result(DEADLINE)
        assert executor.get(future.id).result() == "gate"
        assert executor.get("another") is None

    def test_a_future_that_nobody_keeps(self, app, executor):
        id = add.delay(1).id
        assert executor.drain(DEADLINE)
        assert executor.get(id).result(DEADLINE) == 2

    def test_the_page(self, app):
        future = report.delay()
        future.result(DEADLINE)
        assert look(app, future.id) == (
            200,
            {
                "id": future.id,
                "state": "finished",
                "progress": {"done": 2, "total": 4, "note": "half"},
                "error": None,
                "result": future.id,
                "waits": None,
                "attempts": 1,
                "deaths": 0,
            },
        )
        failed = fail.delay()
        failed.exception(DEADLINE)
        page = look(app, failed.id)[1]
        assert page["error"] == {"class": "LookupError", "message": "no such row"}
        assert look(app, "0b8e6f0e-6a5e-4d5a-9f0b-0f5e4c1d2a3b")[0] == 404

    def test_what_was_forgotten(self, make_app, wait_until):
        app = make_app(DELAY_JOURNAL_KEEP=0)
        with app.app_context():
            future = add.delay(1)
            assert future.result(DEADLINE) == 2
            executor = app.extensions["delay"].owner
            assert wait_until(lambda: executor.get(future.id) is None)
            assert look(app, future.id)[0] == 410


class TestRefused:
    @pytest.mark.parametrize(
        ("args", "kwargs", "error", "text"),
        [
            ((object(),), {}, TypeError, "argument 1 of task .*object"),
            ((), {"left": 1, "right": float("nan")}, (TypeError, ValueError), "'right'"),
            (("\ud800",), {}, (TypeError, ValueError), "argument 1"),
            ((b"x" * 2_000_000,), {}, ValueError, "MAX_BYTES"),
            ((1, 2, 3), {}, TypeError, "takes from 1 to 2 positional arguments but 3 were"),
        ],
        ids=["object", "nan", "surrogate", "long", "signature"],
    )
    def test_arguments(self, app, args, kwargs, error, text):
        with pytest.raises(error, match=text):
            add.delay(*args, **kwargs)

    def test_what_ends_with_the_request(self, app):
        from flask import request

        with pytest.raises(TypeError, match="`request` is bound to the caller's context"):
            add.delay(request)

    def test_more_than_may_wait(self, make_app, wait_until):
        app = make_app(DELAY_JOURNAL_WAITING=2, DELAY_MAX_WORKERS=1)
        with app.app_context():
            hold.delay("gate")
            assert gate("gate began").wait(DEADLINE)

            def is_full():
                try:
                    add.delay(1)
                except QueueFull as error:
                    texts.append(str(error))
                return texts

            texts = []
            assert wait_until(is_full)
            assert "JOURNAL_WAITING" in texts[0]
            gate("gate").set()

    def test_after_shutdown(self, app, executor):
        executor.shutdown()
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            add.delay(1)
        assert executor.get("an-id") is None

    def test_a_place_that_is_no_file(self, make_app, tmp_path):
        with pytest.raises((JournalUnavailable, ValueError), match=str(tmp_path)):
            make_app(DELAY_JOURNAL=str(tmp_path))


class TestUnavailable:
    def test_a_submit_that_is_not_accepted(self, make_app, tmp_path):
        app = make_app(DELAY_JOURNAL_TIMEOUT=0.3)
        with app.app_context():
            before = add.delay(1)
            assert before.result(DEADLINE) == 2
            with (tmp_path / "journal/turnstile").open() as file:
                # As another process that was stopped in the middle of a commit.
                fcntl.flock(file, fcntl.LOCK_EX)
                with pytest.raises(
                    JournalUnavailable, match="journal.db: not accepted within 0.3 s"
                ):
                    add.using(id="order-1").delay(1)
            # It can be submitted now.
            assert add.using(id="order-1").delay(2).result(DEADLINE) == 3

    def test_a_state_that_cannot_be_told(self, app, monkeypatch, caplog):
        def row(_self, _id):
            raise JournalUnavailable("the disk is gone")

        monkeypatch.setattr(Store, "row", row)
        status, page = look(app, "0b8e6f0e-6a5e-4d5a-9f0b-0f5e4c1d2a3b")
        assert (status, page["state"]) == (503, "unavailable")
        assert "the disk is gone" not in str(page)
        assert "the disk is gone" in caplog.text

    def test_an_app_whose_journal_is_damaged(self, make_app, tmp_path):
        (tmp_path / "journal.db").write_bytes(b"no database, but something else" * 100)
        with pytest.raises(JournalUnavailable, match=str(tmp_path / "journal.db")):
            make_app()

    def test_an_app_that_must_not_write_there(self, run_script, tmp_path):
        if os.geteuid() != 0:
            pytest.skip("root can be another user")
        folder = tmp_path / "theirs"
        folder.mkdir(0o500)
        done = run_script(
            "import os\n"
            "from flask import Flask\n"
            "from flask_delay import Delay, JournalUnavailable\n"
            f"app = Flask('app', instance_path={str(folder)!r})\n"
            "app.config['DELAY_JOURNAL'] = True\n"
            "os.setegid(65534)\nos.seteuid(65534)\n"
            "try:\n    Delay(app)\n"
            "except (JournalUnavailable, ValueError) as error:\n    print(error)\n",
            flags=(),
        )
        assert done.rc == 0, done.err
        assert str(folder) in done.out


class TestMemory:
    @pytest.mark.parametrize("shut", [False, True], ids=["dropped", "shut down"])
    @pytest.mark.parametrize("use", [False, True], ids=["unused", "used"])
    def test_an_app_that_is_dropped_goes(self, tmp_path, shut, use, wait_until):
        def make():
            app = Flask("dropped", instance_path=str(tmp_path))
            app.config["DELAY_JOURNAL"] = True
            extension = Delay(app)
            if use:
                with app.app_context():
                    assert extension.get(add.delay(1).id).result(DEADLINE) == 2
                    assert extension.drain(DEADLINE)
            if shut:
                extension.shutdown()
            return weakref.ref(app), weakref.ref(app.extensions["delay"].store)

        refs = make()
        assert wait_until(lambda: gc.collect() is not None and not any(ref() for ref in refs))


class TestTesting:
    def test_recorded(self, app):
        with Delayed() as delayed:
            future = add.using(timeout=5).delay(1, right=2)
            future.result(DEADLINE)
        assert delayed == [call(add, 1, right=2)]
        assert delayed.last.options == {"durable": True, "timeout": 5}

    def test_the_leak_check(self, app):
        with LeakCheck() as check:
            hold.delay("gate")
            later = add.using(countdown=60).delay(1)
            assert gate("gate began").wait(DEADLINE)
            left = check.left()
            assert left.startswith(
                "2 tasks are not done 0 s after the test: add (pending), hold (r"
            )
            gate("gate").set()
            assert check.left(DEADLINE) == ""
        assert later.cancelled()

    def test_what_waits_stays(self, make_app):
        first = make_app()
        with first.app_context():
            later = add.using(countdown=1).delay(1)
            first.extensions["delay"].shutdown(True, cancel_futures=False)
        second = make_app()
        with second.app_context():
            assert second.extensions["delay"].get(later.id).result(DEADLINE) == 2


def test_by_default(make_app):
    app = make_app(DELAY_DURABLE=True)
    with app.app_context():
        future = delay(plain, 1)
        assert look(app, future.id)[1]["deaths"] == 0
        assert future.result(DEADLINE) == 1


@task
def plain(value):
    return value


def test_a_function_that_is_decorated_while_the_process_begins_to_claim_is_run(
    make_app, monkeypatch
):
    """By another thread, after the names were read: a module that the app does not wait for."""
    read = Functions.names

    def late(number):
        return number

    late.__qualname__ = "late"
    made = []

    def names(self):
        found = read(self)
        monkeypatch.setattr(Functions, "names", read)
        made.append(task(durable=True)(late))
        return found

    monkeypatch.setattr(Functions, "names", names)
    app = make_app()
    with app.app_context():
        assert add.delay(1).result(DEADLINE) == 2
        assert made[0].delay(3).result(DEADLINE) == 3
