"""What a task in a Celery worker is to who submits it."""

import json
import os
import sys
import threading
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery.exceptions import NotRegistered
from celery.result import AsyncResult
from flask import Flask, current_app, has_request_context
from tests.celery import work
from tests.celery.conftest import DEADLINE, Redis, Worker, entered, let_go

from flask_delay import (
    Delay,
    DuplicateTask,
    RemoteError,
    Retry,
    TaskExpired,
    TaskTimeout,
    delay,
    task_cancelled,
    task_failed,
    task_submitted,
    task_succeeded,
    using,
)
from flask_delay.backends.celery import celery_app, check
from flask_delay.backends.message import TaskMessage

pytestmark = pytest.mark.servers


def args_of(future):
    return future.exception(DEADLINE).args


def progress_of(future):
    return list(future.progress)


def ended(future):
    """The future, when its callbacks have run."""
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    assert done.wait(DEADLINE), future
    return future


def test_a_task_is_celerys(app: Flask):
    future = work.add.delay(1, b=2)
    assert future.result(DEADLINE) == 3
    assert (future.name, future.state, future.attempts) == ("add", "finished", 1)
    times: Any = [future.enqueued_at, future.started_at, future.finished_at]
    assert times == sorted(times)
    result = AsyncResult(future.id, app=celery_app(app))
    assert (result.state, result.result) == ("SUCCESS", 3)
    assert app.extensions["delay"].executor._get(future.id) is future


def test_it_runs_in_a_context_of_its_own(app: Flask, worker: Worker):
    seen = [ended(work.look.delay()).result() for _ in range(3)]
    for look in seen:
        assert look | {"pid": 0, "id": 0} == {
            "app": "site",
            "pid": 0,
            "request": False,
            "seen": False,
            "id": 0,
            "attempt": 1,
            "name": "look",
        }
    id = seen[-1]["id"]
    assert str(uuid.UUID(id)) == id
    worker.wait_for(f"succeeded {id} site")
    of_task = worker.output.partition(f"started {id}")[2].partition(f"succeeded {id}")[0]
    assert of_task.count("teardown NoneType") == 1


def test_callbacks_run_here_in_the_app_without_a_request(app: Flask):
    called = threading.Event()
    seen = []

    def report(future):
        seen.append((future, current_app.name, has_request_context()))
        seen.append(threading.current_thread().name)
        called.set()

    with app.test_request_context():
        future = work.add.delay(1)
        future.add_done_callback(report)
        assert called.wait(DEADLINE)
    assert seen[0] == (future, "site", False)


def test_default_callbacks_and_signals(app: Flask):
    told = []
    order = threading.Event()
    delay_: Delay = app.extensions["delay"].owner

    @delay_.add_default_done_callback
    def default(future):
        told.append(("default", future.id))
        order.set()

    def listener(name):
        def tell(app, future):
            told.append((name, future.id))

        return tell

    listeners = {
        signal: listener(signal.name)
        for signal in (task_submitted, task_succeeded, task_failed, task_cancelled)
    }
    for signal, tell in listeners.items():
        signal.connect(tell, app)
    first = work.add.delay(1)
    assert order.wait(DEADLINE)
    order.clear()
    second = work.fail.delay("no")
    assert order.wait(DEADLINE)
    assert told == [
        ("task-submitted", first.id),
        ("task-succeeded", first.id),
        ("default", first.id),
        ("task-submitted", second.id),
        ("task-failed", second.id),
        ("default", second.id),
    ]


def test_what_follows_a_task_runs_here(app: Flask):
    here = work.look.delay().then(lambda seen: (seen["pid"], os.getpid()))
    there, pid = here.result(DEADLINE)
    assert pid == os.getpid() != there
    with pytest.raises(ValueError, match="the option 'backend' is 'celery', but nobody there"):
        delay(int).then(work.add)


def test_a_failure_has_the_workers_traceback(app: Flask, worker: Worker):
    future = work.fail.delay("no such row")
    exception = future.exception(DEADLINE)
    assert type(exception) is LookupError
    assert exception.args == ("no such row",)
    assert "raise LookupError(text)" in exception.__notes__[0]
    worker.wait_for(f"task fail ({future.id}) failed")
    worker.wait_for(f"failed {future.id} LookupError('no such row')")


def test_system_exit_ends_the_task_alone(app: Flask):
    exception = work.leave.delay().exception(DEADLINE)
    assert str(exception) == "task 'leave' raised SystemExit(3)"
    assert work.add.delay(1).result(DEADLINE) == 1


def test_a_coroutine(app: Flask):
    assert work.later.delay([1, {"a": None}]).result(DEADLINE) == [1, {"a": None}]


def test_many_at_once(app: Flask):
    futures = [work.add.delay(number) for number in range(200)]
    assert [future.result(DEADLINE) for future in futures] == list(range(200))
    wire = next(iter(app.extensions["delay"].backend("celery")._wires.values()))
    assert not wire._pending
    names = [thread.name for thread in threading.enumerate()]
    assert names.count("delay-celery") == 1


def test_retries_are_celerys(app: Flask, worker: Worker):
    future = work.flaky.delay(2)
    assert future.result(DEADLINE) == 3
    worker.wait_for(f"task flaky ({future.id}) failed and runs again in 0.400 s")
    assert future.attempts == 3
    future = work.flaky.using(retry=Retry(3, backoff=0.01)).delay(9)
    assert args_of(future) == ("attempt 4",)
    assert worker.output.count(f"failed {future.id} IndexError") == 1
    no_retry = work.flaky.using(retry=0).delay(1)
    assert args_of(no_retry) == ("attempt 1",)


def test_a_task_asks_to_run_again(app: Flask):
    future = work.ask_again.delay()
    assert future.result(DEADLINE) == 2
    used_up = work.ask_again.using(retry=0).delay()
    assert "0 retries are used up" in str(used_up.exception(DEADLINE))


def test_timeout(app: Flask):
    exception = work.too_long.delay().exception(DEADLINE)
    assert type(exception) is TaskTimeout
    assert str(exception) == 'task "too_long" took longer than its timeout of 0.2 s'


def test_timeout_of_a_coroutine(app: Flask, worker: Worker):
    """It is told, logged and retried as that of a function."""
    future = work.too_late.using(retry=Retry(1, backoff=0.01)).delay()
    exception = future.exception(DEADLINE)
    assert type(exception) is TaskTimeout
    assert str(exception) == 'task "too_late" took longer than its timeout of 0.2 s'
    assert future.attempts == 2
    worker.wait_for(f"task too_late ({future.id}) failed and runs again")
    worker.wait_for(f"failed {future.id} SoftTimeLimitExceeded")


def test_a_workers_own_time_limit(make_site, own_redis, start_worker):
    start_worker(own_redis.url, "-c", "1", "--soft-time-limit", "0.3")
    with make_site(own_redis.url).app_context():
        exception = work.sleep.delay(DEADLINE).exception(DEADLINE)
        assert type(exception) is TaskTimeout
        told = 'task "sleep" took longer than the soft time limit of its worker'
        assert str(exception) == told


def test_progress(app: Flask, shared_redis: Redis):
    future = work.meet.delay(shared_redis.url, "progress")
    entered(shared_redis.url, "progress")
    let_go(shared_redis.url, "progress")
    future.result(DEADLINE)
    assert progress_of(future) == [1, 2, "waiting"]
    future = work.count.delay(1000)
    assert future.result(DEADLINE) == 1000
    assert progress_of(future) == [1000, 1000, "row 1000"]


def test_states(app: Flask, shared_redis: Redis, wait_until):
    future = work.meet.using(countdown=0.5).delay(shared_redis.url, "states")
    assert future.state == "pending"
    assert not future.done()
    entered(shared_redis.url, "states")
    assert wait_until(future.running)
    assert not future.cancel()
    let_go(shared_redis.url, "states")
    future.result(DEADLINE)
    times: Any = (future.enqueued_at, future.started_at)
    assert (times[1] - times[0]).total_seconds() >= 0.5


def test_cancel_is_a_revoke(app: Flask, worker: Worker, tmp_path):
    path = tmp_path / "written"
    future = work.write.using(countdown=0.5).delay(str(path), "x")
    assert future.cancel()
    assert future.cancelled()
    other = work.write.using(countdown=0.6).delay(str(path), "y")
    other.result(DEADLINE)
    assert path.read_text() == "y"
    assert AsyncResult(future.id, app=celery_app(app)).get(propagate=False).__class__.__name__ == (
        "TaskRevokedError"
    )


def test_stop_ends_what_runs(app: Flask, worker: Worker, shared_redis: Redis):
    future = work.meet.delay(shared_redis.url, "stop")
    entered(shared_redis.url, "stop")
    assert future.stop()
    assert future.cancelled()
    worker.wait_for(f"task meet ({future.id}) was stopped")
    assert not future.stop()
    assert work.add.delay(1).result(DEADLINE) == 1


def test_eta_and_expires(app: Flask, shared_redis: Redis):
    at = datetime.now(UTC) + timedelta(seconds=0.3)
    future = work.add.using(eta=at).delay(1)
    future.result(DEADLINE)
    assert future.started_at is not None
    assert future.started_at >= at
    late = work.add.using(countdown=0.4, expires=10).delay(1)
    assert late.result(DEADLINE) == 1
    at = datetime.now(UTC) + timedelta(seconds=0.5)
    expired = work.add.using(eta=at, expires=0.2).delay(1)
    with pytest.raises(TaskExpired, match="'add' was not started before it expired"):
        expired.result(DEADLINE)


def test_priority(make_site, own_redis: Redis):
    """Of Redis's four levels the first is the default's."""
    app = make_site(own_redis.url)
    client, _ = work.gate(own_redis.url, "")
    with app.app_context():
        for priority in (0, -1, -3, -9):
            work.add.using(priority=priority).delay(1)
    levels = {key.decode(): client.llen(key) for key in client.keys("celery*")}
    assert levels == {"celery": 2, "celery\x06\x163": 1, "celery\x06\x169": 1}


def test_what_is_no_task_is_refused(app: Flask):
    def local():
        pass

    celery = using(backend="celery")
    with pytest.raises(TypeError, match=r"do not know .*local.* it has no @task\(backend="):
        celery.delay(local)
    with pytest.raises(TypeError, match="it is a method"):
        work.Thing().method.delay()
    for task, *args in ((work.plain, 1), (work.for_threads,)):
        with pytest.raises(TypeError, match="it is not meant for them; decorate a function"):
            celery.delay(task, *args)
    assert celery.delay(work.echo, 5).result(DEADLINE) == 5


def test_a_forged_message_calls_nothing_else(app: Flask):
    """Not what is meant for threads, nor a method."""
    celery = celery_app(app)
    for name in ("for_threads", "Thing.method"):
        result = celery.send_task(f"tests.celery.work.{name}")
        with pytest.raises(NotRegistered):
            result.get(timeout=DEADLINE)


def test_a_forged_message_imports_nothing(app: Flask):
    celery = celery_app(app)
    retry = {"times": 0, "on": ["antigravity:x", "this:x", "flask_delay:x"], "unless": []}
    forged = {"flask_delay": {"retry": retry}}
    result = celery.send_task("tests.celery.work.fail", ("no",), headers=forged)
    with pytest.raises(LookupError):
        result.get(timeout=DEADLINE)
    for name in ("antigravity", "this"):
        # By one of the two processes; each of them, with luck.
        assert [work.is_imported.delay(name).result(DEADLINE) for _ in range(4)] == [False] * 4


def test_arguments_are_json(app: Flask):
    with pytest.raises(TypeError, match=r"of task 'tests\.celery\.work\.add' .*: args\[1\] is of"):
        work.add.delay(1, object())
    with pytest.raises(TypeError, match=r"kwargs\['b'\] .*JSON cannot carry"):
        work.add.delay(1, b={1, 2}.__iter__())
    with pytest.raises(TypeError, match="the upload"):
        from werkzeug.datastructures import FileStorage

        work.add.delay(FileStorage(filename="a.txt"))
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    assert work.echo.delay(moment).result(DEADLINE) == moment


def test_what_json_would_change_is_refused(app: Flask):
    with pytest.raises(TypeError, match=r"args\[0\] has the key 1, which is of type int"):
        work.echo.delay({1: "a", "1": "b"})
    # A tuple is a list, and no news.
    assert work.echo.delay((1, {"a": (2,)})).result(DEADLINE) == [1, {"a": [2]}]


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("object", r"result is of type object, and JSON cannot carry it"),
        ("key", r"result\['rows'\]\[0\] has the key 1, which is of type int"),
        ("enum", r"result is of type signal\.Signals, and would arrive as one of type int"),
    ],
)
def test_a_result_that_json_would_change(app: Flask, worker: Worker, kind: str, told: str):
    future = work.not_json.delay(kind)
    with pytest.raises(TypeError, match=told):
        future.result(DEADLINE)
    # No further attempt could mend it.
    assert future.attempts == 1
    worker.wait_for(f"failed {future.id} TypeError")


def test_a_coroutines_result_that_json_would_change(app: Flask):
    with pytest.raises(TypeError, match="has run, but its result cannot be sent: result is of"):
        work.not_json_later.delay().result(DEADLINE)


def failure(kind: str) -> Any:
    return work.fail_with.delay(kind).exception(DEADLINE)


def test_exceptions_arrive_as_they_are(app: Flask):
    with pytest.raises(json.JSONDecodeError) as decoding:
        json.loads('{"a": ')
    error = failure("json")
    assert type(error) is json.JSONDecodeError
    assert (str(error), error.doc, error.pos) == (str(decoding.value), '{"a": ', 6)
    error = failure("own")
    assert type(error) is work.OutOfStock
    assert (str(error), error.args) == ("shop has only 2", ("shop has only 2",))
    # Not the lock, which JSON does not have.
    assert vars(error).keys() - {"__notes__"} == {"shop", "left"}
    assert (error.shop, error.left) == ("shop", 2)
    error = failure("nested")
    assert type(error) is work.Shelf.Empty
    assert error.args == (3, "left")
    error = failure("file")
    assert type(error) is FileNotFoundError
    assert (error.errno, error.filename) == (2, "/nowhere/to/be/found")
    assert str(error) == "[Errno 2] No such file or directory: '/nowhere/to/be/found'"
    error = failure("decode")
    assert type(error) is UnicodeDecodeError
    assert (error.object, error.start) == (b"\xff", 0)
    # What cannot be carried is told.
    error = failure("lock")
    assert type(error) is LookupError
    assert str(error).startswith("<unlocked _thread.lock object at ")


def test_an_exception_of_a_class_that_is_not_here(app: Flask):
    error = failure("elsewhere")
    assert type(error) is RemoteError
    kind = "tests.celery.only_there.Odd"
    assert (error.kind, str(error)) == (kind, f"{kind}: how odd")
    assert "tests.celery.only_there" not in sys.modules
    assert "how odd" in error.__notes__[0]
    error = failure("group")
    assert type(error) is RemoteError
    assert error.kind == "builtins.ExceptionGroup"


def test_what_celery_cannot_do_is_refused_where_it_is_said():
    for options in ({"limit": 1}, {"rate": "1/s"}, {"unique": True}, {"request": True}):
        name = next(iter(options))
        with pytest.raises(ValueError, match=f"the option '{name}' is not for this backend"):
            using(backend="celery", **options)
    using(backend="celery", unique=False, request=False)
    with pytest.raises(ValueError, match="must be between -9 and 0"):
        using(backend="celery", priority=1)

    class Local(Exception):
        pass

    with pytest.raises(ValueError, match="cannot be imported by a worker"):
        using(backend="celery", retry=Retry(on=Local))


def test_the_backend_of_an_app(make_site, shared_redis: Redis, worker: Worker):
    app = Flask("site", static_folder=None)
    app.config.update(
        DELAY_BACKEND="celery", DELAY_CELERY_BROKER_URL=shared_redis.url, DELAY_CELERY_APP=None
    )
    executor = Delay(app)
    with app.app_context():
        assert work.plain.delay(7).result(DEADLINE) == 7
        assert delay(work.plain, 8).result(DEADLINE) == 8
        with pytest.raises(ValueError, match="the option 'limit' is not for this backend"):
            work.plain.using(limit=1).delay(1)
        # The threads are still there for those who ask.
        assert work.plain.using(backend="threads").delay(object).result(DEADLINE) is object
        future = work.add.using(countdown=60).delay(1)
        executor.shutdown(cancel_futures=True)
        assert future.cancelled()
        with pytest.raises(RuntimeError, match="after shutdown"):
            work.plain.delay(1)


def test_celerys_own_callers(app: Flask):
    """Whoever knows the task's name may call it, with an id of any kind."""
    result = celery_app(app).send_task("tests.celery.work.look", task_id="mine")
    assert result.get(DEADLINE)["attempt"] == 1


def test_check(app: Flask):
    problems, workers = check(app) or ([], 0)
    assert (problems, workers) == ([], 1)


def test_settings(tmp_path):
    def make(**settings):
        app = Flask("site", static_folder=None)
        app.config.update(DELAY_BACKEND="celery", **settings)
        Delay(app)
        return celery_app(app)

    with pytest.raises(ValueError, match="set DELAY_CELERY_APP to .* or DELAY_CELERY_BROKER_URL"):
        make()
    with pytest.raises(ValueError, match="does not tell when they come"):
        make(CELERY_BROKER_URL="redis://localhost:1/0", CELERY_RESULT_BACKEND="file:///tmp")
    with pytest.raises(ValueError, match="DELAY_CELERY_APP is 'a.b', but must be"):
        make(DELAY_CELERY_APP="a.b")
    with pytest.raises(ValueError, match="there is no Celery app: found None"):
        make(DELAY_CELERY_APP="tests.celery.work:celery")
    made = make(
        DELAY_CELERY_BROKER_URL="redis://localhost:1/0",
        CELERY_TASK_DEFAULT_QUEUE="mine",
        CELERY={"timezone": "Europe/Berlin"},
    )
    assert made.conf.broker_url == made.conf.result_backend == "redis://localhost:1/0"
    assert (made.conf.task_default_queue, made.conf.timezone) == ("mine", "Europe/Berlin")


@pytest.mark.parametrize("id", ["order 7", str(uuid.uuid4())])
def test_an_id_of_ones_own(app: Flask, worker: Worker, id: str):
    # Results are kept under it, so that it has to be a new one.
    id = f"{id}-{uuid.uuid4()}"
    future = work.look.using(id=id).delay()
    extension = app.extensions["delay"].owner
    assert extension.get(id) is future
    assert future.result(DEADLINE)["id"] == id
    with pytest.raises(DuplicateTask):
        work.look.using(id=id).delay()
    with pytest.raises(DuplicateTask):
        using(id=id, backend="threads").delay(int)


def test_arguments_are_looked_at(app: Flask):
    with pytest.raises(TypeError, match=r"add\(\) got an unexpected keyword argument 'c'"):
        work.add.delay(1, c=2)


def test_waits_go_with_the_message(app: Flask):
    for retry in (Retry(waits=[1, 5], jitter=False), Retry(None)):
        sent = TaskMessage.of("1", "shop.f", (), {}, options={"retry": retry}, app=app)
        arrived = TaskMessage.from_dict(json.loads(json.dumps(sent.to_dict())))
        found = arrived.retry_for(ValueError(), app)
        assert found is not None
        assert (found.times, found.waits, found.jitter) == (retry.times, retry.waits, retry.jitter)
