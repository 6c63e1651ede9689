"""`flask_delay.contrib.prometheus`: what its pages tell, in one process and in several."""

import inspect
import threading
import time

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from tests.core.helpers import Gate, occupied, unlogged

from flask_delay import Delay, Retry, task_submitted
from flask_delay.contrib import prometheus

# As many names as are told apart.
NAMES = 200
NOW = ("delay_tasks_queued", "delay_tasks_held", "delay_tasks_running", "delay_threads")


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
def extension(make_app, registry):
    extension = Delay()
    make_app(extension=extension, DELAY_MAX_WORKERS=2)
    prometheus.export(extension, registry=registry)
    with unlogged():
        yield extension


def fail():
    raise LookupError("no such row")


async def double(value):
    return 2 * value


def ended(registry, **labels):
    return registry.get_sample_value("delay_tasks_total", labels)


def of_task(registry, name, task, suffix):
    return registry.get_sample_value(f"delay_task_{name}_seconds_{suffix}", {"task": task})


def drain(extension, deadline):
    assert extension.drain(deadline)


def test_how_tasks_end(extension, registry, deadline):
    for fn, args in ((int, ()), (int, ()), (fail, ()), (double, (2,))):
        extension.delay(fn, *args)
    drain(extension, deadline)
    with occupied(extension.executor, 2):
        assert extension.delay(int).cancel()
    for task, figures in {"int": (2, 0, 1), "fail": (0, 1, 0), "double": (1, 0, 0)}.items():
        for outcome, figure in zip(("done", "failed", "cancelled"), figures, strict=True):
            assert ended(registry, task=task, outcome=outcome) == figure
        for name in ("wait", "run"):
            assert of_task(registry, name, task, "count") == figures[0] + figures[1]


def test_the_same_as_stats(extension, registry, deadline):
    for _ in range(200):
        for fn in (int, str, fail):
            extension.delay(fn)
    drain(extension, deadline)
    for task, stats in extension.stats()["tasks"].items():
        for outcome in ("done", "failed", "cancelled"):
            assert ended(registry, task=task, outcome=outcome) == stats[outcome]
        for name in ("wait", "run"):
            count = of_task(registry, name, task, "count")
            assert count == stats[name]["count"] == 200
            mean = of_task(registry, name, task, "sum") / count
            assert mean == pytest.approx(stats[name]["mean"], rel=0.02, abs=2e-6)


def test_times(extension, registry, deadline):
    extension.delay(time.sleep, 0.02).result(deadline)
    drain(extension, deadline)
    assert 0.0198 <= of_task(registry, "run", "sleep", "sum") < deadline
    bucket = {"task": "sleep", "le": "0.01"}
    assert registry.get_sample_value("delay_task_run_seconds_bucket", bucket) == 0


def test_each_time_is_in_one_bucket(extension, registry, deadline):
    """In the one that `stats()` tells of: the same histograms are read."""
    for seconds in (0.0, 0.002, 0.02, 0.02, 0.2):
        extension.delay(time.sleep, seconds).result(deadline)
    drain(extension, deadline)
    bounds = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0)
    counts = [
        registry.get_sample_value(
            "delay_task_run_seconds_bucket", {"task": "sleep", "le": str(bound)}
        )
        for bound in bounds
    ]
    assert counts == sorted(counts)
    assert counts[0] <= 1
    assert counts[1] <= 2
    assert counts[-1] == of_task(registry, "run", "sleep", "count") == 5
    longest = extension.stats()["tasks"]["sleep"]["run"]["max"]
    assert counts[bounds.index(0.1)] == 4
    assert 0.2 <= longest < 0.5


def test_counts_stay_when_an_executor_has_gone(extension, registry, deadline, monkeypatch):
    extension.delay(int).result(deadline)
    drain(extension, deadline)
    assert ended(registry, task="int", outcome="done") == 1
    monkeypatch.setattr(extension, "_executors", list)
    assert registry.get_sample_value("delay_threads") == 0
    assert ended(registry, task="int", outcome="done") == 1


def test_retries(extension, registry, deadline):
    begin = time.monotonic()
    future = extension.using(retry=Retry(2, backoff=0.1, jitter=False)).delay(fail)
    assert future.exception(deadline)
    drain(extension, deadline)
    assert registry.get_sample_value("delay_task_retries_total", {"task": "fail"}) == 2
    assert ended(registry, task="fail", outcome="failed") == 1
    # The time between attempts is none that it waits or runs.
    assert time.monotonic() - begin > 0.3
    assert of_task(registry, "wait", "fail", "sum") < 0.1
    assert of_task(registry, "run", "fail", "sum") < 0.1


def test_what_there_is_now(extension, registry, deadline):
    def now():
        return [registry.get_sample_value(name) for name in NOW]

    assert now() == [0, 0, 0, 0]
    with occupied(extension.executor, 2):
        extension.delay(int)
        extension.using(limit=1, key="k").delay(int)
        extension.using(limit=1, key="k").delay(int)
        assert now() == [2, 1, 2, 2]
    drain(extension, deadline)
    assert now() == [0, 0, 0, 2]


def test_each_executor_is_asked_once_per_scrape(extension, registry, monkeypatch):
    asked = []

    class Watched:
        def _now(self):
            asked.append("now")
            return dict.fromkeys(("queued", "held", "running", "threads"), 3)

        def _figures(self, _bounds):
            return {}

    monkeypatch.setattr(extension, "_executors", lambda: [Watched(), Watched()])
    (family,) = (it for it in registry.collect() if it.name == "delay_threads")
    assert (family.type, family.samples[0].value) == ("gauge", 6)
    assert asked == ["now"] * 2


def test_nothing_is_done_at_the_end_of_a_task(extension):
    """Its worker has counted it already; so no task waits for another one to be counted."""
    assert extension._default_callbacks() == ()


def test_all_apps_of_a_delay(make_app, registry, deadline):
    extension = Delay()
    apps = [make_app("first", extension)]
    prometheus.export(extension, registry=registry)
    # Also one that comes later.
    apps.append(make_app("second", extension))
    for app in apps:
        with app.app_context():
            extension.delay(int).result(deadline)
            drain(extension, deadline)
    assert ended(registry, task="int", outcome="done") == 2
    assert registry.get_sample_value("delay_threads") == 2


def test_several_on_one_app(make_app, registry, deadline):
    default, reports = Delay(), Delay(name="reports")
    reports.init_app(make_app(extension=default))
    prometheus.export(default, registry=registry)
    prometheus.export(reports, registry=registry)
    reports.delay(int).result(deadline)
    drain(reports, deadline)
    labels = {"task": "int", "outcome": "done"}
    assert registry.get_sample_value("reports_tasks_total", labels) == 1
    assert ended(registry, **labels) is None


def test_there_are_only_so_many_names(extension, registry, deadline):
    for number in range(NAMES + 20):

        def made():
            return None

        made.__qualname__ = f"made-{number}"
        extension.delay(made)
    extension.delay(made)
    drain(extension, deadline)
    (family,) = (it for it in registry.collect() if it.name == "delay_tasks")
    assert len({sample.labels["task"] for sample in family.samples}) == NAMES + 1
    assert ended(registry, task="(others)", outcome="done") == 21


def test_from_many_workers(make_app, registry, deadline):
    extension = Delay()
    make_app(extension=extension, DELAY_MAX_WORKERS=8)
    prometheus.export(extension, registry=registry)
    barrier = threading.Barrier(8)
    for _ in range(8):
        extension.delay(barrier.wait, deadline)
    for _ in range(1_000):
        extension.delay(int)
    drain(extension, deadline)
    assert ended(registry, task="Barrier.wait", outcome="done") == 8
    assert ended(registry, task="int", outcome="done") == 1_000


def test_nothing_is_done_at_a_submit(extension):
    assert not task_submitted.receivers


def test_a_callback_that_looks_sees_the_task_counted(extension, registry, deadline):
    seen, gate = [], Gate()
    future = extension.delay(gate)
    future.add_done_callback(lambda _: seen.append(ended(registry, task="Gate", outcome="done")))
    gate.open()
    drain(extension, deadline)
    assert seen == [1]


def test_namespace(make_app, registry):
    extension = Delay()
    make_app(extension=extension)
    prometheus.export(extension, registry=registry, namespace="shop")
    text = generate_latest(registry).decode()
    assert {it.name for it in text_string_to_metric_families(text)} >= {
        "shop_tasks",
        "shop_task_retries",
        "shop_task_wait_seconds",
        "shop_task_run_seconds",
        "shop_tasks_queued",
        "shop_threads",
    }


@pytest.mark.parametrize("given", [None, "delay", Delay])
def test_no_delay(given):
    with pytest.raises(TypeError, match=r"takes a Delay, not"):
        prometheus.export(given)


def test_twice(extension, registry):
    with pytest.raises(ValueError, match=r"<Delay 'delay'>.*'delay'.*once for each Delay"):
        prometheus.export(extension, registry=registry)
    # With another prefix it may be.
    prometheus.export(extension, registry=registry, namespace="other")


def test_without_the_library(run_script):
    result = run_script(
        "import sys\n"
        "sys.modules['prometheus_client'] = None\n"
        "try:\n"
        "    import flask_delay.contrib.prometheus\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    assert "pip install flask-delay[prometheus]" in result.out, result.err


# --- Pages, and processes -------------------------------------------------------------

APP = """
import os, threading, time
from flask import Flask
from flask_delay import Delay
from flask_delay.contrib import prometheus
from prometheus_client.parser import text_string_to_metric_families

app = Flask("app", static_folder=None)
app.config["DELAY_MAX_WORKERS"] = 2
background = Delay(app)
prometheus.export(background)
app.add_url_rule("/metrics", view_func=prometheus.metrics)

def page():
    answer = app.test_client().get("/metrics")
    assert answer.status_code == 200
    assert answer.content_type.startswith("text/plain; version="), answer.content_type
    found = {}
    for family in text_string_to_metric_families(answer.get_data(as_text=True)):
        for sample in family.samples:
            labels = [value for key, value in sorted(sample.labels.items())]
            found[" ".join([sample.name, *labels])] = sample.value
    return found

def until(name, value):
    end = time.monotonic() + 20
    while page().get(name) != value:
        assert time.monotonic() < end, page()
        time.sleep(0.01)

def run(times):
    for _ in range(times):
        background.delay(int)
    assert background.drain(20)
"""


def test_the_page(run_script):
    result = run_script(
        APP + "names = {it.name for it in threading.enumerate()}\n"
        "run(3)\n"
        "found = page()\n"
        "print(found['delay_tasks_total done int'], found['delay_threads'] > 0)\n"
        "print('python_info' in str(found), 'delay-prometheus' in names)\n"
    )
    assert (result.rc, result.out) == (0, "3.0 True\nTrue False\n"), result.err


@pytest.mark.parametrize("used", [True, False], ids=["used before", "not used before"])
def test_several_processes(run_script, tmp_path, used):
    """As a server that loads the app and forks, with workers that are alive and that are not."""
    (tmp_path / "values").mkdir()
    result = run_script(
        APP
        + inspect.cleandoc(
            f"""
            if {used}:
                run(2)
            children = []
            for times in (3, 4):
                there, go = os.pipe(), os.pipe()
                pid = os.fork()
                if not pid:
                    run(times)
                    gate = threading.Event()
                    # Running, as long as the process is asked about.
                    background.delay(gate.wait)
                    os.close(go[1])
                    until("delay_tasks_running", len(children) + 1)
                    os.write(there[1], b".")
                    os.read(go[0], 1)
                    gate.set()
                    assert background.drain(20)
                    os._exit(0)
                assert os.read(there[0], 1) == b"."
                children.append((pid, go[1]))
            until("delay_tasks_running", 2)
            found = page()
            print(found["delay_tasks_total done int"], found["delay_task_run_seconds_count int"])
            print(found["delay_threads"] >= 2)
            from prometheus_client import multiprocess
            for pid, go in children:
                os.write(go, b".")
                assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
                multiprocess.mark_process_dead(pid)
            found = page()
            print(found["delay_tasks_total done int"], found.get("delay_tasks_running", 0.0))
            """
        )
        + "\n",
        env={"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "values")},
    )
    total = 9.0 if used else 7.0
    expected = f"{total} {total}\nTrue\n{total} 0.0\n"
    assert (result.rc, result.out) == (0, expected), result.err


def test_gauges_of_a_process_that_is_at_rest(run_script, tmp_path):
    """Nothing happens there any more, and its file must not tell of what was."""
    (tmp_path / "values").mkdir()
    result = run_script(
        APP + "background.delay(time.sleep, 0)\n"
        "names = {it.name for it in threading.enumerate()}\n"
        "gate = threading.Event()\n"
        "background.delay(gate.wait)\n"
        "until('delay_tasks_running', 1)\n"
        "gate.set()\n"
        "until('delay_tasks_running', 0)\n"
        "print('delay-prometheus' in names)\n",
        env={"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "values")},
    )
    assert (result.rc, result.out) == (0, "True\n"), result.err


def test_forks_while_everything_is_counted(run_script, tmp_path):
    """A lock of the client library that a child finds taken would be taken forever."""
    (tmp_path / "values").mkdir()
    result = run_script(
        APP
        + inspect.cleandoc(
            """
            end = threading.Event()

            def load():
                while not end.is_set():
                    run(50)

            thread = threading.Thread(target=load)
            thread.start()
            for _ in range(60):
                pid = os.fork()
                if not pid:
                    run(1)
                    os._exit(0)
                assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            end.set()
            thread.join()
            print("all")
            """
        )
        + "\n",
        env={"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "values")},
        timeout=40,
    )
    assert (result.rc, result.out) == (0, "all\n"), result.err
