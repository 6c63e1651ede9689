"""A Redis and a Celery worker, both real."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tests.celery import work

ROOT = Path(__file__).parents[2]
DEADLINE = 20.0


class Redis:
    """A server of its own, that can be killed and comes back with what it had."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1"]
        kept = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
        self._process = subprocess.Popen(
            [*command, *kept, "--dir", str(self.folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                    connection.sendall(b"PING\r\n")
                    if connection.recv(64).startswith(b"+PONG"):
                        return
            except OSError:
                pass
            time.sleep(0.01)
        raise AssertionError("redis-server did not come up")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Worker:
    """`celery worker` in a process group of its own; what it writes is kept."""

    def __init__(
        self,
        url: str,
        *arguments: str,
        command: tuple[str, ...] = ("-m", "celery", "-A", "tests.celery.site:celery", "worker"),
        path: Path = ROOT,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        if environment is None:
            environment = {"SITE_REDIS": url, "FLASK_APP": "tests.celery.site:app"}
        plain = ("--without-gossip", "--without-mingle", "-l", "INFO")
        self._process = subprocess.Popen(
            [sys.executable, *command, *plain, *arguments],
            cwd=path,
            env={**os.environ, "PYTHONPATH": str(path), **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._lines: list[str] = []
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        try:
            self.wait_for(" ready.")
        except AssertionError:
            self.kill()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        with self._more:
            return "".join(self._lines)

    def wait_for(self, text: str) -> None:
        with self._more:
            found = self._more.wait_for(
                lambda: (
                    any(text in line for line in self._lines) or self._process.poll() is not None
                ),
                DEADLINE,
            )
            assert found, f"{text!r} not in:\n{''.join(self._lines)}"
            assert any(text in line for line in self._lines), "".join(self._lines)

    def stop(self) -> int:
        self._process.terminate()
        try:
            return self._process.wait(DEADLINE)
        finally:
            self.kill()

    def kill(self) -> None:
        """Kill it, with its children."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                with self._more:
                    self._lines.append(line)
                    self._more.notify_all()
        with self._more:
            self._more.notify_all()


@contextmanager
def run_redis(folder: Path) -> Iterator[Redis]:
    """A server that keeps its data in this folder, until the block ends."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is missing; on Debian: apt-get install redis-server")
    server = Redis(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def entered(url, name):
    client, key = work.gate(url, name)
    found = client.blpop(f"{key}-in", timeout=DEADLINE)
    assert found, "the task has not begun"
    return int(found[1])


def let_go(url, name):
    client, key = work.gate(url, name)
    client.rpush(f"{key}-out", "")
