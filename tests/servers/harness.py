"""Starting servers, asking them, ending them, and seeing that nothing of them is left."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.uploaded import uploads_in

# For what a busy machine may take; nothing here waits that long if all is well.
DEADLINE = 30.0
POLL = 0.01
# After which what should not happen has not happened.
LONG_ENOUGH = 0.3

SERVED = Path(__file__).parent / "served.py"
# The rest of an app's name for the pool being used before the workers are forked.
USED = "import app as module\nmodule.use()\napp = module.app\n"
# And for a task of it computing at that moment.
BUSY = "import app as module\nmodule.keep_busy()\napp = module.app\n"


def poll(predicate: Callable[[], Any], deadline: float = DEADLINE) -> Any:
    """What `predicate` returns, as soon as that is true, or at the end of the time."""
    end = time.monotonic() + deadline
    while True:
        found = predicate()
        if found or time.monotonic() > end:
            return found
        time.sleep(POLL)


def address() -> tuple[str, int]:
    """A free port, which nobody else takes meanwhile: on Linux of a host of our own."""
    pid = os.getpid()
    host = f"127.{64 + (pid >> 16)}.{pid >> 8 & 255}.{pid & 255 or 256 - 2}"
    if not sys.platform.startswith("linux"):
        host = "127.0.0.1"
    with socket.create_server((host, 0)) as free:
        port: int = free.getsockname()[1]
    return host, port


class Server:
    """A server with all its processes, in a group of their own.

    `command` is started in `folder`, which has the app in `app.py`, and as `used.py` the
    same app with its pool used at import, as `busy.py` while it is. `{host}` and `{port}` in
    the command are filled in. The app is below `prefix`.
    """

    def __init__(
        self,
        folder: Path,
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
        prefix: str = "",
    ) -> None:
        self.folder = folder
        self.prefix = prefix
        self.host, self.port = address()
        shutil.copy(SERVED, folder / "app.py")
        (folder / "used.py").write_text(USED)
        (folder / "busy.py").write_text(BUSY)
        self._record = folder / "record"
        self._record.touch()
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [part.format(host=self.host, port=self.port) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={
                    **os.environ,
                    "RECORD": str(self._record),
                    "PYTHONPATH": str(folder),
                    # Where the interpreter itself is inside of the server.
                    "PYTHONUNBUFFERED": "1",
                    **(env or {}),
                },
                start_new_session=True,
            )

    # --- What it says ---------------------------------------------------------------

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def wait_for_log(self, pattern: str) -> re.Match[str]:
        match: re.Match[str] | None = poll(lambda: re.search(pattern, self.log()))
        assert match, f"no {pattern!r} in:\n{self.log()}"
        return match

    def warnings(self) -> list[str]:
        """The lines that name tasks which did not finish."""
        return [line for line in self.log().splitlines() if "not finish before exit" in line]

    def records(self, event: str) -> dict[str, list[dict[str, Any]]]:
        """What is written of `event`, by the task's name."""
        found: dict[str, list[dict[str, Any]]] = {}
        # The last line may be half written.
        for line in self._record.read_text().split("\n")[:-1]:
            entry = json.loads(line)
            if entry["event"] == event:
                found.setdefault(entry["name"], []).append(entry)
        return found

    def wait_for_records(self, event: str, names: Iterable[str]) -> bool:
        """Whether all of these tasks have come to `event` in time."""
        return bool(poll(lambda: set(names) <= self.records(event).keys()))

    # --- What it is asked ------------------------------------------------------------

    def wait_until_ready(self) -> "Server":
        def answers() -> bool:
            if self.process.poll() is not None:
                return True
            # What is not there yet refuses, and what is about to be may hang up.
            with contextlib.suppress(OSError):
                self.get("")
                return True
            return False

        assert poll(answers), f"does not answer:\n{self.log()}"
        assert self.process.poll() is None, f"did not start:\n{self.log()}"
        return self

    def get(
        self, path: str, data: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Any:
        """Ask for `path`, with `data` as POST; the JSON of the answer."""
        url = f"http://{self.host}:{self.port}{self.prefix}/{path}"
        request = urllib.request.Request(url, data, dict(headers or {}))
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path}: {error}\n{self.log()}") from error

    def get_to_the_end(self, path: str) -> None:
        """Ask for `path`, and return when the server has hung up: it is done with the request."""
        with socket.create_connection((self.host, self.port), DEADLINE) as connection:
            connection.sendall(f"GET /{path} HTTP/1.0\r\n\r\n".encode())
            while connection.recv(4096):
                pass

    @contextlib.contextmanager
    def asking(self, path: str) -> Iterator[None]:
        """A request that is not answered while this lasts, and maybe never."""

        def ask() -> None:
            # The server ends in the middle of it.
            with contextlib.suppress(OSError, AssertionError):
                self.get(path)

        with ThreadPoolExecutor(1) as pool:
            pool.submit(ask)
            try:
                yield
            finally:
                self.kill()

    def ask_every_worker(self, workers: int, least: int = 40) -> dict[str, int]:
        """Submit tasks until each worker process has had one; their names, and who took them."""
        pids: dict[str, int] = {}

        def ask(name: str) -> None:
            pids[name] = self.get(f"run/{name}")["pid"]

        with ThreadPoolExecutor(4) as pool:
            end = time.monotonic() + DEADLINE
            while len(pids) < least or len(set(pids.values())) < workers:
                assert time.monotonic() < end, pids
                start = len(pids)
                list(pool.map(ask, [f"task-{start + n}" for n in range(4)]))
        return pids

    # --- Its end ----------------------------------------------------------------------

    def terminate(self) -> None:
        self.process.terminate()

    def wait(self) -> int:
        """The exit code; a server that does not end is a failure that shows its log."""
        try:
            return self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"goes on:\n{self.log()}") from None

    def is_gone(self) -> bool:
        """Whether no process is left, workers included."""
        try:
            os.killpg(self.process.pid, 0)
        except (ProcessLookupError, PermissionError):
            return True
        return False

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(DEADLINE)


@contextlib.contextmanager
def serving(
    folder: Path,
    command: Sequence[str],
    env: Mapping[str, str] | None = None,
    prefix: str = "",
) -> Iterator[Server]:
    """A server that answers, and that is gone afterwards, whatever happens."""
    server = Server(folder, command, env, prefix)
    try:
        yield server.wait_until_ready()
    finally:
        server.kill()


# --- What holds under every server ------------------------------------------------------

LATE = [f"late-{n}" for n in range(6)]
STUCK = [f"stuck-{n}" for n in range(3)]


def check_tasks(server: Server, workers: int = 1) -> None:
    """Every accepted task and its callback run once, in the process that accepted them."""
    pids = server.ask_every_worker(workers)
    assert len(set(pids.values())) == workers
    for event in ("ran", "called back"):
        assert server.wait_for_records(event, pids), server.log()
        for name, pid in pids.items():
            (entry,) = server.records(event)[name]
            assert entry["pid"] == pid, entry
            assert entry["app"], entry
            # A callback may come too late for a worker, and is then called at once.
            if event == "ran":
                assert entry["thread"].startswith("delay"), entry
    check_request(server)
    check_upload(server)


UPLOAD = """\
--line
Content-Disposition: form-data; name="field"

value
--line
Content-Disposition: form-data; name="file"; filename="a.txt"

content
--line--
""".replace("\n", "\r\n")


MULTIPART = {"Content-Type": "multipart/form-data; boundary=line"}


def check_upload(server: Server) -> None:
    """A task that was given an upload reads it after the response, and no file stays."""
    server.get("upload/given", UPLOAD.encode(), MULTIPART)
    # Only now: the server is done with the request.
    server.get("stats")
    (server.folder / "answered").touch()
    assert server.wait_for_records("called back", ["given"]), server.log()
    (entry,) = server.records("uploaded")["given"]
    assert entry["file"] == "content"
    assert poll(lambda: uploads_of(server) == [])


def uploads_of(server: Server) -> list[Path]:
    """The uploads that are kept."""
    return uploads_in(server.folder / "instance/delay/uploads")


def check_request(server: Server) -> None:
    """A task that asked for its request reads all of it after the response."""
    headers = {**MULTIPART, "X-User": "ann"}
    server.get("request/copied?page=2", UPLOAD.encode(), headers)
    # Only now: the server is done with the request.
    server.get("stats")
    (server.folder / "answered").touch()
    assert server.wait_for_records("read", ["copied"]), server.log()
    (entry,) = server.records("read")["copied"]
    found = [entry[name] for name in ("user", "page", "path", "field", "file")]
    assert found == ["ann", "2", "/request/copied", "value", "content"]


def check_threads(server: Server, limit: int = 2) -> None:
    """The pool has no more threads than it may, in whatever process answers."""
    for _ in range(4):
        answer = server.get("stats")
        assert answer["stats"]["threads"] <= limit, answer
        names = [name for name in answer["threads"] if re.match(r"delay_\d", name)]
        assert len(names) <= limit, answer


def check_drain(
    server: Server,
    *,
    codes: Sequence[int],
    tell: Callable[[Server], object] = Server.terminate,
    told: str | None = None,
    submit: bool = True,
    names: Sequence[str] = LATE,
    trouble: str = "Traceback|did not finish|Fatal Python",
) -> None:
    """Told to end, the server lets running and queued tasks end first; no `trouble` is told.

    `told` is what the log says once the server has understood. Without `submit` the tasks of
    these names are on their way.
    """
    for name in names if submit else ():
        server.get(f"wait/{name}")
    assert poll(lambda: server.records("started"))
    tell(server)
    if told is not None:
        server.wait_for_log(told)
    # It has time to make the mistake.
    assert not poll(lambda: server.process.poll() is not None, LONG_ENOUGH), server.log()
    assert not server.records("ran").keys() & set(names)
    (server.folder / "go").touch()
    code = server.wait()
    assert code in codes, f"{code}\n{server.log()}"
    assert poll(server.is_gone)
    for event in ("ran", "called back"):
        found = server.records(event)
        assert {name: len(found.get(name, ())) for name in names} == dict.fromkeys(names, 1), (
            server.log()
        )
    assert not re.search(trouble, server.log()), server.log()


def check_time_is_over(
    server: Server, *, tell: Callable[[Server], object] = Server.terminate, submit: bool = True
) -> None:
    """What does not end within the limit, which is to be short, is named in one warning.

    Without `submit` the tasks of STUCK are on their way.
    """
    for name in STUCK if submit else ():
        server.get(f"wait/{name}")
    assert poll(lambda: len(server.records("started")) >= 2)
    tell(server)
    server.wait()
    assert poll(server.is_gone)
    (line,) = server.warnings()
    assert re.search(r"3 tasks did not finish before exit and were cancelled: ", line), line
    assert len(re.findall(r"wait \([0-9a-f-]{36}\)", line)) == 3, line
    assert not server.records("ran").keys() & set(STUCK)
