"""Order from `app.py` under gunicorn, kill its workers, and see all receipts sent.

Run it with `make demo-durable`. It takes some ten seconds and leaves nothing behind.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

WORKERS = 2
SECONDS_PER_LINE = os.environ.get("SECONDS_PER_LINE", "0.3")
PATIENCE = 30.0
POLL = 0.05

_T = TypeVar("_T")
started = time.monotonic()


class DemoError(Exception):
    """What had to happen did not."""


class Server:
    """gunicorn and its workers, in a process group of their own."""

    def __init__(self, folder: Path, name: str) -> None:
        self._log = folder / f"{name}.log"
        gunicorn = ["-m", "gunicorn", "--no-control-socket", "--bind", "127.0.0.1:0"]
        options = [f"--workers={WORKERS}", "--threads=4", "app:create_app()"]
        settings = {"SHOP_FOLDER": str(folder), "FLASK_SECONDS_PER_LINE": SECONDS_PER_LINE}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, *gunicorn, *options],
                cwd=Path(__file__).parent,
                env=os.environ | settings,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_until_it_serves(self) -> list[str]:
        """Wait for gunicorn; return the pids of its workers."""
        (self._address,) = wait(lambda: self._logged(r"at: http://(\S+)"), "gunicorn to start")
        wait(lambda: len(self._workers()) >= WORKERS, "its workers to start")
        self.ask("GET", "/")
        return self._workers()

    def _workers(self) -> list[str]:
        return self._logged(r"Booting worker with pid: (\d+)")

    def _logged(self, pattern: str) -> list[str]:
        return re.findall(pattern, self._log.read_text())

    def ask(self, method: str, path: str, **form: str) -> tuple[Any, str]:
        """Send a request: the answer, and the worker that has given it."""
        connection = HTTPConnection(self._address, timeout=PATIENCE)
        try:
            kind = {"Content-Type": "application/x-www-form-urlencoded"} if form else {}
            connection.request(method, path, urlencode(form) or None, kind)
            response = connection.getresponse()
            text = response.read().decode()
            if response.status >= 400:  # noqa: PLR2004
                raise DemoError(f"{method} {path}: {response.status} {text}")
            is_json = response.headers.get_content_type() == "application/json"
            return json.loads(text) if is_json else text, response.headers["X-Worker"]
        finally:
            connection.close()

    def kill(self) -> None:
        """Kill gunicorn and all its workers at once."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def end(self) -> None:
        """Let it end in order, if it has not ended."""
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait(PATIENCE)


@dataclass
class Receipt:
    """A receipt that a task sends: what it is for, and which worker was seen to write it."""

    item: str
    status: str
    worker: str = ""

    def look(self, server: Server) -> dict[str, Any]:
        """Ask any worker how far the task is."""
        page: dict[str, Any]
        page, _ = server.ask("GET", self.status)
        if page["progress"]:
            self.worker = page["progress"]["note"].removeprefix("in worker ")
        return page

    def is_begun(self, server: Server) -> bool:
        """Whether a worker has written a line of it."""
        progress = self.look(server)["progress"]
        return progress is not None and progress["done"] > 0


def wait(look: Callable[[], _T], what: str) -> _T:
    """Look until there is something."""
    end = time.monotonic() + PATIENCE
    while not (found := look()):
        if time.monotonic() > end:
            raise DemoError(f"{PATIENCE:.0f} s were not enough for {what}")
        time.sleep(POLL)
    return found


def say(text: str) -> None:
    print(f"{time.monotonic() - started:5.1f} s  {text}", flush=True)


def listed(items: Iterable[str]) -> str:
    *most, last = items
    return f"{', '.join(most)} and {last}" if most else last


def order(server: Server, *items: str) -> list[Receipt]:
    """Order one item after the other, and wait until workers are in the middle of all receipts."""
    receipts = []
    for item in items:
        begun = time.monotonic()
        key = str(uuid.uuid4())
        answer, worker = server.ask("POST", "/orders", key=key, item=item, email="ann@example.org")
        took = 1000 * (time.monotonic() - begun)
        say(f"{item}: ordered; worker {worker} has answered after {took:.0f} ms")
        receipts.append(Receipt(item, answer["status"]))
    for it in receipts:
        wait(lambda it=it: it.is_begun(server), f"the receipt of {it.item}")  # type: ignore[misc]
    return receipts


def follow(server: Server, receipts: list[Receipt]) -> None:
    """Say what happens to the receipts until all are sent."""
    end = time.monotonic() + PATIENCE
    waiting = list(receipts)
    while waiting:
        for it in list(waiting):
            before = it.worker
            page = it.look(server)
            if it.worker != before:
                say(f"{it.item}: worker {it.worker} begins again, attempt {page['attempts']}")
            if page["state"] == "finished":
                say(f"{it.item}: worker {it.worker} has sent the receipt")
                waiting.remove(it)
        if time.monotonic() > end:
            raise DemoError(f"no receipt for {listed(it.item for it in waiting)}")
        time.sleep(POLL)


def run(folder: Path, servers: list[Server]) -> int:
    """Kill one worker, then all of them; return the number of orders."""
    servers.append(first := Server(folder, "first"))
    say(f"gunicorn serves an order form; its workers are {listed(first.wait_until_it_serves())}")
    receipts = order(first, "tea", "coffee", "honey", "bread")
    ((victim, _),) = Counter(it.worker for it in receipts).most_common(1)
    items = listed(it.item for it in receipts if it.worker == victim)
    os.kill(int(victim), signal.SIGKILL)
    say(f"kill -9 {victim}, the worker that writes the receipts of {items}")
    follow(first, receipts)
    print()
    more = order(first, "milk", "salt")
    first.kill()
    say("kill -9 of gunicorn and all its workers")
    servers.append(second := Server(folder, "second"))
    say(f"gunicorn serves again; its workers are {listed(second.wait_until_it_serves())}")
    follow(second, more)
    return len(receipts + more)


def main() -> None:
    servers: list[Server] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            count = run(folder, servers)
        except (DemoError, OSError, HTTPException) as error:
            logs = [path.read_text() for path in sorted(folder.glob("*.log"))]
            sys.exit("\n".join([*logs, f"The demo failed: {error!r}"]))
        finally:
            for server in servers:
                server.end()
        outbox = [path.read_text() for path in sorted(folder.glob("outbox/*.txt"))]
    print(f"\n{count} orders, {len(outbox)} receipts in the outbox. One of them:\n")
    print(textwrap.indent(outbox[0], "    "), end="")
    if len(outbox) != count:
        sys.exit("The demo failed: these are not as many receipts as orders.")


if __name__ == "__main__":
    main()
