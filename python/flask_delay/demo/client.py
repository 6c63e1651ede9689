"""What the demo sends over HTTP, and what comes back."""

import hashlib
import http.client
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from flask_delay.demo.errors import DemoError, InputError

CHUNK = 64 * 1024
# Seconds that a callback may take after its task, and an answer after its request.
CALLBACK_PATIENCE = 10.0
ANSWER_PATIENCE = 300.0
POLL = 0.02


@dataclass(frozen=True)
class Answer:
    """The answer to a request, and when what happened."""

    status: int
    body: dict[str, Any]
    begun: datetime
    sent: datetime
    answered: datetime


@dataclass(frozen=True)
class Upload:
    """The answer to an upload, and what was sent."""

    answer: Answer
    size: int
    sha256: str


class Client:
    """Sends requests to the app."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)

    def get(self, path: str) -> Answer:
        """Send a GET request."""
        return self._request("GET", path)

    def upload(self, file: Path, on_sent: Callable[[int, int], object] | None = None) -> Upload:
        """Send a file to `POST /digest`; tell `on_sent` how much of how much was sent."""
        boundary = secrets.token_hex(16)
        name = file.name.translate({ord('"'): "%22", ord("\r"): "%0D", ord("\n"): "%0A"})
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"'
            "\r\nContent-Type: application/octet-stream\r\n\r\n"
        ).encode(errors="replace")
        tail = f"\r\n--{boundary}--\r\n".encode()
        sha256, sent = hashlib.sha256(), 0
        last = datetime.now(UTC)

        def body(opened: BinaryIO) -> Iterator[bytes]:
            nonlocal sent, last
            yield head
            while sent < size:
                chunk = opened.read(min(CHUNK, size - sent))
                if not chunk:
                    raise InputError(f"{file}: became shorter while it was read")
                yield chunk
                sha256.update(chunk)
                sent += len(chunk)
                if on_sent is not None:
                    on_sent(sent, size)
            last = datetime.now(UTC)
            yield tail

        try:
            opened = file.open("rb")
        except OSError as error:
            raise InputError(f"{file}: {error.strerror}") from None
        with opened:
            size = os.fstat(opened.fileno()).st_size
            headers = {
                "Content-Type": f"multipart/form-data; boundary={boundary}",
                "Content-Length": str(len(head) + size + len(tail)),
            }
            answer = self._request("POST", "/digest", body(opened), headers)
        return Upload(replace(answer, sent=last), size, sha256.hexdigest())

    def wait(
        self, task: str, on_change: Callable[[dict[str, Any]], None] | None = None
    ) -> dict[str, Any]:
        """Ask for the task's state, telling `on_change`, until its callback was called."""
        deadline = None
        while True:
            state = self.get(f"/tasks/{task}").body
            if on_change is not None:
                on_change(state)
            if state["callback"]:
                break
            if state["finished_at"]:
                deadline = deadline or time.monotonic() + CALLBACK_PATIENCE
                if time.monotonic() > deadline:
                    raise DemoError(f"task {task} ended, but its callback was not called")
            time.sleep(POLL)
        if "error" in state:
            raise DemoError("task {id} failed: {error[type]}: {error[message]}".format(**state))
        if "result" not in state:
            raise DemoError("task {id} was {state}".format(**state))
        return state

    def _request(
        self,
        method: str,
        path: str,
        body: Iterator[bytes] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        connection = http.client.HTTPConnection(*self._address, timeout=ANSWER_PATIENCE)
        try:
            begun = datetime.now(UTC)
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            content = response.read()
            answered = datetime.now(UTC)
        except (OSError, http.client.HTTPException) as error:
            raise DemoError(f"{method} {path}: {error!r}") from None
        finally:
            connection.close()
        if response.status >= http.client.BAD_REQUEST:
            raise DemoError(f"{method} {path}: {response.status} {content.decode()}")
        return Answer(response.status, json.loads(content), begun, begun, answered)
