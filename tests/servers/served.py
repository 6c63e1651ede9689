"""The app that every server here serves: it writes down what ran, and where.

Copied as `app.py` into the folder that the server works in. What happens is a line each in
the file that RECORD names; the tasks of `/wait` go on once there is a file `go`.
"""

import json
import os
import threading
import time
from pathlib import Path

from flask import Flask, current_app, request

from flask_delay import Delay, delay, using

DEADLINE = 20.0

app = Flask(__name__, static_folder=None)
app.config["DELAY_MAX_WORKERS"] = 2
# FLASK_DELAY_SHUTDOWN_TIMEOUT and the like.
app.config.from_prefixed_env()
executor = Delay(app)


def record(event, name, **more):
    line = {
        **more,
        "event": event,
        "name": name,
        "pid": os.getpid(),
        "thread": threading.current_thread().name,
        "native": threading.get_native_id(),
        "app": current_app.name == app.name,
    }
    # In one piece, whoever else writes.
    with Path(os.environ["RECORD"]).open("ab", buffering=0) as file:
        file.write(json.dumps(line).encode() + b"\n")


def run(name):
    record("ran", name)


def wait_for(file):
    end = time.monotonic() + DEADLINE
    while not Path(file).exists():
        assert time.monotonic() < end
        time.sleep(0.005)


def wait(name):
    record("started", name)
    wait_for("go")
    record("ran", name)


def read(name):
    wait_for("answered")
    record(
        "read",
        name,
        user=request.headers["X-User"],
        page=request.args["page"],
        path=request.path,
        field=request.form["field"],
        file=request.files["file"].read().decode(),
    )


def read_upload(name, file, waits_for):
    record("began", name)
    wait_for(waits_for)
    record("uploaded", name, file=file.read().decode())


def called_back(future):
    record("called back", future.given)


def submit(fn, name):
    future = delay(fn, name)
    future.given = name
    future.add_done_callback(called_back)
    return future


def answer(**more):
    return {"pid": os.getpid(), **more}


@app.get("/")
def ready():
    return answer()


@app.get("/run/<name>")
def start(name):
    submit(run, name)
    return answer()


@app.get("/wait/<name>")
def start_waiting(name):
    submit(wait, name)
    return answer()


@app.post("/request/<name>")
def copy(name):
    using(request=True).delay(read, name)
    return answer()


@app.post("/upload/<name>")
def upload(name):
    waits_for = request.args.get("for", "answered")
    future = delay(read_upload, name, request.files["file"], waits_for)
    future.given = name
    future.add_done_callback(called_back)
    return answer()


@app.get("/result/<name>")
def result(name):
    """Wait for a task, which ends when `/go` is asked for: if that can be answered meanwhile."""
    return answer(result=submit(wait, name).result(DEADLINE))


@app.get("/go")
def go():
    Path("go").touch()
    return answer()


@app.get("/hang")
@app.get("/hang/<path:names>")
def hang(names=""):
    """A request that submits tasks, and does not come to its end."""
    for name in filter(None, names.split("/")):
        submit(wait, name)
    record("hangs", "hang")
    time.sleep(DEADLINE)
    return answer()


@app.get("/compute")
def compute():
    record("computes", "compute")
    # One call of C that lets no other thread run.
    return answer(value=pow(3, 3**15) % 10)


@app.get("/stats")
def stats():
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return answer(threads=threads, stats=executor.stats())


def spin(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def keep_busy():
    """Have a task compute, at import: at each moment of the fork its thread may have the GIL."""
    with app.app_context():
        future = delay(spin, 2.0)
        while not future.running():
            time.sleep(0.001)


def use():
    """The pool, in the process that loads the app."""
    with app.app_context():
        submit(run, "before").result(DEADLINE)
