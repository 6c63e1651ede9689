"""Durable tasks that follow others: `then`, `chain` and `gather`, in one process and several."""

import asyncio
import sqlite3
import time
from concurrent.futures import CancelledError
from functools import partial
from pathlib import Path

import pytest
from tests.journal.conftest import Raised, noted

from flask_delay import (
    DuplicateTask,
    QueueFull,
    ResultNotKept,
    TaskExpired,
    WaitCycleError,
    chain,
    current_task,
    delay,
    gather,
    task,
    using,
)

DEADLINE = 20.0


@task(durable=True)
def add(left, right=1):
    return left + right


@task(durable=True)
async def add_async(value):
    await asyncio.sleep(0)
    return value + 1


@task(durable=True)
def total(values):
    return sum(values)


@task(durable=True)
def fail(value=None):
    raise LookupError(value)


@task(durable=True)
def clean(name="nothing"):
    return f"cleaned {name}"


@task(durable=True)
def give_object(value=None):
    return object()


@task(durable=True)
def wait_for_own_follower():
    from flask import current_app

    own = current_app.extensions["delay"].get(current_task.id)
    return own.then(add).result(DEADLINE)


@task
def plain(value=None):
    return value


def where(app, id, what="state"):
    with sqlite3.connect(app.config["DELAY_JOURNAL"]) as connection:
        return connection.execute(f"SELECT {what} FROM task WHERE id = ?", [id]).fetchone()[0]


@pytest.fixture
def app(make_app):
    app = make_app()
    with app.app_context():
        yield app


class TestThen:
    def test_the_result_goes_on(self, app):
        last = add.delay(1).then(add).then(add_async).then(partial(add, 10))
        assert last.result(DEADLINE) == 14
        assert (last.name, last.attempts) == ("add", 1)

    def test_after_a_task_that_has_ended(self, app):
        first = add.delay(1)
        first.result(DEADLINE)
        assert first.then(add).result(DEADLINE) == 3
        found = app.extensions["delay"].get(first.id)
        assert found.then(add).result(DEADLINE) == 3

    def test_a_failure_passes_through(self, app):
        ends = [fail.delay("x").then(add).then(add), fail.delay("x").then(add)]
        for last in ends:
            error = last.exception(DEADLINE)
            assert (type(error), error.args) == (LookupError, ("x",))
            assert last.attempts == 0

    def test_a_cancellation_passes_through(self, app):
        first = add.using(countdown=60).delay(1)
        last = first.then(add).then(add)
        assert last.state == "pending"
        assert first.cancel()
        with pytest.raises(CancelledError):
            last.result(DEADLINE)
        # But not back.
        first = add.using(countdown=0.2).delay(1)
        second = first.then(add)
        assert second.cancel()
        assert first.result(DEADLINE) == 2
        assert second.cancelled()

    def test_a_result_that_is_not_kept(self, app):
        first = give_object.delay()
        error = first.then(add).exception(DEADLINE)
        assert type(error) is ResultNotKept
        assert "object" in str(error)
        assert first.id in str(error)

    def test_at_any_end(self, app):
        late = add.using(countdown=60).delay(1)
        for first in (add.delay(1), fail.delay(), give_object.delay(), late):
            cleaned = first.then(clean, on="end")
            named = first.then(partial(clean, "a file"), on="end")
            if first is late:
                assert first.cancel()
            assert cleaned.result(DEADLINE) == "cleaned nothing"
            assert named.result(DEADLINE) == "cleaned a file"

    def test_what_cannot_follow(self, app):
        first = add.delay(1)
        with pytest.raises(ValueError, match=r'on must be .*, got "failure"'):
            first.then(add, on="failure")
        for step in (plain, print, add.using(durable=False), partial(plain)):
            with pytest.raises(ValueError, match=r"not durable, so it cannot follow.*durable=True"):
                first.then(step)
        with pytest.raises(ValueError, match="the task before is not durable"):
            delay(plain).then(add)
        with pytest.raises(TypeError, match="missing 1 required positional argument: 'values'"):
            first.then(total, on="end")
        with pytest.raises(TypeError, match="positional argument"):
            first.then(partial(add, 1, 2))
        with pytest.raises(TypeError, match="argument 1"):
            first.then(partial(add, object()))
        with pytest.raises(ValueError, match="goes by its argument"):
            first.then(add.using(unique=True))
        assert app.extensions["delay"].executor.stats()["held"] == 0

    def test_after_one_that_was_forgotten(self, app):
        first = add.delay(1)
        first.result(DEADLINE)
        app.extensions["delay"].store.prune(0, None, None)
        with pytest.raises(LookupError, match=f"no task {first.id} in the journal for"):
            first.then(add)

    def test_options(self, app):
        began = time.time()
        first = add.using(countdown=0.3).delay(1)
        last = first.then(add.using(countdown=0.3, priority=3, timeout=5, id="own"))
        assert last.id == "own"
        assert last.result(DEADLINE) == 3
        assert time.time() - began >= 0.6
        late = add.using(countdown=0.3).delay(1).then(add.using(expires=0.1))
        assert type(late.exception(DEADLINE)) is TaskExpired

    def test_keys(self, app):
        first = add.using(countdown=60).delay(1)
        once = first.then(add.using(once="a"))
        assert first.then(add.using(once="a")).id == once.id
        unique = first.then(add.using(unique=True, key="k"))
        assert first.then(add.using(unique=True, key="k")).id == unique.id
        with pytest.raises(DuplicateTask):
            first.then(add.using(unique="raise", key="k"))
        with pytest.raises(ValueError, match="belongs to a task"):
            first.then(clean.using(once="a"), on="end")

    def test_why_it_waits(self, app):
        first = add.using(countdown=60).delay(1)
        last = first.then(add)
        view = app.extensions["delay"].view(last.id)
        assert (view.state, view.waits) == ("blocked", f"after add {first.id[:8]}")
        assert (view.after.id, view.after.name, view.after.others) == (first.id, "add", 0)
        page = app.test_client().get(f"/tasks/{last.id}").get_json()
        assert (page["state"], page["waits"]) == ("pending", "blocked")
        assert app.extensions["delay"].store.stats()["blocked"] == 1
        last.cancel()
        assert app.extensions["delay"].view(last.id).waits is None

    def test_a_task_that_waits_for_its_own_follower(self, app):
        error = wait_for_own_follower.delay().exception(DEADLINE)
        assert type(error) is WaitCycleError

    def test_with_the_setting(self, make_app):
        with make_app(DELAY_DURABLE=True).app_context():
            assert plain.delay(1).then(plain).result(DEADLINE) == 1
            with pytest.raises(ValueError, match="not durable"):
                plain.delay(1).then(print)
            assert chain(plain, plain, plain).delay(2).result(DEADLINE) == 2


class TestChain:
    def test_it_is_one_commit(self, app):
        add.delay(1).result(DEADLINE)
        with sqlite3.connect(app.config["DELAY_JOURNAL"]) as connection:

            def version():
                return connection.execute("PRAGMA data_version").fetchone()[0]

            before = version()
            last = chain(add.using(countdown=60), add, partial(add, 5), add).delay(1)
            count = connection.execute("SELECT count(*) FROM task WHERE state = 3").fetchone()
            assert count == (3,)
            connection.execute("SELECT * FROM dependency")
            assert version() == before + 1
        last.cancel()

    def test_results(self, app):
        assert chain(add, add_async, partial(add, 10), add).delay(1).result(DEADLINE) == 14
        assert chain(partial(add, 1), add).delay(2).result(DEADLINE) == 4
        error = chain(fail, add, add).delay("x").exception(DEADLINE)
        assert error.args == ("x",)

    def test_it_is_accepted_whole_or_not_at_all(self, app):
        taken = add.using(id="taken", countdown=60).delay(1)
        bad = [
            (chain(add, add, add.using(id="taken")), DuplicateTask),
            (chain(add, partial(add, object())), TypeError),
            (chain(add, add, plain), ValueError),
            (chain(add, add.using(id="own"), add.using(id="own")), DuplicateTask),
        ]
        for steps, error in bad:
            with pytest.raises(error):
                steps.delay(1)
        taken.cancel()
        assert len(app.extensions["delay"].store.tasks((), None, 100, None)) == 1

    def test_those_that_may_wait(self, make_app):
        with make_app(DELAY_JOURNAL_WAITING=1).app_context():
            late = add.using(countdown=60)
            chain(late, add, add).delay(1)
            with pytest.raises(QueueFull):
                chain(late, add, add).delay(1)


class TestGather:
    def test_results_in_order(self, app):
        late = [add.using(countdown=it).delay(it) for it in (0.3, 0.1, 0.2)]
        all_of_them = gather(*late)
        assert all_of_them.name == "gather"
        last = all_of_them.then(total)
        assert all_of_them.result(DEADLINE) == [1.3, 1.1, 1.2]
        assert last.result(DEADLINE) == pytest.approx(3.6)

    def test_a_failure_ends_it(self, app):
        late = add.using(countdown=60).delay(1)
        both = gather(late, fail.delay("x"))
        last = both.then(total)
        assert both.exception(DEADLINE).args == ("x",)
        assert last.exception(DEADLINE).args == ("x",)
        assert late.state == "pending"

    def test_what_it_waits_for(self, app):
        late = [add.using(countdown=60).delay(it) for it in range(3)]
        both = gather(*late)
        view = app.extensions["delay"].view(both.id)
        assert view.waits == f"after add {late[0].id[:8]} and 2 more"
        assert both.cancel()
        assert late[0].state == "pending"

    def test_of_durable_and_plain_ones_stays_in_the_process(self, app):
        both = gather(add.delay(1), plain.delay(5))
        assert both.result(DEADLINE) == [2, 5]
        assert both.then(sum).result(DEADLINE) == 7
        with pytest.raises(ValueError, match="the task before is not durable"):
            both.then(total)
        kept = gather(plain.delay(5), fail.delay("x"), return_exceptions=True).result(DEADLINE)
        assert (kept[0], kept[1].args) == (5, ("x",))

    def test_with_exceptions_it_waits_for_all(self, app):
        cancelled = add.using(countdown=60).delay(1)
        futures = (add.delay(1), fail.delay("x"), cancelled, give_object.delay())
        found = gather(*futures, return_exceptions=True)
        last = found.then(kinds)
        assert where(app, found.id) == 3
        cancelled.cancel()
        ended = ["int", "LookupError", "CancelledError", "ResultNotKept"]
        result = found.result(DEADLINE)
        assert kinds(result) == last.result(DEADLINE) == ended
        assert (result[0], result[1].args, result[2].args) == (2, ("x",), ())
        assert kinds(app.extensions["delay"].view(found.id).result) == ended

    def test_with_exceptions_it_has_the_last_result_of_a_retry(self, app, tmp_path):
        executor = app.extensions["delay"]
        late = add.using(countdown=60).delay(1)
        again = flaky.delay(str(tmp_path / "there"))
        found = gather(again, late, return_exceptions=True)
        assert type(again.exception(DEADLINE)) is FileNotFoundError
        (tmp_path / "there").touch()
        executor.store.retry(again.id)
        assert executor.get(again.id).result(DEADLINE) == 1
        assert found.state == "pending"
        late.cancel()
        assert kinds(found.result(DEADLINE)) == ["int", "CancelledError"]

    def test_it_is_no_longer_than_other_results(self, make_app):
        with make_app(DELAY_JOURNAL_MAX_BYTES=1_000).app_context():
            both = gather(add.delay("x" * 600, ""), add.delay("x" * 600, ""))
            with pytest.raises(ResultNotKept, match="longer together than the limit of 1000 bytes"):
                both.result(DEADLINE)


@task(durable=True)
def kinds(values):
    return [type(value).__name__ for value in values]


class TestRetry:
    def test_a_chain_goes_on_with_its_step(self, app, tmp_path):
        executor = app.extensions["delay"]
        last = chain(flaky, add, add).delay(str(tmp_path / "there"))
        first, second = (view.id for view in executor.store.tasks((), None, 3, None)[:0:-1])
        assert type(last.exception(DEADLINE)) is FileNotFoundError
        with pytest.raises(ValueError, match=f"has never begun, since the one before it, {first},"):
            executor.store.retry(second)
        (tmp_path / "there").touch()
        executor.store.retry(first)
        assert executor.get(last.id).result(DEADLINE) == 3


@task(durable=True)
def flaky(path):
    with Path(path).open():
        return 1


class TestMap:
    def test_results_and_commits(self, app):
        assert list(add.map(range(1200))) == list(range(1, 1201))
        assert list(using(durable=True).map(plain, "abc")) == ["a", "b", "c"]
        assert list(add.map(range(5), range(5), buffersize=2)) == [0, 2, 4, 6, 8]

    def test_a_bad_argument_in_the_middle(self, app):
        late = add.using(countdown=60)
        with pytest.raises(TypeError, match="argument 1"):
            late.map([1, 2, object(), 3])
        views = app.extensions["delay"].store.tasks((), None, 100, None)
        assert len(views) == 2

        def broken():
            yield from range(3)
            raise KeyError

        with pytest.raises(KeyError):
            late.map(broken())
        assert len(app.extensions["delay"].store.tasks((), None, 100, None)) == 5

    def test_those_that_may_wait(self, make_app):
        app = make_app(DELAY_JOURNAL_WAITING=3)
        with app.app_context():
            with pytest.raises(QueueFull):
                add.using(countdown=60).map(range(10))
            assert len(app.extensions["delay"].store.tasks((), None, 100, None)) == 3

    def test_the_iterator_cancels_what_is_left(self, app):
        results = add.using(countdown=60).map(range(3), timeout=0.1)
        with pytest.raises(TimeoutError):
            next(results)
        views = app.extensions["delay"].store.tasks((), None, 100, None)
        assert {view.state for view in views} == {"cancelled"}


@pytest.mark.parametrize("mode", ["immediate", "manual"])
class TestWithoutAJournal:
    def test_steps(self, make_app, mode):
        app = make_app(DELAY_MODE=mode)
        with app.app_context():
            last = chain(add, partial(add, 10), add).delay(1)
            both = gather(add.delay((1,), (2,)), add.delay((3,), (4,))).then(first_of)
            cleaned = fail.delay().then(partial(clean, "it"), on="end")
            bad = give_object.delay().then(add)
            mixed = gather(add.delay((1,), ()), fail.delay(), return_exceptions=True).then(kinds)
            if mode == "manual":
                app.extensions["delay"].executor.run_pending()
            assert last.result() == 13
            assert both.result() == [(1, 2), (3, 4)]
            assert cleaned.result() == "cleaned it"
            assert type(bad.exception()) is ResultNotKept
            assert mixed.result() == ["tuple", "LookupError"]
            with pytest.raises(ValueError, match="not durable"):
                add.delay(1).then(plain)
            with pytest.raises(ValueError, match="task before is not durable"):
                plain.delay(1).then(add)
            with pytest.raises(TypeError, match="argument 1"):
                add.delay(1).then(partial(add, object()))


@task(durable=True)
def first_of(values):
    return values


class TestProcesses:
    def test_a_chain_goes_on_in_another_process(self, pair):
        one, two = pair
        id = one("chain(wait_for, where_after, where_after).delay('go').id")
        three = two(f"executor.get({id!r}).then(where_after).id")
        two("go('go')")
        assert two(f"executor.get({id!r}).result(20)") in (one.pid, two.pid)
        assert one(f"executor.get({three!r}).result(20)") in (one.pid, two.pid)

    def test_a_gathering_ends_where_its_last_one_does(self, pair):
        one, two = pair
        id = one("gather(wait_for.delay('go'), add.delay(1)).then(keep).id")
        one("go('go')")
        pids = {one.pid, two.pid}
        found = two(f"executor.get({id!r}).result(20)")
        assert found[0] in pids
        assert found[1] == 2

    def test_exceptions_are_gathered_from_other_processes(self, pair):
        one, two = pair
        id = one("gather(wait_for.delay('go'), fail.delay('pear'), return_exceptions=True).id")
        after = two(f"executor.get({id!r}).then(describe).id")
        one("go('go')")
        for process in pair:
            error = process(f"repr(executor.get({id!r}).result(20)[1])")
            assert error == "OutOfStock('no pear')"
            assert process(f"executor.get({after!r}).result(20)") == error

    def test_it_survives_a_kill_of_all(self, start, notes, wait_until):
        one = start()
        id = one("chain(wait_for, where_after, keep).delay('go').id")
        cleanup = one(f"executor.get({id!r}).then(note_end, on='end').id")
        assert wait_until(lambda: noted(notes, "begins"))
        one.kill()
        two = start()
        two("go('go')")
        assert two(f"executor.get({id!r}).result(20)") == two.pid
        two(f"executor.get({cleanup!r}).result(20)")
        assert len(noted(notes, "cleaned")) == 1
        assert len(noted(notes, "ends")) == 1

    def test_it_survives_an_orderly_end(self, start):
        one = start(DELAY_SHUTDOWN_TIMEOUT=1)
        id = one("chain(add.using(countdown=1), where_after).delay(1).id")
        one.end()
        two = start()
        assert two(f"executor.get({id!r}).result(20)") == two.pid

    def test_steps_in_worker_processes(self, start):
        one = start(DELAY_APP="shop:app", DELAY_PROCESSES=1)
        pids = one("chain(where.using(backend='processes'), after_pid).delay().result(20)")
        assert pids[0] == pids[1] != one.pid

    def test_a_dead_letter_ends_it(self, start):
        code = """
@task(durable=True)
def die_at(name):
    wait_for(name)
    os.kill(os.getpid(), 9)
"""
        one = start(code, DELAY_JOURNAL_DEATHS=1)
        one("first = die_at.delay('go')")
        id = one("first.then(keep).id")
        cleanup = one("first.then(note_end, on='end').id")
        one("go('go')")
        one.wait()
        two = start(code, DELAY_JOURNAL_DEATHS=1)
        with pytest.raises(Raised, match="WorkerDied"):
            two(f"executor.get({id!r}).result(20)")
        two(f"executor.get({cleanup!r}).result(20)")

    def test_a_forked_child_can_follow(self, start):
        one = start()
        one("future = add.using(countdown=0.5).delay(1)")
        id = one("fork(lambda: future.then(keep).id)")
        assert one(f"executor.get({id!r}).result(20)") == 2
