"""Dead letters: told once, by the process that finds them, and counted there."""

import sqlite3
from contextlib import closing

import pytest
from flask import has_app_context, has_request_context
from prometheus_client import CollectorRegistry, generate_latest
from tests.journal.conftest import noted

from flask_delay import task, task_dead, task_failed, using
from flask_delay.contrib import prometheus

DEADLINE = 30.0

LISTENING = """
from flask import has_app_context, has_request_context
from flask_delay import task_dead, task_failed

heard, failed = [], []

@task_dead.connect_via(app)
def hear(sender, **told):
    where = sender is app, has_app_context(), has_request_context()
    heard.append((*where, told["id"], told["name"], told["deaths"], type(told["error"]).__name__))

@task_failed.connect_via(app)
def fail_too(sender, future):
    failed.append(future.id)

def dead():
    stats = executor.stats()
    return stats["dead"], {name: it["dead"] for name, it in stats["tasks"].items() if it["dead"]}
"""


@task(durable=True)
def give_late(value):
    return value


@task(durable=True)
def fail_at_once():
    raise LookupError


class TestKilled:
    def test_one_process_of_several_tells(self, start, notes, until):
        one, *others = (start(LISTENING, DELAY_JOURNAL_DEATHS=1) for _ in range(3))
        one.send("die.delay()")
        one.wait()
        (death,) = noted(notes, "dies")
        for process in others:
            until(process, "[it.state for it in executor.tasks()] == ['dead']")
            # Neither of them has asked for the task by its id.
            process("executor.drain()")
        finder, other = sorted(others, key=lambda process: process("dead()")[0], reverse=True)
        until(finder, "heard")
        expected = (True, True, False, death["id"], "die", 1, "WorkerDied")
        assert finder("heard") == [expected]
        assert finder("dead()") == (1, {"die": 1})
        assert (other("heard"), other("dead()")) == ([], (0, {}))
        assert finder("failed") == other("failed") == []
        assert finder("executor.stats()['failed']") == 0
        told = [process.log().count("is a dead letter") for process in (finder, other)]
        assert told == [1, 0]

    def test_again_after_a_retry_by_hand(self, start, until):
        one, two = (start(LISTENING, DELAY_JOURNAL_DEATHS=1) for _ in range(2))
        one.send("die.delay()")
        one.wait()
        until(two, "len(heard) == 1")
        two.send("executor.retry(heard[0][3])")
        two.wait()
        three = start(LISTENING, DELAY_JOURNAL_DEATHS=1)
        until(three, "len(heard) == 1")
        assert three("heard[0][5]") == 1

    def test_a_setting_that_allows_fewer_deaths_now(self, start, until):
        one = start(DELAY_JOURNAL_DEATHS=5)
        one.send("die.delay()")
        one.wait()
        watcher = start(LISTENING, DELAY_JOURNAL_DEATHS=5, DELAY_MAX_WORKERS=1)
        watcher.wait()
        # It had two of five, and may have two now.
        three = start(LISTENING, DELAY_JOURNAL_DEATHS=2)
        until(three, "heard")
        assert three("heard[0][5:], dead()") == ((2, "WorkerDied"), (1, {"die": 1}))


class TestInWorkerProcesses:
    CODE = (
        LISTENING
        + """
@task(durable=True, backend="processes", retry=9)
def die_there(lives):
    note("dies", attempt=current_task.attempt)
    if current_task.attempt < lives:
        os.kill(os.getpid(), 9)
    return "lives"

from flask_delay import ProcessDied
"""
    )

    def test_the_task_of_a_dead_child_is_a_dead_letter(self, start, notes, until):
        one = start(self.CODE, DELAY_APP="shop")
        one("future = die_there.delay(9)")
        assert one("type(future.exception(30)) is ProcessDied")
        # Its `retry` is for failures.
        assert [it["attempt"] for it in noted(notes, "dies")] == [1, 2, 3]
        until(one, "heard")
        assert one("[it[4:] for it in heard]") == [("die_there", 3, "ProcessDied")]
        assert one("heard[0][3] == future.id, dead(), failed") == (True, (1, {"die_there": 1}), [])
        assert one("look(future.id)['deaths'], look(future.id)['attempts']") == (3, 3)
        assert one("executor.tasks()[0].state, executor.stats()['journal']['dead']") == ("dead", 1)
        assert one.log().count("the worker process of task die_there") == 3
        # This process has not died, and its other tasks go on.
        assert one("add.delay(1).result(20)") == 2

    def test_one_that_lives_at_last(self, start):
        one = start(self.CODE, DELAY_APP="shop")
        one("future = die_there.delay(3)")
        assert one("future.result(30)") == "lives"
        assert one("look(future.id)['deaths'], look(future.id)['attempts']") == (0, 3)
        assert one("heard, failed, dead()") == ([], [], (0, {}))


@pytest.fixture
def heard():
    """What `task_dead` has told, with the app that sent it."""
    told = []

    def hear(app, **more):
        told.append((app, has_app_context(), has_request_context(), more))

    with task_dead.connected_to(hear):
        yield told


def park_long_ago(app, id):
    with closing(sqlite3.connect(app.config["DELAY_JOURNAL"], timeout=DEADLINE)) as file, file:
        sql = "UPDATE task SET state = 4, parked_at = 1, reason = 'no code' WHERE id = ?"
        file.execute(sql, [id])


def test_parked_for_long(make_app, heard, wait_until):
    app = make_app()
    registry = CollectorRegistry()
    prometheus.export(app.extensions["delay"].owner, registry=registry)
    with app.app_context():
        future = using(durable=True, countdown=3600).delay(give_late, 1)
    park_long_ago(app, future.id)
    assert str(future.exception(DEADLINE)) == "no process could run it: no code"
    assert wait_until(lambda: heard)
    ((sender, in_app, in_request, told),) = heard
    assert (sender, in_app, in_request) == (app, True, False)
    error = told.pop("error")
    assert str(error) == "no process could run it: no code"
    assert told == {"id": future.id, "name": "give_late", "deaths": 0}
    stats = app.extensions["delay"].owner.stats()
    assert (stats["dead"], stats["failed"], stats["journal"]["dead"]) == (1, 0, 1)
    lines = generate_latest(registry).decode().splitlines()
    assert 'delay_dead_letters_total{task="give_late"} 1.0' in lines
    assert 'delay_journal_tasks{state="dead"} 1.0' in lines


def test_receivers_that_raise_and_of_another_app(make_app, caplog, wait_until):
    app = make_app()

    def refuse(app, **more):
        raise LookupError("no such mailbox")

    of_another, told = object(), []

    def hear(app, **more):
        told.append(app)

    with (
        app.app_context(),
        task_dead.connected_to(refuse, app),
        task_dead.connected_to(hear, of_another),
    ):
        future = using(durable=True, countdown=3600).delay(give_late, 1)
        park_long_ago(app, future.id)
        text = f"a receiver of a signal of task give_late ({future.id}) raised"
        assert wait_until(lambda: text in caplog.messages)
        assert give_late.delay(2).result(DEADLINE) == 2
    assert told == []


def test_no_signal_of_a_failure(make_app, heard):
    app, failed = make_app(), []

    def note(app, future):
        failed.append(future.id)

    with app.app_context(), task_failed.connected_to(note):
        future = fail_at_once.delay()
        assert isinstance(future.exception(DEADLINE), LookupError)
        app.extensions["delay"].owner.drain(DEADLINE)
    assert (failed, heard) == ([future.id], [])
    assert app.extensions["delay"].owner.stats()["dead"] == 0
