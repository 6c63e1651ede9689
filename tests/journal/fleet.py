"""gunicorn with the app of `served.py`, its processes, and clients that note its answers."""

import contextlib
import http.client
import json
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.journal.record import Told, reading
from tests.servers.harness import address, poll

ROOT = Path(__file__).parents[2]
# gunicorn itself must not kill a process that is stopped, or busy.
PATIENT = ("--timeout", "0", "--graceful-timeout", "20")
GUNICORN = ("-m", "gunicorn", "--no-control-socket")
APP = "tests.journal.served:app"


class Server:
    """One gunicorn, in a process group of its own."""

    def __init__(self, fleet: "Fleet", *arguments: str, app: str = APP) -> None:
        self._fleet = fleet
        with fleet.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *GUNICORN, *PATIENT, "--bind", fleet.bound, *arguments, app],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=fleet.folder,
                env={**os.environ, **fleet.env},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def workers(self) -> list[int]:
        """The processes that serve now."""
        return children(self.pid)

    def is_gone(self) -> bool:
        """Whether no process of it is left."""
        self.process.poll()
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return True
        return False

    def reload(self) -> None:
        """Let it replace its workers, as on SIGHUP."""
        old = set(self.workers())
        self.process.send_signal(signal.SIGHUP)
        assert poll(lambda: not old & set(self.workers())), self._fleet.log.read_text()

    def end(self) -> None:
        """Let it end as a deploy does."""
        self.process.terminate()
        self.process.wait(60)
        assert poll(self.is_gone), self._fleet.log.read_text()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()


class Fleet:
    """What serves one journal: one gunicorn, or several, in one folder and at one address."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.record = folder / "record"
        self.record.touch()
        self.journal = folder / "delay" / "journal.db"
        self.host, self.port = address()
        self.bound = f"{self.host}:{self.port}"
        settings = {"JOURNAL": str(self.journal), "SHUTDOWN_TIMEOUT": 10, **settings}
        self.env = {f"FLASK_DELAY_{name}": str(value) for name, value in settings.items()}
        self.env["RECORD"] = str(self.record)
        self.env["PYTHONPATH"] = f"{folder}{os.pathsep}{ROOT}"
        self.servers: list[Server] = []
        self.told = Told()

    def start(
        self, *arguments: str, workers: int = 4, app: str = APP, shares: bool = True
    ) -> Server:
        """Start a gunicorn, and return when it answers.

        With `shares`, another one may serve at the same address. Then a process that is stopped has
        its share of the requests too.
        """
        shared = ["--reuse-port"] if shares else []
        server = Server(self, "--workers", str(workers), *shared, *arguments, app=app)
        self.servers.append(server)

        def is_up() -> bool:
            assert server.process.poll() is None, self.log.read_text()
            return len(server.workers()) >= workers and self.answers()

        assert poll(is_up), self.log.read_text()
        return server

    def close(self) -> None:
        for server in self.servers:
            server.kill()

    def answers(self) -> bool:
        try:
            return self.ask("GET", "/")[0] == 200
        except OSError:
            return False

    def ask(self, method: str, path: str) -> tuple[int, Any]:
        """Ask whichever process takes the connection. Raises OSError if that dies meanwhile."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        with contextlib.closing(connection):
            try:
                connection.request(method, path, headers={"Connection": "close"})
                response = connection.getresponse()
                return response.status, json.loads(response.read())
            except (http.client.HTTPException, ValueError) as error:
                raise ConnectionError(str(error)) from error

    def submit(self, number: int, name: str = "work") -> str | None:
        """Submit a task, and note the answer, or that there was none; the id if it was accepted."""
        told = self.told
        try:
            status, answer = self.ask("POST", f"/submit/{number}/{name}")
        except ConnectionRefusedError:
            # Nobody has heard of it.
            return None
        except OSError:
            told.unanswered.add(number)
            return None
        if status == 200:
            told.accepted[number] = answer["id"]
            return str(answer["id"])
        assert status == 503, (answer, self.log.read_text())
        told.refused.add(number)
        return None

    def look(self, number: int) -> str | None:
        """Ask for the state of an accepted task, and note what is said."""
        id = self.told.accepted[number]
        try:
            status, answer = self.ask("GET", f"/tasks/{id}")
        except OSError:
            return None
        if status in (404, 410):
            self.told.unknown.append(id)
        elif status == 200 and answer["state"] == "finished" and answer["error"] is None:
            self.told.ended.setdefault(number, time.monotonic())
        return str(answer.get("state"))

    def count(self, *states: int) -> int:
        """How many tasks the file has in these states."""
        marks = ", ".join("?" * len(states))
        with reading(self.journal) as connection:
            query = f"SELECT count(*) FROM task WHERE state IN ({marks})"
            (count,) = connection.execute(query, states).fetchone()
        return int(count)

    def wait_until_idle(self, seconds: float = 60) -> bool:
        """Wait until every task has ended or is parked."""
        return bool(poll(lambda: self.count(0, 1, 2, 3, 5) == 0, seconds))

    # --- Clients ---------------------------------------------------------------------

    @contextlib.contextmanager
    def clients(self, count: int, pause: float = 0.0, name: str = "work") -> Iterator[None]:
        """Clients that submit tasks, and ask for old ones, until the block ends."""
        over = threading.Event()
        faults: list[BaseException] = []

        def client(first: int) -> None:
            number = first
            try:
                while not over.is_set():
                    if self.submit(number, name) is None and number not in self.told.unanswered:
                        over.wait(0.02)
                    number += count
                    if self.told.accepted and random.random() < 0.2:
                        self.look(random.choice(list(self.told.accepted)))
                    over.wait(pause)
            except BaseException as error:
                faults.append(error)

        start = max((*self.told.accepted, *self.told.unanswered, 0)) + 1
        threads = [threading.Thread(target=client, args=(start + it,)) for it in range(count)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join()
        if faults:
            raise faults[0]

    # --- Deaths ----------------------------------------------------------------------

    def slay(self, pids: list[int], *, alone: bool = False) -> None:
        """Send these processes SIGKILL, note when, and wait until they are dead.

        One that was killed before is left out: its parent may not have noticed yet, and a second
        time would be later than its death.
        """
        handles = []
        for pid in pids:
            if pid not in self.told.killed:
                with contextlib.suppress(ProcessLookupError):
                    handles.append((pid, os.pidfd_open(pid)))
        for pid, handle in handles:
            # Before it is sent: no task may be started again before.
            self.told.killed[pid] = time.monotonic()
            if alone:
                self.told.alone.add(pid)
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        for _, handle in handles:
            is_dead = wait_for_death(handle)
            os.close(handle)
            assert is_dead


def children(pid: int) -> list[int]:
    """The children of a process; none if it is gone."""
    try:
        told = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(it) for it in told.split()]


def wait_for_death(handle: int, seconds: float = 30) -> bool:
    """Wait for the process of a pidfd."""
    waiter = select.poll()
    waiter.register(handle, select.POLLIN)
    return bool(waiter.poll(seconds * 1000))


@contextlib.contextmanager
def sailing(folder: Path, **settings: object) -> Iterator[Fleet]:
    """A fleet that is gone afterwards, whatever happens."""
    fleet = Fleet(folder, **settings)
    try:
        yield fleet
    finally:
        fleet.close()
