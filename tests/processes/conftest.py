"""What the tests of worker processes share: an app, with real ones."""

import importlib
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import wait
from pathlib import Path

import pytest

HERE = Path(__file__).parent
DEADLINE = 20.0


@pytest.fixture(scope="session")
def crunch(tmp_path_factory):
    """The module of the app. What starts worker processes has its folder on its path."""
    sys.path.insert(0, str(HERE))
    os.environ["CRUNCH_FOLDER"] = str(tmp_path_factory.mktemp("instance"))
    before = signal.getsignal(signal.SIGTERM)
    yield importlib.import_module("crunch")
    signal.signal(signal.SIGTERM, before)
    sys.path.remove(str(HERE))
    del os.environ["CRUNCH_FOLDER"]


def close(app):
    state = app.extensions["delay"]
    state.shutdown(wait=False, cancel_futures=True)
    assert state.drain(DEADLINE), "a task goes on after its test"
    state.shutdown(wait=True, cancel_futures=False)


@pytest.fixture(scope="session")
def shared(crunch):
    """One for most tests: a worker process takes a while to start."""
    app = crunch.create_app()
    yield app
    close(app)


@pytest.fixture
def app(shared):
    """The current one."""
    with shared.app_context():
        yield shared


@pytest.fixture
def make_app(crunch):
    made = []

    def make(**config):
        made.append(crunch.create_app(**config))
        return made[-1]

    yield make
    for app in made:
        close(app)


def until(true):
    end = time.monotonic() + DEADLINE
    while not (result := true()):
        assert time.monotonic() < end, "it does not come to be"
        time.sleep(0.005)
    return result


def read(path):
    """The number that a process writes into the file."""
    until(path.exists)
    return int(path.read_text())


def is_gone(pid):
    """Whether it has ended, and is no zombie of ours."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def ended(future):
    """The future, once it is done."""
    assert future in wait([future], DEADLINE).done
    return future


def python(script, *arguments, check=True):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=DEADLINE * 2,
        check=check,
        env={**os.environ, "PYTHONPATH": str(HERE)},
    )
