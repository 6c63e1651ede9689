"""What the live page shows of all processes, through the journal."""

import gc
import os
import signal
import threading
import weakref

import pytest

from flask_delay import Delay, Retry, current_task, delay, task
from flask_delay.dashboard import recorder
from flask_delay.dashboard.pages import Pages

JSON = {"Accept": "application/json"}
HERE = {"Sec-Fetch-Site": "same-origin"}


@task(durable=True, retry=Retry(2, waits=[0.0]))
def fail_once():
    if current_task.attempt == 1:
        raise ConnectionError("again")


@task(durable=True)
def fail():
    raise ValueError("bad")


started = threading.Event()
released = threading.Event()


@task(durable=True, name="shared.hold")
def hold():
    started.set()
    released.wait(20)


@pytest.fixture
def app(make_app):
    extension = Delay()
    app = make_app(extension=extension, DELAY_MAX_WORKERS=2, DELAY_JOURNAL=True)
    page = extension.dashboard_blueprint(authorize=lambda: "act", actor=lambda: "ada")
    app.register_blueprint(page, url_prefix="/tasks")
    return app


def pages_of(app):
    return Pages(app.extensions["delay"], recorder.of(app), None)


def total(column):
    return sum(it for it in column if it is not None)


class TestFigures:
    def test_plots_names_and_histograms_come_from_the_journal(self, app, wait_until):
        with app.app_context():
            for _ in range(3):
                delay(int)
            fail.delay()
        assert app.extensions["delay"].drain(20)
        pages = pages_of(app)

        def ended(resolution):
            plots = pages.plots(resolution)
            return total(plots.done), total(plots.failed)

        # A sample is written at the end of its second.
        assert wait_until(lambda: ended("15m") == (3, 1))
        for resolution in ("15m", "6h", "7d"):
            plots = pages.plots(resolution)
            assert ended(resolution) == (3, 1)
            assert plots.at == sorted(set(plots.at))
            assert any(plots.run_p95)
        assert sum(pages.sparklines()["int"]) == 3
        names = pages.names()
        assert (names["int"]["done"], names["fail"]["failed"]) == (3, 1)
        assert names["int"]["wait"]["count"] == names["int"]["run"]["count"] == 3
        assert sum(count for _, count in pages.histograms("int")["run"]) == 3
        assert pages.histograms("unknown") == {}

    def test_they_survive_the_process(self, app, make_app, wait_until):
        with app.app_context():
            delay(int)
        pages = pages_of(app)
        assert wait_until(lambda: total(pages.plots("15m").done) == 1)
        app.extensions["delay"].shutdown(wait=True, cancel_futures=False)
        extension = Delay()
        later = make_app(extension=extension, DELAY_JOURNAL=True)
        assert total(pages_of(later).plots("7d").done) == 1
        assert pages_of(later).names()["int"]["done"] == 1


class TestProcesses:
    def test_this_one_is_there_with_its_server(self, app):
        client = app.test_client()
        served = {"SERVER_SOFTWARE": "Werkzeug/3"}
        answer = client.get("/tasks/processes", headers=JSON, environ_overrides=served)
        [row] = answer.get_json()["workers"]
        assert (row["pid"], row["state"], row["is_own"]) == (os.getpid(), "alive", True)
        assert row["server"] == "Werkzeug/3"
        assert "alive" in client.get("/tasks/processes").text

    def test_a_killed_one_is_listed_as_lost_with_its_task(self, app, run_script, wait_until):
        done = run_script(KILLED, app.instance_path)
        assert done.rc == -signal.SIGKILL, done.err
        id = done.out.strip()
        client = app.test_client()

        def lost():
            rows = client.get("/tasks/processes", headers=JSON).get_json()["workers"]
            return [row for row in rows if row["state"] == "lost"]

        assert wait_until(lost)
        [row] = lost()
        assert (row["tasks"], row["is_own"]) == ([id], False)
        assert row["lost_at"] is not None
        assert id in client.get("/tasks/processes").text
        assert wait_until(started.is_set)
        released.set()
        app.extensions["delay"].drain(20)
        kinds = [it["kind"] for it in timeline(client, id)]
        assert kinds[:4] == ["submitted", "started", "died", "started"]


# It dies of the task.
KILLED = """
import os, signal, sys, time
from flask import Flask
from flask_delay import Delay, current_task, task

@task(durable=True, name="shared.hold")
def hold():
    print(current_task.id, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

app = Flask("app", instance_path=sys.argv[1])
app.config["DELAY_JOURNAL"] = True
executor = Delay(app)
app.register_blueprint(executor.dashboard_blueprint(authorize=None))
with app.app_context():
    hold.delay()
time.sleep(20)
"""


def timeline(client, id):
    return client.get(f"/tasks/tasks/{id}", headers=JSON).get_json()["timeline"]


class TestFailures:
    def test_the_journal_has_those_of_plain_tasks_whose_futures_are_let_go(self, app, wait_until):
        state = app.extensions["delay"]
        with app.app_context():
            future = delay(int, "no number")
        ref = weakref.ref(future)
        id = future._quiet_id()
        future.exception(20)
        del future
        assert wait_until(lambda: state.store.row(id) is not None)
        row = state.store.row(id)
        assert (row["state"], row["plain"]) == ("failed", True)
        assert state.executor._get(id) is None
        # Its worker drops it when it takes the next one.
        run(app)
        gc.collect()
        assert ref() is None
        client = app.test_client()
        [shown] = client.get("/tasks/failed", headers=JSON).get_json()["tasks"]
        assert (shown["id"], shown["error"]["class"]) == (id, "ValueError")

    def test_an_id_that_is_asked_for_later_is_told_no_second_time(self, app, wait_until):
        state = app.extensions["delay"]
        with app.app_context():
            future = delay(int, "no number")
        future.exception(20)
        assert wait_until(lambda: state.store.row(future._quiet_id()) is not None)
        assert state.executor._get(future.id) is future
        assert state.get(future.id) is future
        assert len(app.test_client().get("/tasks/failed", headers=JSON).get_json()["tasks"]) == 1


def run(app):
    with app.app_context():
        delay(int).result(20)


class TestTimeline:
    def test_it_has_attempts_and_the_people_that_acted(self, app, wait_until):
        client = app.test_client()
        with app.app_context():
            future = fail_once.delay()
        future.result(20)
        found = timeline(client, future.id)
        assert [it["kind"] for it in found] == [
            "submitted",
            "started",
            "retrying",
            "started",
            "finished",
        ]
        assert [it["text"] for it in found[1:4]] == ["attempt 1", "attempt 1", "attempt 2"]
        assert found[2]["pid"] == os.getpid()

    def test_a_retry_by_hand_keeps_the_end_before_it(self, app, wait_until):
        client = app.test_client()
        with app.app_context():
            future = fail.delay()
        future.exception(20)
        assert client.post(f"/tasks/tasks/{future.id}/retry", headers=HERE).status_code == 303
        kinds = ["submitted", "started", "failed", "retried", "retry", "started", "failed"]

        def told():
            return sorted(it["kind"] for it in timeline(client, future.id))

        assert wait_until(lambda: told() == sorted(kinds))
        acted = [it for it in timeline(client, future.id) if it["is_act"]]
        assert [(it["kind"], it["actor"]) for it in acted] == [("retry", "ada")]
        assert "retry" in client.get(f"/tasks/tasks/{future.id}").text

    def test_an_app_without_a_page_notes_nothing(self, make_app):
        app = make_app(DELAY_JOURNAL=True)
        with app.app_context():
            future = fail_once.delay()
        future.result(20)
        found = app.extensions["delay"].store.shared().events(future.id)
        # Its first start is in its row.
        assert [(kind, text) for _, kind, text, *_ in found] == [("started", "attempt 1")]
