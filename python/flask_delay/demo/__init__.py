"""The demo: serves the quickstart app, sends it requests and shows the events in order."""

import hashlib
import http.client
import json
import os
import platform
import secrets
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from flask import Flask
from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler
from werkzeug.test import EnvironBuilder
from werkzeug.utils import secure_filename

from flask_delay import __version__
from flask_delay.demo import quickstart

__all__ = ["DemoError", "run"]

_PACKAGE = Path(__file__).parent.parent
_HOST = "127.0.0.1"
# More files than this are shown as one timeline and a table.
_TIMELINES = 3
# Seconds that a callback may take after its task, and an answer after its request.
_CALLBACK_PATIENCE = 10.0
_ANSWER_PATIENCE = 300.0
_POLL = 0.02
# Characters.
_BAR = 24
_KILO = 1000

_State = dict[str, Any]


class DemoError(Exception):
    """The demo failed: exit code 1, or 2 if the user has to fix the cause."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def run(files: Sequence[Path] = (), *, port: int = 0, full: bool = False) -> None:
    """Show that `/test` answers before its work is done; then digest the files.

    By default those of this package. Raises DemoError.
    """
    files = files or sorted(_PACKAGE.rglob("*.py"), key=lambda path: -path.stat().st_size)
    for file in files:
        _open(file).close()
    password = secrets.token_urlsafe(6)
    app = quickstart.create_app(
        {
            "DASHBOARD_PASSWORD": password,
            "FAKE_WORK_SECONDS": 10.0 if full else 1.0,
            "DELAY_SHUTDOWN_TIMEOUT": 1.0,  # matters only after Ctrl-C
        }
    )
    app.logger.setLevel("ERROR")
    terminal, finished = _Terminal(), False
    try:
        with _served(app, port) as client:
            terminal.line(
                f"flask-delay {__version__} on Python {platform.python_version()}:"
                f" the quickstart app at http://{_HOST}:{client.port}"
            )
            terminal.line(
                f"Its live page, while this runs: http://{_HOST}:{client.port}/dashboard/"
                f' (any name, password "{password}")'
            )
            _show_test(client, terminal)
            alone = len(files) if len(files) <= _TIMELINES else 1
            for file in files[:alone]:
                _show_one(client, file, terminal)
            if files[alone:]:
                _show_many(client, files[alone:], terminal)
        finished = True
    finally:
        terminal.close()
        with app.app_context():
            quickstart.executor.shutdown(wait=finished, cancel_futures=not finished)
    terminal.line("\nEvery callback was called; server and workers have ended.")


def _open(file: Path) -> BufferedReader:
    try:
        if file.exists() and not file.is_file():
            raise DemoError(f"{file}: not a regular file", 2)
        return file.open("rb")
    except (OSError, ValueError) as error:
        raise DemoError(f"{file}: {getattr(error, 'strerror', None) or error}", 2) from None


# --- Server and client --------------------------------------------------------------


class _Server(ThreadedWSGIServer):
    # Closing the server waits for the requests that it still answers.
    daemon_threads = False


class _Handler(WSGIRequestHandler):
    def log_request(self, *_: object) -> None:
        """Log nothing: the timeline shows the requests."""


@contextmanager
def _served(app: Flask, port: int) -> Iterator["_Client"]:
    """Serve the app on a port of loopback, 0 for any, until the block ends."""
    try:
        # Werkzeug itself would print several lines and exit if the port is taken.
        listener = socket.create_server((_HOST, port))
    except OSError as error:
        raise DemoError(f"cannot listen on {_HOST}:{port}: {error.strerror}", 2) from None
    with listener:
        port = listener.getsockname()[1]
        server = _Server(_HOST, port, app, _Handler, fd=listener.fileno())
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="server")
    thread.start()
    try:
        yield _Client(port)
    finally:
        server.shutdown()
        thread.join()


class _Answer(NamedTuple):
    """The answer to a request, and the times of its events."""

    status: int
    body: _State
    begun: datetime
    sent: datetime
    answered: datetime
    # Of a file that was sent.
    digest: str


class _Client:
    """Sends requests to the app."""

    def __init__(self, port: int) -> None:
        self.port = port

    def get(self, path: str) -> _Answer:
        return self._request("GET", path)

    def upload(self, file: Path) -> _Answer:
        """Send a file to `POST /digest`."""
        with _open(file) as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
            opened.seek(0)
            name = secure_filename(file.name) or "file"
            form = EnvironBuilder(method="POST", data={"file": (opened, name)}).get_environ()
            headers = {
                "Content-Type": form["CONTENT_TYPE"],
                "Content-Length": form["CONTENT_LENGTH"],
            }
            with form["wsgi.input"] as body:
                return self._request("POST", "/digest", body, headers, digest)

    def wait(self, task: str, on_change: Callable[[_State], None] = lambda _: None) -> _State:
        """Poll the task's state, calling `on_change`, until its callback was called."""
        deadline = None
        while True:
            state = self.get(f"/tasks/{task}").body
            on_change(state)
            if state["callback"]:
                break
            if state["finished_at"]:
                deadline = deadline or time.monotonic() + _CALLBACK_PATIENCE
                if time.monotonic() > deadline:
                    raise DemoError(f"task {task} ended, but its callback was not called")
            time.sleep(_POLL)
        if "error" in state:
            raise DemoError("task {id} failed: {error[type]}: {error[message]}".format(**state))
        if "result" not in state:
            raise DemoError("task {id} was {state}".format(**state))
        return state

    def _request(
        self,
        method: str,
        path: str,
        body: BinaryIO | None = None,
        headers: dict[str, str] | None = None,
        digest: str = "",
    ) -> _Answer:
        connection = http.client.HTTPConnection(_HOST, self.port, timeout=_ANSWER_PATIENCE)
        try:
            begun = datetime.now(UTC)
            connection.request(method, path, body, headers or {})
            sent = datetime.now(UTC)
            response = connection.getresponse()
            content = response.read()
            answered = datetime.now(UTC)
        except (OSError, http.client.HTTPException) as error:
            raise DemoError(f"{method} {path}: {error!r}") from None
        finally:
            connection.close()
        if response.status >= http.client.BAD_REQUEST:
            raise DemoError(f"{method} {path}: {response.status} {content.decode()}")
        return _Answer(response.status, json.loads(content), begun, sent, answered, digest)


# --- Output -------------------------------------------------------------------------


class _Terminal:
    """Prints lines; shows the current state in place, if the output is a terminal."""

    def __init__(self) -> None:
        self._out = sys.stdout
        self._in_place = self._out.isatty() and os.environ.get("TERM") != "dumb"
        self._live = False
        # The name of a file may contain characters that the terminal cannot show.
        self._out.reconfigure(errors="replace")  # type: ignore[union-attr]
        blocks = "█░".encode(self._out.encoding, "replace") != b"??"
        self._full, self._empty = ("█", "░") if blocks else ("#", ".")

    def line(self, text: str) -> None:
        """Print a line, in place of the live one."""
        self._write(f"{text}\n", live=False)

    def live(self, text: str) -> None:
        """Show a text until the next call; on a terminal only."""
        if self._in_place:
            self._write(text[: shutil.get_terminal_size().columns - 1], live=True)

    def close(self) -> None:
        """Leave a live line as it is and continue below it."""
        self._out.write("\n" * self._live)

    def bar(self, done: float, total: float, text: str) -> str:
        """Draw a progress bar."""
        fraction = done / total if total else 1.0
        full = int(_BAR * fraction)
        return f"{self._full * full}{self._empty * (_BAR - full)} {fraction:4.0%}  {text}"

    def _write(self, text: str, *, live: bool) -> None:
        # The sequence erases the line.
        self._out.write(f"\r\x1b[K{text}" if self._live else text)
        self._out.flush()
        self._live = live


_SENT = "request sent"


class _Timeline:
    """Prints the events of one task, each with its milliseconds since the request."""

    def __init__(self, terminal: _Terminal, answer: _Answer, said: str) -> None:
        self._terminal = terminal
        self._answer = answer
        self._started = False
        self._events = [(answer.sent, _SENT), (answer.answered, said)]

    def update(self, state: _State) -> None:
        """Print what is new in a task's state."""
        progress, callback = state["progress"], state["callback"]
        if state["started_at"] and not progress and not callback:
            # The task may have begun before the answer arrived: nothing is printed before its
            # description, which comes with its first progress.
            return
        if progress and not self._started:
            self._started = True
            self._add(state["started_at"], f"task started, {progress['note']}")
            # The client may have noted only after the start that its last byte was sent.
            began = self._events[-1][0]
            self._events = [
                (min(at, began), it) if it == _SENT else (at, it) for at, it in self._events
            ]
        if callback:
            if progress:
                self._add(state["finished_at"], self._bar(progress))
            self._add(state["finished_at"], f"task finished{_summary(state['result'])}")
            late = _milliseconds(self._answer.answered, callback["at"])
            after = f", {late:,.1f} ms after the answer" if late > 0 else ""
            self._add(callback["at"], f"callback fired on thread {callback['thread']}{after}")
        # Events that one poll found may have begun before the answer arrived.
        for event in sorted(self._events, key=lambda event: event[0]):
            self._terminal.line(self._text(*event))
        self._events.clear()
        if progress and not callback:
            self._terminal.live(self._text(datetime.now(UTC), self._bar(progress)))

    def _add(self, when: str, text: str) -> None:
        self._events.append((datetime.fromisoformat(when), text))

    def _text(self, when: datetime, text: str) -> str:
        return f"{_milliseconds(self._answer.begun, when):>10,.1f} ms  {text}"

    def _bar(self, progress: _State) -> str:
        done, total = progress["done"], progress["total"]
        # Only /test counts seconds.
        in_seconds = "sleeping" in progress["note"]
        text = f"{done:.1f} of {total:.1f} s" if in_seconds else f"{_size(done)} of {_size(total)}"
        return self._terminal.bar(done, total, text)


def _show_test(client: _Client, terminal: _Terminal) -> None:
    terminal.line("\nGET /test")
    answer = client.get("/test")
    said = f'answered {answer.status}, "msg": "{answer.body["msg"]}", task {answer.body["task"]}'
    client.wait(answer.body["task"], _Timeline(terminal, answer, said).update)


def _show_one(client: _Client, file: Path, terminal: _Terminal) -> None:
    terminal.line(f"\nPOST /digest  {_label(file)}, {_size(file.stat().st_size)}")
    answer = client.upload(file)
    said = f"answered {answer.status}, task {answer.body['id']}"
    _check(answer, client.wait(answer.body["id"], _Timeline(terminal, answer, said).update))


_ROW = "  {:>8}  {:>7}  {:>8}  {:>8}  {:<10}  {:>7}  {:>7}  {}"


def _show_many(client: _Client, files: Sequence[Path], terminal: _Terminal) -> None:
    terminal.line(f"\nPOST /digest  {len(files)} more files, in milliseconds since each request")
    head = ("answered", "started", "finished", "callback", "on thread", "lines", "words", "file")
    terminal.line(_ROW.format(*head))
    answers = [client.upload(file) for file in files]
    for file, answer in zip(files, answers, strict=True):
        state = client.wait(answer.body["id"])
        _check(answer, state)
        callback, result = state["callback"], state["result"]
        moments = (answer.answered, state["started_at"], state["finished_at"], callback["at"])
        cells = [f"{_milliseconds(answer.begun, when):,.1f}" for when in moments]
        counts = (f"{result['lines']:,}", f"{result['words']:,}")
        terminal.line(_ROW.format(*cells, callback["thread"], *counts, _label(file)))
    terminal.line("  A small file may be done before its answer has arrived.")


def _label(file: Path) -> str:
    """The label of a file: its name, or for a file of this package its path therein."""
    return str(file.relative_to(_PACKAGE)) if file.is_relative_to(_PACKAGE) else file.name


def _check(answer: _Answer, state: _State) -> None:
    if state["result"]["sha256"] != answer.digest:
        raise DemoError(f"{state['result']['file']}: the task saw other bytes than were sent")


def _summary(result: _State) -> str:
    if "sha256" not in result:
        return ""
    return ": {lines:,} lines, {words:,} words, sha256 {sha256:.16}…".format(**result)


def _milliseconds(start: datetime, end: datetime | str) -> float:
    end = datetime.fromisoformat(end) if isinstance(end, str) else end
    return (end - start) / timedelta(milliseconds=1)


def _size(size: float) -> str:
    """Format a number of bytes in a suitable unit."""
    units = ["B", "kB", "MB", "GB", "TB"]
    while size >= _KILO and units[1:]:
        size /= _KILO
        del units[0]
    return f"{size:,.{int(units[0] != 'B')}f} {units[0]}"
