"""The cost of a task for the requests of a server: gunicorn, loaded by wrk."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from benchmarks import WRK_CPUS, machine
from benchmarks.cases import WORKERS
from benchmarks.model import Peer, Values

CONNECTIONS = 16
WARM_UP = 1.0


def needs_wrk() -> str | None:
    """The reason why servers cannot be measured."""
    return None if shutil.which("wrk") else "wrk is not installed; on Debian: apt-get install wrk"


def views_that_delay(peer: Peer, size: int) -> Values:
    """A view that starts one task of 5 ms, for `size` seconds."""
    with _server(peer) as url:
        _ask(f"{url}/delay", WARM_UP)
        return _ask(f"{url}/delay", size)


def views_beside_computing(peer: Peer, size: int) -> Values:
    """A plain view, while one task computes in pure Python."""
    return _beside_computing(peer, size, WORKERS, CONNECTIONS)


def few_views_beside_computing(peer: Peer, size: int) -> Values:
    """The same with fewer threads and connections: one processor is left for the computing task."""
    return _beside_computing(peer, size, 4, 4)


def _beside_computing(peer: Peer, size: int, threads: int, connections: int) -> Values:
    with _server(peer, threads) as url:
        _ask(f"{url}/plain", WARM_UP, connections)
        _get(f"{url}/burn")
        # Warms up the code that watches for such tasks.
        _ask(f"{url}/plain", WARM_UP, connections)
        try:
            return _ask(f"{url}/plain", size, connections)
        finally:
            _get(f"{url}/stop")


@contextlib.contextmanager
def _server(peer: Peer, threads: int = WORKERS) -> Iterator[str]:
    with (
        tempfile.TemporaryDirectory() as scratch,
        peer.services(Path(scratch)),
        socket.create_server(("127.0.0.1", 0), backlog=128) as listener,
        (Path(scratch) / "gunicorn.log").open("w+") as log,
    ):
        command = [sys.executable, "-m", "gunicorn", f"benchmarks.web:create({peer.name!r})"]
        command += ["--workers=1", "--worker-class=gthread", f"--threads={threads}"]
        command += ["--log-level=warning", f"--bind=fd://{listener.fileno()}"]
        server = subprocess.Popen(
            command, stderr=log, pass_fds=[listener.fileno()], start_new_session=True
        )
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            _wait_for(f"{url}/plain", server)
            yield url
        except Exception as error:
            log.seek(0)
            error.add_note(log.read()[-2000:])
            raise
        finally:
            _end(server)


def _wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            return _get(url, 2)
        except (urllib.error.URLError, OSError):
            if server.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _get(url: str, timeout: float = 20) -> None:
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        answer.read()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _ask(url: str, seconds: float, connections: int = CONNECTIONS) -> Values:
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--latency", url]
    cpus = os.environ.get(WRK_CPUS)
    with machine.pinned_to(set(map(int, cpus.split(",")))) if cpus else contextlib.nullcontext():
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    return parse(done.stdout)


def parse(output: str) -> Values:
    """Requests/s, p50 and p99 from wrk's output; ValueError if not all answers were good."""
    bad = re.search(r"(Non-2xx.*|Socket errors:.*)", output)
    if bad:
        raise ValueError(f"wrk: {bad[1]}")
    rate = re.search(r"Requests/sec: +([\d.]+)", output)
    units = {"us": 1e-6, "ms": 1e-3, "s": 1}
    found = re.findall(r"^ +(50|99)% +([\d.]+)(us|ms|s)$", output, re.MULTILINE)
    times = {f"p{percent}": float(number) * units[unit] for percent, number, unit in found}
    if not rate or times.keys() != {"p50", "p99"}:
        raise ValueError(f"wrk printed no rate and percentiles:\n{output}")
    return {"rate": float(rate[1]), **times}
