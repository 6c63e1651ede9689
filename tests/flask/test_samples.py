"""The samples behind the plots of the live page: what is in them, and what they cost."""

import threading
import time

import pytest

from flask_delay import Delay, delay, using
from flask_delay.dashboard import recorder, samples
from flask_delay.dashboard.pages import Pages

JSON = {"Accept": "application/json"}


@pytest.fixture
def extension():
    return Delay()


def mounted(make_app, extension, **config):
    app = make_app(extension=extension, **{"DELAY_MAX_WORKERS": 2, **config})
    page = extension.dashboard_blueprint(authorize=None)
    app.register_blueprint(page, url_prefix="/tasks")
    return app


@pytest.fixture
def app(make_app, extension):
    return mounted(make_app, extension)


def pages_of(app):
    return Pages(app.extensions["delay"], recorder.of(app), None)


def run(app, fn, *args, count=1):
    with app.app_context():
        for _ in range(count):
            delay(fn, *args)
    assert app.extensions["delay"].drain(20)


def fail():
    raise ValueError("bad")


def total(column):
    return sum(it for it in column if it is not None)


class TestPlots:
    @pytest.mark.parametrize("resolution", samples.STEPS)
    def test_each_resolution_has_all_that_ended(self, app, resolution):
        run(app, int, count=7)
        run(app, fail, count=2)
        plots = pages_of(app).plots(resolution)
        assert plots.step == samples.STEPS[resolution]
        assert (total(plots.done), total(plots.failed)) == (7, 2)
        assert {len(column) for column in plots[1:]} == {len(plots.at)}
        assert plots.at == sorted(set(plots.at))
        assert all(at % plots.step == 0 for at in plots.at)

    def test_before_the_page_was_mounted_nothing_is_known(self, app):
        plots = pages_of(app).plots("15m")
        assert {column[0] for column in plots[2:]} == {None}
        assert plots.at[-1] - plots.at[0] == 895
        assert plots.done[-1] == 0

    def test_times_are_those_of_the_tasks(self, app):
        run(app, time.sleep, 0.05, count=3)
        plots = pages_of(app).plots("6h")
        ended = [place for place, count in enumerate(plots.done) if count]
        assert all(0.05 <= plots.run_p50[it] <= plots.run_p95[it] < 5 for it in ended)
        # Two workers: the third one has waited for one of them.
        assert max(plots.wait_p95[it] for it in ended) > 0.02
        others = set(range(len(plots.at))) - set(ended)
        assert all(plots.run_p50[it] is plots.wait_p50[it] is None for it in others)

    def test_what_waits_and_runs_is_there(self, app, deadline):
        released = threading.Event()
        with app.app_context():
            for _ in range(5):
                delay(released.wait, deadline)
            using(countdown=60).delay(int)
        state = app.extensions["delay"]
        while state.stats()["queued"] > 3:
            time.sleep(0.001)
        try:
            plots = pages_of(app).plots("15m")
        finally:
            released.set()
        assert (plots.queued[-1], plots.held[-1], plots.running[-1]) == (3, 1, 2)
        state.shutdown(wait=True, cancel_futures=True)

    def test_an_unknown_resolution_is_an_error(self, app):
        with pytest.raises(KeyError):
            pages_of(app).plots("1y")

    def test_pools_are_added(self):
        one = [(10, [1, 0], [1, 0, 2], [[1.0, 2.0], None]), (12, [0, 0], [0, 0, 2], [None, None])]
        other = [(11, [3, 1], [0, 4, 1], [[0.5, 3.0], [1.0, 1.0]])]
        assert samples._added([one, other]) == [
            (10, [1, 0], [1, 0, 2], [[1.0, 2.0], None]),
            (11, [3, 1], [1, 4, 3], [[0.5, 3.0], [1.0, 1.0]]),
            (12, [0, 0], [0, 4, 3], [None, None]),
        ]


class TestSparklines:
    def test_they_count_the_ends_of_each_name(self, app):
        run(app, int, count=3)
        run(app, fail)
        lines = pages_of(app).sparklines()
        assert {name: sum(counts) for name, counts in lines.items()} == {"fail": 1, "int": 3}
        assert {len(counts) for counts in lines.values()} == {30}

    def test_the_overview_has_them(self, app):
        run(app, int)
        data = app.test_client().get("/tasks/", headers=JSON).get_json()
        assert sum(data["sparklines"]["int"]) == 1


class TestRecording:
    def test_a_blueprint_that_is_made_before_the_app_records_too(self, make_app):
        extension = Delay()
        page = extension.dashboard_blueprint(authorize=None)
        app = make_app(extension=extension)
        app.register_blueprint(page)
        run(app, int)
        assert total(pages_of(app).plots("15m").done) == 1

    def test_without_a_page_nothing_is_recorded(self, make_app, extension):
        app = make_app(extension=extension)
        run(app, int)
        executor = app.extensions["delay"].executor
        assert (executor._samples(5), executor._minutes()) == ([], [])

    @pytest.mark.parametrize("mode", ["immediate", "manual"])
    def test_the_modes_for_tests_need_no_thread(self, make_app, extension, mode):
        app = mounted(make_app, extension, DELAY_MODE=mode)
        before = threading.active_count()
        with app.app_context():
            delay(int)
        if mode == "manual":
            extension_state = app.extensions["delay"]
            extension_state.executor.run_pending()
        assert total(pages_of(app).plots("15m").done) == 1
        assert threading.active_count() == before

    def test_an_idle_process_is_not_woken(self, run_script):
        done = run_script(IDLE)
        assert (done.rc, done.out) == (0, "0\n"), done.err

    def test_a_forked_process_begins_anew(self, run_script):
        done = run_script(FORKED)
        assert (done.rc, done.out) == (0, "2 1\n"), done.err


SETUP = """
import os, time
from pathlib import Path
from flask import Flask
from flask_delay import Delay, delay

app = Flask("idle")
extension = Delay(app)
app.register_blueprint(extension.dashboard_blueprint(authorize=None))
state = app.extensions["delay"]

def run(count):
    with app.app_context():
        for _ in range(count):
            delay(int).result()

def done():
    return sum(row[1][0] for row in state.executor._samples(3600))
"""

# The timer's thread has no reason to wake once the last samples are taken.
IDLE = f"""{SETUP}
def wakes():
    found = 0
    for status in Path("/proc/self/task").glob("*/status"):
        text = status.read_text()
        if "delay-timer" in text:
            found += int(text.split("voluntary_ctxt_switches:")[1].split()[0])
    return found

run(3)
time.sleep(2.5)
before = wakes()
assert before
time.sleep(1.5)
print(wakes() - before)
"""

FORKED = f"""{SETUP}
run(2)
time.sleep(0.1)
child = os.fork()
if not child:
    run(1)
    assert done() == 1
    os._exit(0)
_, status = os.waitpid(child, 0)
assert status == 0
print(done(), os.WIFEXITED(status) * 1)
"""
