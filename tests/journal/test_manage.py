"""What people do with durable tasks: list them, run them again, pause functions, prune."""

import sqlite3
import time
from concurrent.futures import CancelledError
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from flask import Flask
from prometheus_client import CollectorRegistry, generate_latest
from tests.journal.conftest import Raised, noted

from flask_delay import DuplicateTask, TaskView, using
from flask_delay import task as decorator
from flask_delay.contrib import prometheus

DEADLINE = 20.0


@decorator(durable=True)
def give(value):
    return value


@decorator(durable=True)
def refuse(value):
    raise LookupError(value)


@pytest.fixture
def executor(make_app):
    app = make_app(DELAY_MAX_WORKERS=2)
    with app.app_context():
        yield app.extensions["delay"].owner


class TestTasks:
    def test_of_all_processes_newest_first(self, pair):
        one, two = pair
        first = one("add.delay(1).id")
        second = two("fail.delay('pear').id")
        third = one("add.using(countdown=60).delay(2).id")
        for id in (first, second):
            one(f"executor.get({id!r}).exception(20)")
        assert two("[it.id for it in executor.tasks()]") == [third, second, first]
        assert two("[it.name for it in executor.tasks()]") == ["add", "fail", "add"]
        assert two("[it.state for it in executor.tasks()]") == ["scheduled", "failed", "finished"]
        assert two("[it.attempts for it in executor.tasks()]") == [0, 1, 1]
        assert two("type(executor.tasks()[1].error) is OutOfStock")
        assert two("executor.tasks('finished')[0].result") == 2
        assert two(f"[it.id for it in executor.tasks(limit=1, before={third!r})]") == [second]
        assert two(f"executor.tasks(before={first!r})") == []
        assert two("[it.id for it in executor.tasks(name='add')]") == [third, first]
        assert two("[it.id for it in executor.tasks('failed', 'shop.fail')]") == [second]

    def test_one_that_runs_and_one_of_plain(self, pair, until, wait_until, notes):
        one, two = pair
        id = one("plain_wait.delay('go').id")
        until(two, "[it.state for it in executor.tasks(name='plain_wait')] == ['running']")
        view = two("executor.tasks()[0].id, executor.tasks()[0].deaths")
        assert view == (id, None)
        one("go('go')")
        until(two, "executor.tasks()[0].state == 'finished'")

    def test_what_they_wait_for(self, pair, until):
        one, two = pair
        busy = one("wait_for.delay('go').id")
        until(one, "executor.tasks()[0].state == 'running'")
        busy_too = two("wait_for.delay('go').id")
        until(two, f"executor.get({busy_too!r}).state == 'running'")
        one("add.delay(1).id")
        assert two("executor.tasks()[0].waits") == "ready"
        one("add.using(countdown=60).delay(2).id")
        waits = two("executor.tasks()[0].waits, str(executor.tasks()[0].due)")
        assert waits[0] == "scheduled"
        due = datetime.fromisoformat(waits[1]) - datetime.now(UTC)
        assert timedelta(seconds=30) < due < timedelta(seconds=61)
        assert two("executor.tasks('running')[0].waits") is None
        one("go('go')")
        one(f"executor.get({busy!r}).result(20)")

    def test_a_suspect_waits_to_run_alone(self, start, until):
        one = start(DELAY_JOURNAL_DEATHS=2)
        two = start(DELAY_JOURNAL_DEATHS=9)
        two("wait_for.delay('go')")
        until(two, "executor.tasks()[0].state == 'running'")
        one.send("die.delay().id")
        one.wait()
        until(two, "executor.tasks(name='die')[0].waits == 'alone'")
        assert two("look(executor.tasks(name='die')[0].id)['waits']") == "alone"
        two("executor.get(executor.tasks(name='die')[0].id).cancel()")
        two("go('go')")

    def test_in_this_process(self, executor):
        assert executor.tasks() == []
        future = give.delay([1])
        assert future.result(DEADLINE) == [1]
        (view,) = executor.tasks()
        assert isinstance(view, TaskView)
        assert (view.id, view.name, view.state, view.result) == (future.id, "give", "finished", [1])
        assert view == executor._view(future.id)
        assert executor.tasks(name="tests.journal.test_manage.give") == [view]
        assert executor.tasks(name="refuse") == []

    @pytest.mark.parametrize(
        ("arguments", "error", "text"),
        [
            ({"state": "done"}, ValueError, "state is 'done', but must be None or one of 'ready'"),
            ({"limit": 0}, ValueError, "limit is 0, but must be an integer, 1 or more"),
            ({"limit": "1"}, TypeError, "limit is '1', but must be"),
            ({"name": "none"}, LookupError, "no task in the journal is called 'none'"),
            ({"before": "none"}, LookupError, "there is no task 'none'"),
        ],
    )
    def test_what_is_refused(self, executor, arguments, error, text):
        give.delay(1)
        with pytest.raises(error, match=text):
            executor.tasks(**arguments)

    def test_without_a_journal(self, make_app):
        app = make_app("other", DELAY_JOURNAL=None)
        with app.app_context():
            background = app.extensions["delay"].owner
            assert background.tasks() == []
            assert background.prune() == 0
            with pytest.raises(LookupError, match="there is no task an-id in the journal"):
                background.retry("an-id")

    @pytest.mark.parametrize("mode", ["immediate", "manual"])
    def test_in_a_mode_for_tests(self, make_app, mode):
        app = make_app("other", DELAY_MODE=mode)
        with app.app_context():
            background = app.extensions["delay"].owner
            assert background.tasks() == []
            with pytest.raises(RuntimeError, match=f"no journal while the mode is '{mode}'"):
                background.pause()


WAIT_HERE = """

def wait_here(name):
    while not (folder / name).exists():
        time.sleep(0.01)

"""
FAILS = """
@task(durable=True)
def fail_at_last():
    wait_here("fail")
    raise LookupError("slow")
"""
# An error with the message "slow" takes its time to be read.
READS_SLOWLY = """
from flask_delay.journal import errors

def read_slowly(record, *args):
    if record["message"] == "slow":
        go("slow")
        wait_here("read")
    return rebuilt(record, *args)

rebuilt, errors._rebuilt = errors._rebuilt, read_slowly
"""
RUNS_TWICE = """

@task(durable=True)
async def runs_twice():
    await asyncio.to_thread(wait_here, "first")
    if not (folder / "failed").exists():
        (folder / "failed").touch()
        raise ValueError
    (folder / "again").touch()
    await asyncio.to_thread(wait_here, "second")
    return current_task.id
"""


class TestRetry:
    def test_is_the_same_task_again(self, pair, until):
        one, two = pair
        id = one("fail.delay('pear').id")
        one(f"first = executor.get({id!r})")
        two(f"first = executor.get({id!r})")
        assert one("str(first.exception(20))") == two("str(first.exception(20))") == "no pear"
        # Now it works.
        for process in pair:
            process("fail.__wrapped__.__code__ = (lambda sku='x': sku.upper()).__code__")
        two(f"again = executor.retry({id!r})")
        assert two("again.id") == id
        assert two("again.result(20)") == "PEAR"
        for process in pair:
            assert process("first.state, type(first.exception()).__name__") == (
                "finished",
                "OutOfStock",
            )
            assert process(f"executor.get({id!r}).result(20)") == "PEAR"
            assert process(f"executor.get({id!r}).attempts") == 2
            page = process(f"look({id!r})")
            assert (page["result"], page["attempts"], page["error"]) == ("PEAR", 2, None)
        with pytest.raises(Raised, match="^ValueError: .*that failed can run again.*finished"):
            one(f"executor.retry({id!r})")

    def test_while_its_process_has_not_heard_of_the_end(self, start, until):
        # The thread that hears of ends is held up by an error.
        one = start(WAIT_HERE + FAILS)
        two = start(WAIT_HERE + READS_SLOWLY + RUNS_TWICE)
        first = one("fail_at_last.delay().id")
        id = two("runs_twice.delay().id")
        until(two, f"executor.get({first!r}) and not Path(folder / 'slow').exists()")
        one("go('fail')")
        until(two, "(folder / 'slow').exists()")
        two("go('first')")
        until(one, f"executor.get({id!r}).done()")
        one(f"executor.retry({id!r})")
        until(two, "(folder / 'again').exists()")
        two("go('read')")
        until(two, f"executor.get({first!r}).done()")
        two("go('second')")
        assert one(f"executor.get({id!r}).result(20)") == id
        assert two(f"executor.get({id!r}).result(20)") == id

    def test_a_dead_letter_begins_with_no_deaths(self, start, until):
        one, two = start(DELAY_JOURNAL_DEATHS=1), start(DELAY_JOURNAL_DEATHS=1)
        one.send("die.delay()")
        one.wait()
        until(two, "[it.state for it in executor.tasks()] == ['dead']")
        two("view = executor.tasks()[0]")
        assert two("view.deaths, view.attempts, type(view.error).__name__") == (1, 1, "WorkerDied")
        two("die.__wrapped__.__code__ = (lambda: 'lives').__code__")
        two("again = executor.retry(view.id)")
        assert two("again.result(20)") == "lives"
        assert two("executor.tasks()[0].deaths, executor.tasks()[0].attempts") == (0, 2)

    def test_a_failed_one_that_had_all_its_attempts(self, executor):
        future = using(durable=True, retry=1).delay(refuse, 7)
        assert future.exception(DEADLINE).args == (7,)
        assert future.attempts == 2
        again = executor.retry(future.id)
        assert again.exception(DEADLINE).args == (7,)
        assert (again.attempts, future.attempts) == (3, 2)

    def test_what_is_refused(self, executor):
        done = give.delay(1)
        done.result(DEADLINE)
        with pytest.raises(ValueError, match=f"failed can run again, and {done.id} is finished"):
            executor.retry(done.id)
        with pytest.raises(LookupError, match="there is no task an-id in the journal"):
            executor.retry("an-id")
        plain = using(durable=False).delay(refuse, 1)
        name = plain.id
        plain.exception(DEADLINE)
        with pytest.raises(ValueError, match="is not durable"):
            executor.retry(name)
        failed = using(durable=True, unique=True).delay(refuse, "same")
        failed.exception(DEADLINE)
        waiting = using(durable=True, unique=True, countdown=60).delay(refuse, "same")
        with pytest.raises(DuplicateTask, match=waiting.id):
            executor.retry(failed.id)
        waiting.cancel()
        failed_again = executor.retry(failed.id)
        assert isinstance(failed_again.exception(DEADLINE), LookupError)
        executor.prune()
        with pytest.raises(LookupError, match="was forgotten"):
            executor.retry(failed.id)


class TestPlanted:
    @pytest.mark.parametrize(
        "change",
        ["ended_at = -9000000000000000000", "result = 'no value'", "done = 9e999, note = ''"],
    )
    def test_what_no_journal_has_written(self, pair, change, tmp_path):
        one, two = pair
        id = one("add.delay(1).id")
        one(f"executor.get({id!r}).result(20)")
        with closing(sqlite3.connect(tmp_path / "journal.db")) as file, file:
            file.execute(f"UPDATE task SET {change} WHERE id = ?", (id,))
        assert two(f"look({id!r})['state']") == "finished"
        assert two("[it.id for it in executor.tasks()]") == [id]


class TestPause:
    def test_holds_in_every_process_and_survives_restarts(self, start, notes, until):
        one, two = start(), start()
        two("executor.pause('add')")
        ids = [one("add.delay(1).id"), two("add.delay(2).id")]
        assert one("where.delay().result(20)") == one.pid
        for process in (one, two):
            assert process("[it.waits for it in executor.tasks(name='add')]") == ["paused"] * 2
            assert process(f"look({ids[0]!r})")["waits"] == "paused"
            assert process("executor.tasks('blocked', 'add') == executor.tasks(name='add')")
        assert one("executor.stats()['journal']['ready']") == 0
        one.end()
        two.end()
        three = start()
        assert three("where.delay().result(20)") == three.pid
        ids.append(three("add.delay(3).id"))
        assert not noted(notes, "add")
        three("executor.resume('add')")
        assert [three(f"executor.get({id!r}).result(20)") for id in ids] == [2, 3, 4]
        assert {it["id"] for it in noted(notes, "add")} == set(ids)

    def test_of_everything(self, pair, notes, until):
        one, two = pair
        runs = one("wait_for.delay('go').id")
        until(one, f"executor.get({runs!r}).state == 'running'")
        two("executor.pause()")
        waiting = two("add.delay(1).id")
        assert two(f"executor.get({waiting!r}).state") == "pending"
        # Those that run go on, and plain tasks are not affected.
        assert two("delay(os.getpid).result(20)") == two.pid
        one("go('go')")
        assert one(f"executor.get({runs!r}).result(20)") == one.pid
        assert two("executor.tasks(name='add')[0].waits") == "paused"
        assert not noted(notes, "add")
        one("executor.resume()")
        assert two(f"executor.get({waiting!r}).result(20)") == 2

    def test_what_waits_can_be_cancelled(self, executor):
        executor.pause("tests.journal.test_manage.give")
        future = give.delay(1)
        assert future.cancel()
        with pytest.raises(CancelledError):
            future.result(0)
        executor.resume("tests.journal.test_manage.give")

    def test_names(self, executor):
        with pytest.raises(LookupError, match="no task in the journal is called 'none'"):
            executor.pause("none")
        executor.pause("tests.journal.test_manage.give")
        assert executor._state().store.paused() == ["tests.journal.test_manage.give"]
        executor.resume()
        assert executor._state().store.paused() == []


class TestPrune:
    def test_forgets_in_every_process(self, pair):
        one, two = pair
        done, failed = one("add.delay(1).id"), one("fail.delay().id")
        for id in (done, failed):
            for process in pair:
                process(f"executor.get({id!r}).exception(20)")
        waits = one("add.using(countdown=60).delay(1).id")
        assert two("executor.prune(3600)") == 0
        assert two("executor.prune(state='failed')") == 1
        assert two("executor.prune(name='add')") == 1
        for process in pair:
            assert [process(f"look({id!r})['status']") for id in (done, failed, waits)] == [
                410,
                410,
                200,
            ]
            assert process(f"executor.get({done!r})") is None
        assert two("[it.id for it in executor.tasks()]") == [waits]

    def test_leaves_dead_letters_unless_asked(self, start, until):
        one, two = start(DELAY_JOURNAL_DEATHS=1), start(DELAY_JOURNAL_DEATHS=1)
        one.send("die.delay()")
        one.wait()
        until(two, "[it.state for it in executor.tasks()] == ['dead']")
        assert two("executor.prune()") == 0
        assert two("executor.prune(state='dead')") == 1

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ({"older_than": -1}, ValueError),
            ({"older_than": "1"}, TypeError),
            ({"state": "ready"}, ValueError),
            ({"name": "none"}, LookupError),
        ],
    )
    def test_what_is_refused(self, executor, arguments, error):
        give.delay(1)
        with pytest.raises(error):
            executor.prune(**arguments)


def test_counts_with_the_oldest(start, until):
    one = start(DELAY_MAX_WORKERS=1)
    assert one("executor.stats()['journal']['oldest']") == 0
    one("wait_for.delay('go')")
    until(one, "executor.tasks()[0].state == 'running'")
    one("add.delay(1)")
    until(one, "executor.stats()['journal']['oldest'] > 1")
    one("executor.pause('add')")
    until(one, "executor.stats()['journal']['oldest'] == 0")
    assert one("executor.stats()['journal']['blocked'], executor.stats()['journal']['ready']") == (
        1,
        0,
    )
    one("executor.resume()")
    one("go('go')")
    until(one, "executor.tasks(name='add')[0].state == 'finished'")


class TestPrometheus:
    def test_of_all_processes(self, executor):
        registry = CollectorRegistry()
        prometheus.export(executor, registry=registry)

        def value(name, **labels):
            return registry.get_sample_value(f"delay_journal_{name}", labels)

        using(durable=True, countdown=60).delay(give, 1)
        assert value("tasks", state="scheduled") == 1
        assert (value("tasks", state="ready"), value("oldest_seconds")) == (0, 0)
        assert value("bytes") > 0
        assert value("processes") == 1

    def test_a_file_counts_once(self, executor):
        other = Flask("other", static_folder=None)
        other.config.update(executor._apps[0]().config)
        executor.init_app(other)
        try:
            using(durable=True, countdown=60).delay(give, 1)
            assert executor._journal_counts()["scheduled"] == 1
        finally:
            with other.app_context():
                executor.shutdown()

    def test_nothing_without_a_journal(self, make_app):
        registry = CollectorRegistry()
        app = make_app("one", DELAY_JOURNAL=None)
        prometheus.export(app.extensions["delay"].owner, registry=registry)
        assert b"journal" not in generate_latest(registry)

    def test_each_value_is_there_once(self, start, tmp_path, monkeypatch):
        (tmp_path / "values").mkdir()
        monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "values"))
        code = (
            "\nfrom flask_delay.contrib import prometheus\n"
            "prometheus.export(executor)\n"
            "app.add_url_rule('/metrics', view_func=prometheus.metrics)\n"
        )
        one, two = start(code), start(code)
        for count in (1, 2):
            id = one("add.using(countdown=60).delay(1).id")
            two(f"executor.get({id!r})")
            # At most a second old.
            time.sleep(1.1)
            for process in (one, two):
                page = process("app.test_client().get('/metrics').text").splitlines()
                assert [line for line in page if "scheduled" in line] == [
                    f'delay_journal_tasks{{state="scheduled"}} {count:.1f}'
                ]
                assert len([line for line in page if line.startswith("delay_journal_bytes ")]) == 1
