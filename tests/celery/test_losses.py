"""What is lost, and what is not, when a broker or a worker is."""

import os
import signal
import time

import pytest
from tests.celery import work
from tests.celery.harness import DEADLINE, ROOT, entered, let_go

from flask_delay import BrokerUnavailable, ProcessDied, TaskExpired
from flask_delay.backends.celery import buffer, results

pytestmark = pytest.mark.servers


def test_a_broker_that_is_not_there(make_site, own_redis):
    own_redis.kill()
    app = make_site(own_redis.url)
    with app.app_context():
        begin = time.monotonic()
        with pytest.raises(BrokerUnavailable, match=r"task 'tests\.celery\.work\.add' was not acc"):
            work.add.delay(1)
        assert time.monotonic() - begin < 2.0
        with pytest.raises(ConnectionError):
            work.add.delay(1)


def test_a_broker_that_does_not_answer(make_site, own_redis):
    app = make_site(own_redis.url)
    with app.app_context():
        work.add.delay(1)
        os.kill(own_redis.pid, signal.SIGSTOP)
        begin = time.monotonic()
        with pytest.raises(BrokerUnavailable):
            work.add.delay(1)
        assert time.monotonic() - begin < 4.0
        os.kill(own_redis.pid, signal.SIGCONT)


def test_tasks_wait_for_the_broker(make_site, own_redis, start_worker, tmp_path, caplog):
    app = make_site(own_redis.url, DELAY_CELERY_WHEN_DOWN="buffer")
    own_redis.kill()
    path = tmp_path / "written"
    with app.app_context():
        futures = [work.write.delay(str(path), text) for text in "abc"]
        assert futures[1].cancel()
        assert [future.state for future in futures] == ["pending", "cancelled", "pending"]
        own_redis.start()
        start_worker(own_redis.url, "-c", "1")
        futures.append(work.write.delay(str(path), "d"))
        for future in (futures[0], *futures[2:]):
            future.result(DEADLINE)
    assert path.read_text() == "acd"
    assert caplog.text.count("tasks are kept in memory") == 1


def test_what_waits_for_the_broker_is_bounded(make_site, own_redis, monkeypatch, caplog):
    monkeypatch.setattr(buffer, "SIZE", 2)
    app = make_site(own_redis.url, DELAY_CELERY_WHEN_DOWN="buffer")
    own_redis.kill()
    with app.app_context():
        work.add.delay(1)
        work.add.delay(2)
        with pytest.raises(BrokerUnavailable):
            work.add.delay(3)
        app.extensions["delay"].shutdown(True, cancel_futures=False)
    assert "did not come back: tests.celery.work.add, tests.celery.work.add" in caplog.text


def test_exit_with_tasks_that_wait_for_the_broker(run_script, own_redis):
    own_redis.kill()
    code = SCRIPT.replace("site.make(sys.argv[1])", BUFFERED) + "print(future.state)"
    begin = time.monotonic()
    done = run_script(code, own_redis.url, env={"PYTHONPATH": str(ROOT)})
    assert (done.rc, done.out) == (0, "pending\n")
    assert "lost, since the broker did not come back: tests.celery.work.add\n" in done.err
    assert time.monotonic() - begin < DEADLINE


def test_a_broker_apart_from_its_results(make_site, own_redis, shared_redis):
    app = make_site(own_redis.url, CELERY_RESULT_BACKEND=shared_redis.url)
    with app.app_context():
        future = work.add.delay(1)
        own_redis.kill()
        for _ in range(2):
            begin = time.monotonic()
            with pytest.raises(BrokerUnavailable, match=f"the broker redis://.*{own_redis.port}"):
                work.add.delay(1)
            assert time.monotonic() - begin < 2.0
        own_redis.start()
        # Of those that were refused nobody waits for a result.
        client = next(iter(app.extensions["delay"].backend("celery")._clients.values()))
        assert [handle.future for handle in client._pending.values()] == [future]
        work.add.delay(2)


@pytest.mark.servers
def test_a_broker_that_comes_back(make_site, own_redis, start_worker, tmp_path, caplog):
    for end in ("in", "out"):
        os.mkfifo(tmp_path / f"pipe-{end}")
    app = make_site(own_redis.url)
    worker = start_worker(own_redis.url, "-c", "1")
    with app.app_context():
        running = work.meet_at.delay(str(tmp_path / "pipe"))
        assert (tmp_path / "pipe-in").read_text() == "here"
        queued, withdrawn = work.add.delay(1), work.add.delay(2)
        own_redis.kill()
        with pytest.raises(BrokerUnavailable):
            work.add.delay(2)
        # The worker cannot be told now, which is said and does not hang.
        begin = time.monotonic()
        assert withdrawn.cancel()
        assert time.monotonic() - begin < 2.0
        assert "so it may run all the same" in caplog.text
        own_redis.start()
        (tmp_path / "pipe-out").write_text("the first")
        assert running.result(DEADLINE) == "the first"
        # If its message could not be answered, which depends on when the worker notices, it comes
        # once more: then nothing keeps it.
        (tmp_path / "pipe-out").unlink()
        (tmp_path / "pipe-out").write_text("the second")
        reader = os.open(tmp_path / "pipe-in", os.O_RDONLY | os.O_NONBLOCK)
        assert queued.result(DEADLINE) == 1
        assert running.result() == "the first"
        assert work.add.delay(3).result(DEADLINE) == 3
    assert worker.stop() == 0
    os.close(reader)


@pytest.mark.servers
def test_a_worker_that_is_killed(make_site, own_redis, start_worker):
    app = make_site(own_redis.url)
    first = start_worker(own_redis.url, "-c", "1")
    with app.app_context():
        future = work.meet.delay(own_redis.url, "worker")
        pid = entered(own_redis.url, "worker")
        first.kill()
        with pytest.raises(TimeoutError):
            # Its message is taken back when it has been out for `visibility_timeout`.
            future.result(1.1)
        start_worker(own_redis.url, "-c", "1")
        assert entered(own_redis.url, "worker") != pid
        let_go(own_redis.url, "worker")
        assert future.result(DEADLINE) != pid


@pytest.mark.servers
def test_a_child_that_is_killed(app, tmp_path):
    future = work.die_once.delay(str(tmp_path / "died"))
    assert future.result(DEADLINE) == "survived"
    assert work.add.delay(1).result(DEADLINE) == 1


def test_a_task_that_kills_its_worker_each_time(app, tmp_path):
    """Its message is not run forever."""
    future = work.die_always.delay(str(tmp_path / "died"))
    with pytest.raises(ProcessDied, match="is not run any more: its worker was lost the last 6"):
        future.result(2 * DEADLINE)
    assert (tmp_path / "died").read_text() == "x" * 6
    assert work.add.delay(1).result(DEADLINE) == 1


def test_a_lost_message_of_a_task_that_expires(make_site, own_redis, monkeypatch):
    monkeypatch.setattr(results, "GRACE", 0.1)
    app = make_site(own_redis.url)
    with app.app_context():
        lost = work.add.using(expires=0.2).delay(1)
        kept = work.add.delay(1)
        broker, _ = work.gate(own_redis.url, "")
        broker.delete("celery")
        with pytest.raises(TaskExpired, match="'add' was not started before it expired"):
            lost.result(DEADLINE)
        assert kept.state == "pending"


BUFFERED = 'site.make(sys.argv[1], DELAY_CELERY_WHEN_DOWN="buffer")'
SCRIPT = """
import os, sys
from tests.celery import site, work

app = site.make(sys.argv[1])
app.app_context().push()
future = work.add.using(countdown=60).delay(1)
"""


def test_exit_does_not_wait_for_the_broker(run_script, own_redis, worker, shared_redis):
    code = SCRIPT + "print(future.state)"
    begin = time.monotonic()
    done = run_script(code, own_redis.url, env={"PYTHONPATH": str(ROOT)})
    assert (done.rc, done.out, done.err) == (0, "pending\n", "")
    assert time.monotonic() - begin < DEADLINE


def test_exit_without_a_broker(run_script, own_redis):
    code = SCRIPT + "import signal; os.kill(int(sys.argv[2]), signal.SIGKILL)"
    done = run_script(code, own_redis.url, str(own_redis.pid), env={"PYTHONPATH": str(ROOT)})
    assert done.rc == 0


def test_who_waits_is_not_forgotten(make_site, own_redis, start_worker):
    """A future whose result came while its process could not hear of it."""
    app = make_site(own_redis.url)
    with app.app_context():
        future = work.add.delay(1)
        other = work.add.delay(2)
        # The listener's connection is cut, and the results come before it is back.
        broker, _ = work.gate(own_redis.url, "")
        broker.client_kill_filter(_type="pubsub")
        start_worker(own_redis.url, "-c", "1")
        assert (future.result(DEADLINE), other.result(DEADLINE)) == (1, 2)
