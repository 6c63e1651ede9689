import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

# For facts that only the operating system knows, such as a thread's end. What happens
# inside the process is waited for with events.
DEADLINE = 20.0
POLL = 0.005

TASKS = Path("/proc/self/task")

# A shell starts what it runs in the background deaf to Ctrl-C, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# One of each for the whole process, once they are needed.
SHARED = {"delay-governor", "delay-leftovers", "delay-loop_0", "delay-timer"}


@dataclass(frozen=True)
class Result:
    """How a script ended: its exit code (negative: the signal) and what it wrote."""

    rc: int
    out: str
    err: str


def _wait_until(predicate: Callable[[], object], deadline: float = DEADLINE) -> bool:
    end = time.monotonic() + deadline
    while not predicate():
        if time.monotonic() > end:
            return bool(predicate())
        time.sleep(POLL)
    return True


def pytest_collection_finish() -> None:
    # Tests collect garbage often. What is imported by now is none, and they need not look at it.
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., bool]:
    """`assert wait_until(predicate, deadline=20.0)`: poll a fact of the operating system."""
    return _wait_until


@pytest.fixture
def run_script(tmp_path: Path) -> Callable[..., Result]:
    """Run Python code in a process of its own, for exit, fork and signals.

    `run_script(code, *args, timeout=30.0, env={}, flags=("-W", "error"))`. Code that is
    not done in time is a failure that shows its stacks; nothing it started survives.
    """

    def run(
        code: str,
        *args: str,
        timeout: float = 30.0,
        env: Mapping[str, str] | None = None,
        # Later ones win: forking with threads, which 3.12 warns of, is what we are for.
        flags: Sequence[str] = ("-W", "error", "-W", "ignore:This process:DeprecationWarning"),
    ) -> Result:
        script = tmp_path / "script.py"
        script.write_text(code)
        process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", *flags, str(script), *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**os.environ, **(env or {})},
            # A group of its own, so that forked children can be ended with it.
            start_new_session=True,
        )
        in_time = True
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            in_time = False
            out, err = _end_with_stacks(process)
        finally:
            _signal_group(process.pid, signal.SIGKILL)
        if not in_time:
            # A forked child that lives on counts too: it holds the output open.
            pytest.fail(f"not done after {timeout} s\n--- out\n{out}\n--- err\n{err}")
        return Result(process.returncode, out, err)

    return run


def _end_with_stacks(process: subprocess.Popen[str]) -> tuple[str, str]:
    # Faulthandler answers this one with the stacks of all threads.
    _signal_group(process.pid, signal.SIGABRT)
    try:
        return process.communicate(timeout=5.0)
    except subprocess.TimeoutExpired:
        _signal_group(process.pid, signal.SIGKILL)
        return process.communicate()


def _signal_group(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        # No one is left; macOS says so with the second.
        return


def _threads() -> dict[str, str]:
    """The native threads of this process with their names; none where Linux's /proc is not."""
    # A list that is read while a thread ends may lack another one.
    found = _list_threads()
    while (again := _list_threads()) != found:
        found = again
    return found


def _list_threads() -> dict[str, str]:
    found = {}
    for task in TASKS.iterdir() if TASKS.exists() else ():
        try:
            name = (task / "comm").read_text().strip()
        except OSError:
            # It ended meanwhile.
            continue
        # The event loop's, which all pools share and none ends.
        if not name.startswith("delay-loop"):
            found[task.name] = name
    return found


@pytest.fixture(autouse=True)
def _no_thread_left(request: pytest.FixtureRequest) -> Iterator[None]:
    before = _threads()
    yield
    if request.node.get_closest_marker("keeps_threads"):
        return

    def left() -> dict[str, str]:
        return {
            tid: name
            for tid, name in _threads().items()
            if tid not in before and name not in SHARED
        }

    if left():
        # A pool that was dropped in a circle ends with it.
        gc.collect()
        if not _wait_until(lambda: not left(), deadline=5.0):
            pytest.fail(f"threads left behind: {', '.join(left().values())}; shut their pool down")
