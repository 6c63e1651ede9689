"""What a task in a Celery worker is to who submits it."""

import json
import os
import sys
import threading
from datetime import UTC, datetime
from typing import Any

import pytest
from celery.exceptions import NotRegistered
from celery.result import AsyncResult
from flask import Flask
from tests.celery import work
from tests.celery.harness import DEADLINE, Redis, Worker, entered

from flask_delay import (
    Delay,
    RemoteError,
    Retry,
    TaskTimeout,
    delay,
    using,
)
from flask_delay.backends.celery import celery_app, check
from flask_delay.backends.message import TaskMessage

pytestmark = pytest.mark.servers


def test_a_task_is_celerys(app: Flask):
    future = work.add.delay(1, b=2)
    assert future.result(DEADLINE) == 3
    result = AsyncResult(future.id, app=celery_app(app))
    assert (result.state, result.result) == ("SUCCESS", 3)


def test_signals_and_teardown_in_the_worker(app: Flask, worker: Worker):
    done, failed = work.look.delay(), work.flaky.using(retry=Retry(1, backoff=0.01)).delay(9)
    late = work.too_late.delay()
    worker.wait_for(f"succeeded {done.id} site")
    worker.wait_for(f"failed {failed.id} IndexError('attempt 2')")
    worker.wait_for(f"failed {late.id} SoftTimeLimitExceeded")
    assert worker.output.count(f"failed {failed.id}") == 1
    of_task = worker.output.partition(f"started {done.id}")[2].partition(f"succeeded {done.id}")[0]
    assert of_task.count("teardown NoneType") == 1


def test_what_follows_a_task_runs_here(app: Flask):
    here = work.look.delay().then(lambda seen: (seen["pid"], os.getpid()))
    there, pid = here.result(DEADLINE)
    assert pid == os.getpid() != there
    with pytest.raises(ValueError, match="the option 'backend' is 'celery', but nobody there"):
        delay(int).then(work.add)


def test_many_at_once(app: Flask):
    futures = [work.add.delay(number) for number in range(20)]
    assert [future.result(DEADLINE) for future in futures] == list(range(20))
    client = next(iter(app.extensions["delay"].backend("celery")._clients.values()))
    assert not client._pending
    names = [thread.name for thread in threading.enumerate()]
    assert names.count("delay-celery") == 1


def test_a_workers_own_time_limit(make_site, own_redis, start_worker):
    start_worker(own_redis.url, "-c", "1", "--soft-time-limit", "0.3")
    with make_site(own_redis.url).app_context():
        exception = work.sleep.delay(DEADLINE).exception(DEADLINE)
        assert type(exception) is TaskTimeout
        told = 'task "sleep" took longer than the soft time limit of its worker'
        assert str(exception) == told


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


def test_priority(make_site, own_redis: Redis):
    """Of Redis's four levels the first is the default's."""
    app = make_site(own_redis.url)
    client, _ = work.gate(own_redis.url, "")
    with app.app_context():
        for priority in (0, -1, -3, -9):
            work.add.using(priority=priority).delay(1)
    queues = [key for key in client.keys("celery*") if client.type(key) == b"list"]
    levels = {key.decode(): client.llen(key) for key in queues}
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


def test_waits_go_with_the_message(app: Flask):
    for retry in (Retry(waits=[1, 5], jitter=False), Retry(None)):
        sent = TaskMessage.of("1", "shop.f", (), {}, options={"retry": retry}, main=app.name)
        arrived = TaskMessage.from_dict(json.loads(json.dumps(sent.to_dict())))
        found = arrived.retry_for(ValueError(), app.name)
        assert found is not None
        assert (found.times, found.waits, found.jitter) == (retry.times, retry.waits, retry.jitter)
