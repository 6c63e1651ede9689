"""`flask delay dashboard` in a browser, on the journal of another process that works."""

import http.client
import re
import signal
import subprocess
import sys
from contextlib import ExitStack

import pytest
from tests.browser.views import VIEWS, address_of, found_by_axe

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

DEADLINE = 30.0
# The app. Its `work` is what another process does, line by line.
SHOP = """
import sys
import threading
from pathlib import Path

from flask import Flask
from flask_delay import Delay, current_task, delay, task, using

app = Flask("shop", instance_path=str(Path(__file__).parent / "instance"), static_folder=None)
app.config.update(DELAY_JOURNAL=True, DELAY_MAX_WORKERS=2, DELAY_LOG_FAILURES=False)
executor = Delay(app)
go = threading.Event()

@task(durable=True)
def charge(order):
    raise ConnectionError(f"order {order}: the bank did not answer")

@task(durable=True)
def export_orders(year):
    current_task.progress(3, 10, "reading")
    go.wait()

@task(durable=True)
def ship(order):
    return order

def tidy():
    pass

def fail(order):
    delay(charge, order).exception(30)

def work():
    with app.app_context():
        using(every=3600, key="tidy").delay(tidy)
        executor.pause("shop.ship")
        held = delay(ship, 1)
        delay(int)
        for order in range(3):
            fail(order)
        running = delay(export_orders, 2026)
        while running.progress is None:
            pass
        for word in iter(sys.stdin.readline, ""):
            go.set() if word == "go\\n" else fail(9)
            print("done", flush=True)
"""
# Whatever does something: a form that is no search, and what htmx sends.
ACTS = """
    [...document.querySelectorAll("[hx-post], [formaction], form")]
        .filter(it => !["get", "dialog"].includes(it.method))
        .map(it => it.outerHTML.slice(0, 120))
"""


@pytest.fixture
def started(tmp_path):
    """Start a process in the folder of the app; it, and its lines."""
    (tmp_path / "shop.py").write_text(SHOP)
    with ExitStack() as stack:

        def start(*command):
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=tmp_path,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield start


def test_it_shows_what_other_processes_do_and_lets_do_nothing(started, look):
    worker = started("-c", "import shop; shop.work()")

    def have(word):
        worker.stdin.write(f"{word}\n")
        worker.stdin.flush()
        assert worker.stdout.readline() == "done\n"

    have("fail")
    command = started("-m", "flask", "--app", "shop", "delay", "dashboard", "--port", "0")
    line = command.stdout.readline()
    told = re.fullmatch(
        r"Delay 'delay' on app 'shop': (http://127\.0\.0\.1:(\d+))/ until Ctrl-C; read-only\n", line
    )
    assert told, line
    url = told[1]
    seen = look()
    for path in VIEWS:
        if path == "/names/int":
            path = "/names/charge"  # noqa: PLW2901 (a task without a body is not in the journal)
        assert seen.page.goto(address_of(seen, url, path)).status == 200
        assert seen.page.evaluate(ACTS) == [], path
        assert seen.page.get_by_text("read-only").is_visible()
        assert found_by_axe(seen.page) == [], path
    seen.page.goto(f"{url}/failed")
    rows = seen.page.locator("tbody tr")
    assert rows.count() == 4
    have("fail")
    rows.nth(4).wait_for()
    seen.page.goto(f"{url}/running")
    assert rows.count() == 1
    seen.page.get_by_text("30 %").wait_for()
    have("go")
    seen.page.get_by_text("Nothing runs at the moment").wait_for()
    assert seen.complaints == []
    for method, path, headers in (
        ("GET", "/", {"Host": "shop.example"}),
        ("GET", "/failed", {"Host": f"shop.example:{told[2]}"}),
        ("POST", "/failed/retry", {"Sec-Fetch-Site": "same-origin"}),
    ):
        connection = http.client.HTTPConnection("127.0.0.1", int(told[2]), timeout=DEADLINE)
        connection.request(method, path, headers=headers)
        assert connection.getresponse().status == 403
        connection.close()
    command.send_signal(signal.SIGINT)
    assert command.communicate(timeout=DEADLINE)[0] == "Ends\n"
    assert command.returncode == 0
