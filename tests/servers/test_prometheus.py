"""The Prometheus page under gunicorn: whichever worker answers, it tells of all of them."""

import importlib.util
import os
import re
import signal
import sys
import urllib.request
from pathlib import Path

import pytest
from tests.servers.harness import DEADLINE, poll

pytest.importorskip("prometheus_client")
from prometheus_client.parser import text_string_to_metric_families

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gunicorn") is None, reason="gunicorn is not installed"
)

PAGE = (Path(__file__).parents[2] / "docs/figures.md").read_text()
CONFIG = "control_socket_disable = True\n" + re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[-1]
APP = """
import {module} as module
from flask_delay.contrib import prometheus

app = module.app
prometheus.export(app.extensions["delay"].owner)
app.add_url_rule("/metrics", view_func=prometheus.metrics)
"""
WORKERS = 3
WAITING = 4


@pytest.fixture(params=["preloaded", "not preloaded"])
def server(request, serve, tmp_path):
    """Three workers; preloaded, with a pool that the process which forked them has used."""
    preload = request.param == "preloaded"
    (tmp_path / "gunicorn.conf.py").write_text(CONFIG)
    (tmp_path / "measured.py").write_text(APP.format(module="used" if preload else "app"))
    (tmp_path / "values").mkdir()
    command = [
        *(sys.executable, "-m", "gunicorn", "--bind", "{host}:{port}"),
        *("--config", str(tmp_path / "gunicorn.conf.py"), "--pythonpath", str(tmp_path)),
        *("--workers", str(WORKERS), "--worker-class", "gthread", "--threads", "2"),
        *(["--preload"] if preload else []),
        "measured:app",
    ]
    # One process may get all of the tasks that wait.
    env = {"FLASK_DELAY_MAX_WORKERS": str(WAITING)}
    return serve(command, env | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "values")})


def page(server):
    """What the page tells: the values, by name and labels."""
    url = f"http://{server.host}:{server.port}/metrics"
    with urllib.request.urlopen(url, timeout=DEADLINE) as response:
        text = response.read().decode()
    return {
        (sample.name, *map(sample.labels.get, sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_page_sums_over_workers(server):
    pids = server.ask_every_worker(WORKERS)
    # A default callback comes before a task's own.
    assert server.wait_for_records("called back", pids), server.log()
    for name in [f"wait-{n}" for n in range(WAITING)]:
        pids[name] = server.get(f"wait/{name}")["pid"]
    assert poll(lambda: len(server.records("started")) == WAITING), server.log()
    done, count = ("delay_tasks_total", "done", "run"), ("delay_task_run_seconds_count", "run")
    running, threads = ("delay_tasks_running",), ("delay_threads",)
    ran = len(pids) - WAITING
    # Each of them may answer. It knows of the others what they had counted a second ago.
    assert poll(lambda: [page(server)[done] for _ in range(10)] == [ran] * 10), page(server)
    assert poll(lambda: page(server)[count] == ran), page(server)
    assert poll(lambda: page(server)[running] == WAITING), page(server)
    assert page(server)[threads] >= WORKERS
    # What a worker has counted stays; what it had running does not.
    killed = pids["wait-0"]
    os.kill(killed, signal.SIGKILL)
    left = sum(pids[f"wait-{n}"] != killed for n in range(WAITING))
    assert poll(lambda: page(server)[running] == left), page(server)
    assert page(server)[done] == ran
    (server.folder / "go").touch()
    assert poll(lambda: page(server)[running] == 0), page(server)
    assert poll(lambda: page(server).get(("delay_tasks_total", "done", "wait"), 0) == left)
    server.terminate()
    assert server.wait() == 0
    assert poll(server.is_gone)
    assert "Traceback" not in server.log(), server.log()
