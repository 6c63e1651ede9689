"""Apps with a journal: in this process, and in processes that a test drives line by line."""

import ast
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_delay import Delay
from flask_delay.testing import journal

# Far more than anything here takes: it turns a hang into a failure.
DEADLINE = 30.0

SHOP = Path(__file__).with_name("shop.py")
# What starts them: each takes the time of an import or two.
STARTERS = {"start", "flask", "make_fleet", "faults", "refused"}
# Answers each line, an expression or a statement of Python, with a line of JSON.
DRIVER = """
import json, sys, traceback
import shop
from shop import *
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
with app.app_context():
    for line in sys.stdin:
        code, value, error = json.loads(line), None, None
        try:
            try:
                compiled = compile(code, "<test>", "eval")
            except SyntaxError:
                exec(compile(code, "<test>", "exec"), vars(shop))
            else:
                value = eval(compiled, vars(shop))
        except BaseException as caught:
            error = f"{type(caught).__name__}: {caught}"
        print(json.dumps([repr(value), error]), file=answers, flush=True)
"""


class Raised(Exception):
    """What a process has answered with an error."""


class Process:
    """A process with the app of `shop.py`. `process("1 + 1")` runs code there."""

    def __init__(self, folder: Path, script: str, *, name: str, **config: Any) -> None:
        self._log = folder / f"{name}.log"
        environment = {
            **os.environ,
            "PYTHONPATH": str(folder),
            "SHOP_CONFIG": repr(config),
            "SHOP_FOLDER": str(folder),
        }
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-X", "faulthandler", "-c", script],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=folder,
                env=environment,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def __call__(self, code: str) -> Any:
        """Run code there and return its value. Raises `Raised`."""
        self.send(code)
        return self.answer()

    def send(self, code: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(code) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        assert self._process.stdout is not None
        # A process that hangs shows its stacks and dies.
        alarm = threading.Timer(DEADLINE, self._process.send_signal, [signal.SIGABRT])
        alarm.start()
        line = self._process.stdout.readline()
        alarm.cancel()
        alarm.join()
        if not line:
            pytest.fail(f"the process has ended: {self._process.wait(DEADLINE)}\n{self.log()}")
        value, error = json.loads(line)
        if error is not None:
            raise Raised(error)
        return _value(value)

    def has_answered(self, seconds: float) -> bool:
        """Whether there is an answer within so many seconds."""
        assert self._process.stdout is not None
        return bool(select.select([self._process.stdout], [], [], seconds)[0])

    def log(self) -> str:
        """What it has logged."""
        return self._log.read_text()

    def kill(self) -> None:
        """Kill it at once."""
        self._process.kill()
        self._process.wait(DEADLINE)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """Wait for its end; return its exit code."""
        return self._process.wait(DEADLINE)

    def end(self) -> int:
        """Let it end as a program does; return its exit code."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._process.wait(DEADLINE)

    def clean(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait(DEADLINE)


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and STARTERS.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("workers")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Start a process with the app of `shop.py`, whose journal is in a folder of the test.

    `start(code=..., DELAY_JOURNAL_DEATHS=1)`: `code` is added to the module of the app.
    """
    started: list[Process] = []

    def start(code: str = "", **config: Any) -> Process:
        # A folder of its own for each code, as with a deploy.
        folder = tmp_path / f"process-{len(started)}"
        folder.mkdir()
        (folder / "shop.py").write_text(SHOP.read_text() + code)
        config = {"DELAY_JOURNAL": str(tmp_path / "journal.db"), **config}
        process = Process(folder, DRIVER, name="process", **config)
        started.append(process)
        return process

    yield start
    for process in started:
        process.clean()


def run_flask(
    folder: Path, *arguments: str, app: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command of `flask` in the folder of an app."""
    return subprocess.run(
        [sys.executable, "-m", "flask", "--app", app, *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


@pytest.fixture
def notes(tmp_path: Path) -> Callable[[], list[Any]]:
    """What the tasks of all processes have noted so far."""

    def read() -> list[Any]:
        path = tmp_path / "notes"
        # The last one may not be whole yet.
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return [json.loads(line) for line in lines]

    return read


@pytest.fixture
def make_app(tmp_path: Path) -> Iterator[Callable[..., Flask]]:
    """Make an app with a journal in a folder of the test, which is closed afterwards."""
    with ExitStack() as stack:
        settings = stack.enter_context(journal(tmp_path))

        def make(name: str = "app", **config: Any) -> Flask:
            app = Flask(name, static_folder=None, instance_path=str(tmp_path / "instance"))
            app.config.update({**settings, **config})
            extension = Delay(app)
            app.register_blueprint(
                extension.status_blueprint(url_prefix="/tasks", results=True, errors=True)
            )
            return app

        yield make


def noted(notes: Callable[[], list[Any]], what: str) -> list[Any]:
    """The notes of this kind."""
    return [it for it in notes() if it["what"] == what]


@pytest.fixture
def until(wait_until: Callable[..., bool]) -> Callable[[Process, str], None]:
    """`until(process, code)`: wait until the code is true there."""

    def wait(process: Process, code: str) -> None:
        assert wait_until(lambda: process(code)), f"{code} in {process.log()}"

    return wait


@pytest.fixture
def pair(start: Callable[..., Process]) -> tuple[Process, Process]:
    """One that runs a task already, with a single worker, and another one."""
    return start(DELAY_MAX_WORKERS=1), start(DELAY_MAX_WORKERS=1)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`faults.c`, compiled."""
    if sys.platform != "linux" or shutil.which("cc") is None:
        pytest.skip("needs Linux and a C compiler")
    path = tmp_path_factory.mktemp("library") / "faults.so"
    source = Path(__file__).with_name("faults.c")
    command = ["cc", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(path), str(source)]
    subprocess.run(command, check=True)
    return path


class Faults:
    """The calls that fail. `faults.begin("full")`, and `end`."""

    def __init__(self, folder: Path, environment: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._environment = environment

    def spare_others(self) -> None:
        """No calls fail of the processes that are started from now on."""
        self._environment.delenv("LD_PRELOAD")

    def begin(self, name: str) -> None:
        (self._folder / name).touch()

    def end(self, name: str) -> None:
        (self._folder / name).unlink()


@pytest.fixture
def faults(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    """System calls that fail, in the processes that are started from now on."""
    folder = tmp_path / "faults"
    folder.mkdir()
    monkeypatch.setenv("FAULTS", str(folder))
    monkeypatch.setenv("LD_PRELOAD", str(library))
    yield Faults(folder, monkeypatch)
    # No process waits for a disk that does not come.
    shutil.rmtree(folder)
