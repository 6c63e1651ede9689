"""Durable tasks whose processes all die, or end: the next one goes on with everything."""

import signal
import time

import pytest
from tests.journal.conftest import Raised

MORE = """
import datetime


@task(durable=True)
async def add_async(left):
    note("add")
    await asyncio.sleep(0.01)
    return left + 1


@task(durable=True)
def ask_again():
    note("asks", attempt=current_task.attempt)
    if current_task.attempt == 1:
        current_task.retry(0.5)
    return current_task.attempt, os.getpid()
"""


@pytest.fixture
def start(start):
    return lambda more="", **config: start(MORE + more, **config)


class TestOptions:
    """Each of them is stored with the task."""

    def test_a_retry_that_the_task_asked_for(self, start, wait_until):
        one = start()
        id = one("ask_again.delay().id")
        assert wait_until(lambda: one(f"look({id!r})['waits']") == "scheduled")
        one.kill()
        two = start()
        assert two(f"executor.get({id!r}).result(20)") == (2, two.pid)

    def test_eta(self, start):
        one = start()
        one("at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=1.5)")
        id, at = one("add.using(eta=at).delay(1).id, at.isoformat()")
        one.kill()
        two = start()
        assert two(f"executor.get({id!r}).result(20)") == 2
        assert two(f"executor.get({id!r}).started_at.isoformat()") >= at

    def test_expires(self, start, notes, wait_until, tmp_path):
        one = start(DELAY_MAX_WORKERS=1)
        blocker, late, in_time = one(
            "wait_for.delay('go').id, add.using(expires=0.5).delay(1).id,"
            " add.using(expires=60).delay(2).id"
        )
        assert wait_until(notes)
        one.kill()
        one_ended = time.monotonic()
        (tmp_path / "go").touch()
        assert wait_until(lambda: time.monotonic() > one_ended + 0.5)
        two = start(DELAY_MAX_WORKERS=1)
        assert two(f"executor.get({blocker!r}).result(20)") == two.pid
        with pytest.raises(Raised, match="^TaskExpired: "):
            two(f"executor.get({late!r}).result(20)")
        assert two(f"executor.get({in_time!r}).result(20)") == 3
        assert [it["id"] for it in notes() if it["what"] == "add"] == [in_time]

    def test_unique(self, start):
        one = start()
        id = one("add.using(unique=True, countdown=60).delay(1).id")
        one.kill()
        two = start()
        assert two("add.using(unique=True, countdown=60).delay(1).id") == id
        with pytest.raises(Raised, match=f"^DuplicateTask: .*{id}"):
            two("add.using(unique='raise').delay(1)")
        assert two("add.using(unique=True).delay(2).result(20)") == 3

    def test_once(self, start):
        one = start()
        waits, done = one(
            "add.using(once='waits', countdown=60).delay(1).id, add.using(once='done').delay(2).id"
        )
        assert one(f"executor.get({done!r}).result(20)") == 3
        one.kill()
        two = start()
        assert two("add.using(once='waits').delay(1).id") == waits
        assert two("(lambda it: (it.id, it.result(20)))(add.using(once='done').delay(9))") == (
            done,
            3,
        )

    def test_priority(self, start, notes):
        one = start()
        ids = one(
            "[add.using(priority=it, countdown=0.3).delay(it).id for it in (-10, 0, 10)]"
            # All of them are ready when the next process comes.
        )
        one.kill()
        time.sleep(0.5)
        two = start(DELAY_MAX_WORKERS=1)
        assert two(f"[executor.get(id).result(20) for id in {ids!r}]") == [-9, 1, 11]
        assert [it["id"] for it in notes()] == ids[::-1]

    def test_a_coroutine(self, start, notes):
        one = start()
        id = one("add_async.using(countdown=0.5).delay(1).id")
        one.kill()
        two = start()
        assert two(f"executor.get({id!r}).result(20)") == 2
        assert [it["pid"] for it in notes()] == [two.pid]


@pytest.mark.parametrize(
    ("config", "submit"),
    [
        ({}, "using(durable=True).delay(plain_wait, 'go').id"),
        ({}, "plain_wait.using(durable=True).delay('go').id"),
        ({"DELAY_DURABLE": True}, "delay(plain_wait, 'go').id"),
        ({"DELAY_DURABLE": True}, "plain_wait.delay('go').id"),
    ],
    ids=["using", "using of a task", "setting", "setting of a task"],
)
def test_ways_to_say_it(start, notes, wait_until, config, submit):
    """What is durable by another word than its `@task` runs again elsewhere as well."""
    one = start(**config)
    id = one(submit)
    assert wait_until(notes)
    one.kill()
    two = start(**config)
    two("go('go')")
    assert two(f"executor.get({id!r}).result(20)") == ("plain", two.pid)


def test_handles(start, notes, wait_until):
    """A process that has seen none of the tasks has futures of all of them."""
    one = start()
    done, failed, counted, waits = one(
        "add.delay((1,), right=(2,)).id, fail.delay('pear').id, count.delay(4, 'go').id,"
        " add.using(countdown=60).delay(1).id"
    )
    one("go('go')")
    assert one(f"[executor.get(id).exception(20) is None for id in {[done, failed, counted]}]") == [
        True,
        False,
        True,
    ]
    (running,) = [one("wait_for.delay('end').id")]
    assert wait_until(lambda: any(it["id"] == running for it in notes()))
    one.kill()
    two = start()
    two(f"done, failed, counted = map(executor.get, {[done, failed, counted]})")
    two(f"waits, running = map(executor.get, {[waits, running]})")
    assert two("all(isinstance(it, concurrent.futures.Future) for it in (done, failed, waits))")
    assert two("done.state, done.done(), done.exception(), done.result(), done.name") == (
        "finished",
        True,
        None,
        (1, 2),
        "add",
    )
    assert two("tuple(counted.progress)") == (4, 4, "")
    assert two("type(failed.exception()) is OutOfStock, failed.exception().sku") == (True, "pear")
    assert two("waits.state, waits.done(), waits.cancelled()") == ("pending", False, False)
    two("heard = []")
    two("for it in (done, failed, running): it.add_done_callback(lambda it: heard.append(it.id))")
    two("async def awaited(): return await done, await asyncio.wait_for(running, 20)")
    two("go('end')")
    assert two("asyncio.run(awaited())") == ((1, 2), two.pid)
    assert two("len(concurrent.futures.wait([done, failed, running], 20).done)") == 3
    assert two("len(list(concurrent.futures.as_completed([done, running], 20)))") == 2
    two("executor.drain(20)")
    assert sorted(two("heard")) == sorted([done, failed, running])
    assert two("waits.cancel(), waits.state, waits.cancelled()") == (True, "cancelled", True)
    assert two(f"look({waits!r})['state']") == "cancelled"


def test_a_task_that_was_taken_over_is_stopped_by_its_handle(start, notes, wait_until):
    one = start()
    id = one("wait_for.delay('never').id")
    assert wait_until(notes)
    one.kill()
    two = start()
    assert wait_until(lambda: two(f"executor.get({id!r}).running()"))
    assert two(f"executor.get({id!r}).stop()")
    with pytest.raises(Raised, match="^CancelledError"):
        two(f"executor.get({id!r}).result(20)")


def test_sigterm(start, notes, wait_until, tmp_path):
    """A task that runs comes to its end; those that wait are left, however many they are."""
    one = start(DELAY_MAX_WORKERS=1, DELAY_SHUTDOWN_TIMEOUT=20)
    running = one("wait_for.delay('go').id")
    queued = one("[add.delay(number).id for number in range(200)]")
    assert wait_until(notes)
    one.signal(signal.SIGTERM)
    # It has been told, and takes no more.
    time.sleep(0.5)
    (tmp_path / "go").touch()
    one.wait()
    assert [it["what"] for it in notes()] == ["begins", "ends"]
    two = start()
    assert two(f"executor.get({running!r}).result(20)") == one.pid
    page = two(f"look({running!r})")
    assert (page["attempts"], page["deaths"]) == (1, 0)
    assert two(f"sum(executor.get(id).result(20) for id in {queued})") == sum(range(1, 201))
    assert {it["pid"] for it in notes() if it["what"] == "add"} == {two.pid}


def test_a_run_that_was_cut_is_an_attempt(start, notes, wait_until):
    """As is one that was killed: it has used up one of `retry`."""
    more = """
@task(durable=True, retry=Retry(2, waits=[0]))
def fail_at_last():
    note("runs", attempt=current_task.attempt)
    while not (folder / "go").exists():
        time.sleep(0.01)
    raise OutOfStock("pear")
"""
    one = start(more, DELAY_SHUTDOWN_TIMEOUT=0.2)
    id = one("fail_at_last.delay().id")
    assert wait_until(notes)
    one.signal(signal.SIGTERM)
    one.wait()
    two = start(more)
    assert wait_until(lambda: len(notes()) == 2)
    two("go('go')")
    assert two(f"type(executor.get({id!r}).exception(20)).__name__") == "OutOfStock"
    assert [it["attempt"] for it in notes()] == [1, 2, 3]
    assert two(f"look({id!r})['deaths']") == 0
