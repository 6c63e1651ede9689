"""What tasks in worker processes cost: `python -m benchmarks.processes`.

Beside ours, with one process each: loky and Pebble, if they are installed, and
`ProcessPoolExecutor` with "spawn". Then what a view's answers take while a task computes, if
gunicorn and wrk are there.
Prints tables in Markdown.
"""

import importlib.util
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

_ROUNDS = 300
_BYTES = 1_000_000
_VIEW_ROUNDS = 9
_COMPUTES = "a process that computes"
_FOLDER = str(Path(__file__).parent.parent)

_Submit = Callable[..., "Future[Any]"]


def ours() -> _Submit:
    """Submits to a worker process of a `Delay`."""
    from flask import Flask  # noqa: PLC0415 (each process measures one of them)

    from flask_delay import Delay  # noqa: PLC0415

    app = Flask(__name__, static_folder=None)
    app.config.update(DELAY_BACKEND="processes", DELAY_PROCESSES=1)
    app.config.update(DELAY_APP="benchmarks.processes:make_app()")
    submit: _Submit = Delay(app).delay
    return submit


def make_app() -> Any:
    """The app of those worker processes."""
    from flask import Flask  # noqa: PLC0415

    from flask_delay import Delay  # noqa: PLC0415

    app = Flask(__name__, static_folder=None)
    Delay(app)
    return app


def loky() -> _Submit:
    """Submits to loky's executor."""
    from loky.process_executor import (  # type: ignore[import-not-found]  # noqa: PLC0415
        ProcessPoolExecutor,
    )

    submit: _Submit = ProcessPoolExecutor(1).submit
    return submit


def pebble() -> _Submit:
    """Submits to Pebble's pool."""
    import multiprocessing  # noqa: PLC0415

    from pebble import ProcessPool  # type: ignore[import-not-found]  # noqa: PLC0415

    pool = ProcessPool(1, context=multiprocessing.get_context("spawn"))
    return lambda fn, *args: pool.schedule(fn, args=args)


def standard() -> _Submit:
    """Submits to the standard library's."""
    import multiprocessing  # noqa: PLC0415
    from concurrent.futures import ProcessPoolExecutor  # noqa: PLC0415

    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")).submit


POOLS: dict[str, Callable[[], _Submit]] = {
    "ours": ours,
    "loky": loky,
    "Pebble": pebble,
    "ProcessPoolExecutor, spawn": standard,
}


def _seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def measure(name: str) -> None:
    """Print the figures of one pool: to be called in a process of its own."""
    begin = time.perf_counter()
    submit = POOLS[name]()
    pid = submit(os.getpid).result()
    start = time.perf_counter() - begin
    small = [_seconds(lambda: submit(abs, -1).result()) for _ in range(_ROUNDS)]
    data = bytes(_BYTES)
    large = [_seconds(lambda: submit(bytes, data).result()) for _ in range(_ROUNDS // 10)]
    doomed = submit(time.sleep, 60)
    time.sleep(0.2)
    begin = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    error = type(doomed.exception()).__name__
    died = time.perf_counter() - begin
    try:
        heals = "yes" if submit(abs, -1).result() else ""
    except Exception:
        heals = "no"
    cells = [
        f"{start * 1e3:.0f} ms",
        f"{statistics.median(small) * 1e6:.0f} µs",
        f"{statistics.median(large) * 1e3:.1f} ms",
        f"`{error}`, {died * 1e3:.0f} ms",
        heals,
    ]
    print(f"| {name} |", " | ".join(cells), "|", flush=True)


def orphan(name: str) -> None:
    """Print the id of a process that has a task, and be killed."""
    submit = POOLS[name]()
    print(submit(os.getpid).result(), flush=True)
    submit(time.sleep, 60)
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGKILL)


def forked(name: str) -> None:
    """Fork while a task runs; print what has become of it when the other process has ended."""
    submit = POOLS[name]()
    task = submit(time.sleep, 1)
    time.sleep(0.7)
    child = os.fork()
    if not child:
        sys.exit()
    os.waitpid(child, 0)
    error = task.exception()
    print("none" if error is None else f"a task fails, `{type(error).__name__}`", flush=True)


def late(name: str) -> None:
    """Submit at the interpreter's exit, as a task that was queued comes to its turn then."""
    import threading  # noqa: PLC0415

    def task() -> None:
        try:
            ran = submit(abs, -1).result() == 1
        except RuntimeError:
            ran = False
        print("yes" if ran else "no", flush=True)

    # As the native module registers its own: before what is imported later.
    import concurrent.futures.thread  # noqa: F401, PLC0415

    threading._register_atexit(task)  # type: ignore[attr-defined]
    submit = POOLS[name]()
    submit(abs, -1).result()


def _run(function: str, name: str) -> subprocess.CompletedProcess[str]:
    code = f"from benchmarks.processes import *; {function}({name!r})"
    # To files: what is left behind would keep pipes open.
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        command = [sys.executable, "-c", code]
        done = subprocess.run(
            command, stdout=out, stderr=err, cwd=_FOLDER, check=False, timeout=120
        )
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(command, done.returncode, out.read().strip(), err.read())


def _outlives(name: str) -> str:
    pid = int(_run("orphan", name).stdout)
    time.sleep(3)
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return "no"
    return "yes"


def _harm(name: str) -> str:
    done = _run("forked", name)
    error = re.findall(r"^\w+Error", done.stderr, re.MULTILINE)
    return done.stdout + (f", `{error[0]}`" if error else "")


def pools() -> None:
    """Print what the pools take."""
    print("| | start | a call | with 1 MB | killed | heals | runs what is queued at exit |", end="")
    print(" outlives a killed parent | harm of a forked process's exit |\n| --- |" + " --- |" * 8)
    for name in POOLS:
        if name in {"loky", "Pebble"} and importlib.util.find_spec(name.lower()) is None:
            continue
        cells = [_run("late", name).stdout or "no", _outlives(name), _harm(name)]
        print(_run("measure", name).stdout, " | ".join(cells), "|", flush=True)


_APP = """
from flask import Flask, request
from flask_delay import Delay, using
app = Flask(__name__, static_folder=None)
app.config.update(DELAY_APP="served:app", DELAY_PROCESSES=1)
Delay(app)

def compute(seconds):
    import time
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))

@app.get("/")
def plain():
    return "ok"

@app.get("/compute/<backend>")
def start(backend):
    return using(backend=backend).delay(compute, 8).id
"""


def views() -> None:
    """Print what a plain view takes beside a task that computes: medians of some rounds."""
    places = ("nothing", _COMPUTES, "threads", "processes")
    found: dict[str, list[tuple[float, float]]] = {place: [] for place in places}
    for number in range(_VIEW_ROUNDS):
        for place in reversed(places) if number % 2 else places:
            found[place].append(_beside(place))
    print(
        f"\n| beside | median | p99 | p99 to that beside {_COMPUTES} |\n| --- | --- | --- | --- |"
    )
    for place, rounds in found.items():
        median, p99 = (statistics.median(column) for column in zip(*rounds, strict=True))
        pairs = zip(rounds, found[_COMPUTES], strict=True)
        ratio = statistics.median(one[1] / other[1] for one, other in pairs)
        print(f"| {place} | {median:.1f} ms | {p99:.1f} ms | {ratio:.2f}x |", flush=True)


def _beside(place: str) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "served.py").write_text(_APP)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        command = "-m gunicorn --no-control-socket --threads 4 --log-level error --bind"
        server = subprocess.Popen(
            [sys.executable, *command.split(), address, "served:app"], cwd=folder
        )
        other = [sys.executable, "-c", "while True: sum(range(1000))"]
        burner = subprocess.Popen(other) if place == _COMPUTES else None
        try:
            _wait_for(address)
            if place in {"threads", "processes"}:
                _get(f"{address}/compute/{place}")
                # Until it has begun.
                time.sleep(1.5)
            return _answers(address)
        finally:
            if burner is not None:
                burner.kill()
                burner.wait()
            server.kill()
            server.wait()
            time.sleep(0.2)


def _get(url: str) -> None:
    subprocess.run(["curl", "-sf", f"http://{url}"], check=True, stdout=subprocess.DEVNULL)


def _wait_for(address: str) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            _get(address)
        except subprocess.CalledProcessError:
            time.sleep(0.1)
        else:
            return


def _answers(address: str) -> tuple[float, float]:
    """The median and the 99th of 100, in milliseconds."""
    done = subprocess.run(
        ["wrk", "-t1", "-c4", "-d3s", "--latency", f"http://{address}/"],
        check=True,
        capture_output=True,
        text=True,
    )
    found = re.findall(r"(?:50|99)%\s+([\d.]+)(us|ms|s)\b", done.stdout)
    median, p99 = (float(number) * _UNITS[unit] for number, unit in found)
    return median, p99


_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


def main() -> None:
    """Print both tables."""
    print(textwrap.dedent(__doc__ or "").partition("\n")[0], f"Python {sys.version.split()[0]}\n")
    pools()
    if shutil.which("wrk") and shutil.which("curl"):
        views()


if __name__ == "__main__":
    main()
