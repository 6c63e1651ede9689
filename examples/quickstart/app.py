"""Flask-Delay in one file: the view answers at once, a thread does the work behind it.

Run it with `flask --app examples/quickstart/app run`; README.md shows what to send it.
"""

import hashlib
import hmac
import logging
import os
import stat
import tempfile
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from flask import Blueprint, Flask, Response, abort, current_app, jsonify, request, url_for
from werkzeug.datastructures import FileStorage
from werkzeug.exceptions import HTTPException

from flask_delay import Delay, Future, current_task, delay

CHUNK = 64 * 1024

executor = Delay()
bp = Blueprint("quickstart", __name__)
# Where and when the callback of a task ran; forgotten together with its future.
called_back: WeakKeyDictionary[Future[Any], dict[str, str]] = WeakKeyDictionary()


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """Make the app. `FLASK_DIGEST_ROOT=docs` in the environment sets `DIGEST_ROOT`, and so on."""
    app = Flask(__name__)
    app.config.from_mapping(
        DIGEST_ROOT=None,  # the directory whose files may be named by path; None: uploads only
        FAKE_WORK_SECONDS=10.0,
        DASHBOARD_PASSWORD=None,  # what the live page asks for; None: it lets in nobody
    )
    app.config.from_prefixed_env()
    app.config.from_mapping(config)
    app.logger.setLevel(logging.INFO)
    executor.init_app(app)
    app.register_blueprint(bp)
    app.register_blueprint(executor.dashboard_blueprint(authorize=visitor), url_prefix="/dashboard")
    app.register_error_handler(HTTPException, error_as_json)
    return app


# The tasks: plain functions. They run on a worker, in an app context, without a request.


class Counter:
    """Size, SHA-256, lines and words of what comes in chunks; lines and words as `wc` does."""

    def __init__(self) -> None:
        self.size = self.lines = self.words = 0
        self._sha256 = hashlib.sha256()
        self._in_word = False

    def update(self, chunk: bytes) -> None:
        """Count one more chunk; a word may go on from the chunk before."""
        if not chunk:
            return
        self.size += len(chunk)
        self._sha256.update(chunk)
        self.lines += chunk.count(b"\n")
        self.words += len(chunk.split())
        if self._in_word and not chunk[:1].isspace():
            self.words -= 1
        self._in_word = not chunk[-1:].isspace()

    @property
    def sha256(self) -> str:
        """The digest of all chunks so far."""
        return self._sha256.hexdigest()


def digest(path: Path, name: str) -> dict[str, Any]:
    """Read a whole file and say what is in it."""
    counter = Counter()
    note = f"reading on thread {threading.current_thread().name}"
    with path.open("rb") as file:
        total = os.fstat(file.fileno()).st_size
        current_task.progress(0, total, note)
        while chunk := file.read(CHUNK):
            current_task.check()
            counter.update(chunk)
            current_task.progress(counter.size, max(total, counter.size), note)
    return {
        "file": name,
        "size": counter.size,
        "sha256": counter.sha256,
        "lines": counter.lines,
        "words": counter.words,
    }


def fake_work(seconds: float, num: str | None = None) -> dict[str, Any]:
    """Take that long; stop early if told to."""
    note = f"sleeping on thread {threading.current_thread().name}"
    start = time.monotonic()
    while (spent := time.monotonic() - start) < seconds:
        current_task.check()
        current_task.progress(round(spent, 3), seconds, note)
        time.sleep(min(0.05, seconds - spent))
    current_task.progress(seconds, seconds, note)
    return {"seconds": seconds, "num": num}


def report(future: Future[Any]) -> None:
    """Log how a task ended: its done callback."""
    log = current_app.logger
    if future.cancelled():
        log.warning("%s %s was cancelled", future.name, future.id)
    elif error := future.exception():
        log.error("%s %s failed: %r", future.name, future.id, error)
    else:
        log.info("%s %s: %s", future.name, future.id, future.result())
    called_back[future] = {
        "thread": threading.current_thread().name,
        "at": datetime.now(UTC).isoformat(),
    }


# The views.


@bp.get("/test")
def test() -> dict[str, str]:
    """Answer at once while the work goes on."""
    seconds = float(current_app.config["FAKE_WORK_SECONDS"])
    future = delay(fake_work, seconds, num=request.args.get("num"))
    future.add_done_callback(report)
    return {"msg": "ok", "task": future.id}


@bp.post("/digest")
def start_digest() -> tuple[dict[str, str], int, dict[str, str]]:
    """Take a file, or the path of one, and answer before it is read."""
    if upload := request.files.get("file"):
        future = digest_upload(upload)
    else:
        path = allowed_path()
        future = delay(digest, path, path.name)
    future.add_done_callback(report)
    url = url_for("quickstart.show_task", task_id=future.id)
    return {"id": future.id, "url": url}, 202, {"Location": url}


@bp.get("/tasks/<task_id>")
def show_task(task_id: str) -> dict[str, Any]:
    """Show how far a task is, then what it returned or raised."""
    future = executor.get(task_id)
    if future is None:
        abort(404, f"No task {task_id!r}: it never was here, or ended long ago.")
    # The task goes on meanwhile: what comes last in its life is read first, so that nothing
    # in the answer is older than what the callback and the state promise.
    callback = called_back.get(future)
    state = future.state
    progress = future.progress
    shown: dict[str, Any] = {
        "id": future.id,
        "name": future.name,
        "state": state,
        "progress": progress and progress._asdict(),
        "enqueued_at": iso(future.enqueued_at),
        "started_at": iso(future.started_at),
        "finished_at": iso(future.finished_at),
        "callback": callback,
    }
    if state == "finished":
        if error := future.exception():
            shown["error"] = {"type": type(error).__name__, "message": str(error)}
        else:
            shown["result"] = future.result()
    return shown


def visitor() -> str | Response:
    """Say what a visitor of the live page may do: everything, with the password.

    That a request comes from this machine proves nothing: all do behind a proxy on it, and so does
    what the page of a stranger sends from a browser on it.
    """
    password = current_app.config["DASHBOARD_PASSWORD"]
    given = request.authorization and request.authorization.password
    if password and given and hmac.compare_digest(given.encode(), str(password).encode()):
        return "act"
    # The browser asks for a name and a password; any name will do.
    return Response("The password, please.\n", 401, {"WWW-Authenticate": 'Basic realm="tasks"'})


def digest_upload(upload: FileStorage) -> Future[dict[str, Any]]:
    """Digest a copy of the upload, since the upload itself ends with the request."""
    descriptor, name = tempfile.mkstemp(prefix="digest-")
    copy = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            upload.save(file)
        future = delay(digest, copy, upload.filename or copy.name)
    except BaseException:
        copy.unlink()
        raise
    future.add_done_callback(lambda _: copy.unlink())
    return future


def allowed_path() -> Path:
    """Return the existing file that the request names, if it lies in `DIGEST_ROOT`."""
    data = request.get_json(silent=True) or request.form
    name = data.get("path") if isinstance(data, dict) else None
    if not isinstance(name, str) or not name:
        abort(400, "Send a file in the multipart field 'file', or a 'path' as JSON or form field.")
    root = current_app.config["DIGEST_ROOT"]
    if root is None:
        abort(403, "Paths are off: set DIGEST_ROOT to the directory whose files may be read.")
    try:
        root = Path(root).resolve()
        path = (root / name).resolve()
        if not path.is_relative_to(root):
            abort(403, f"{name!r} is outside of DIGEST_ROOT.")
        if not stat.S_ISREG(path.stat().st_mode):
            abort(400, f"{name!r} is not a regular file.")
    except (FileNotFoundError, NotADirectoryError):
        abort(404, f"No file {name!r} in DIGEST_ROOT.")
    except (OSError, RuntimeError, ValueError) as error:  # too long, a loop of links, a NUL byte
        abort(400, f"{name!r} is no usable path: {error}")
    return path


def iso(moment: datetime | None) -> str | None:
    """Write a moment for JSON."""
    return moment.isoformat() if moment else None


def error_as_json(error: HTTPException) -> Response:
    """Answer every HTTP error as `{"error": why}`."""
    response = jsonify(error=error.description)
    response.status_code = error.code or 500
    return response
