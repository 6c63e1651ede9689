"""A process of `ticks.py`: an app with two durable jobs, which notes what happens."""

import json
import logging
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

from flask import Flask

from flask_delay import Delay, current_task, task

# Nanoseconds without a beat that are worth a note.
LONG = 100_000_000

logging.basicConfig(level="WARNING")
folder = Path(os.environ["TICKS"])


def note(what: str, at: int, **more: object) -> None:
    line = json.dumps({"what": what, "pid": os.getpid(), "at": at, **more})
    # One `write` to a file opened so is never torn.
    descriptor = os.open(folder / "record", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, line.encode() + b"\n")
    os.close(descriptor)


@task(every=0.2, durable=True, missed="run", overlap=True)
def often() -> None:
    """A task for each tick."""


@task(every=0.2, durable=True)
def alone() -> None:
    """Longer than a period, at times."""
    note("begins", time.time_ns(), id=current_task.id)
    time.sleep(random.uniform(0, 0.3))
    note("ends", time.time_ns(), id=current_task.id)


def beat() -> None:
    """Note when this process does not get to run."""
    last = time.time_ns()
    while True:
        time.sleep(0.02)
        now = time.time_ns()
        if now - last > LONG:
            note("stall", last, end=now)
        last = now


def main() -> None:
    """What each process does."""
    app = Flask("ticking", static_folder=None, instance_path=str(folder / "instance"))
    app.config.update(
        DELAY_JOURNAL=str(folder / "journal.db"),
        # Random kills look like poison.
        DELAY_JOURNAL_DEATHS=1_000_000,
        DELAY_JOURNAL_LIMIT=10_000_000,
        DELAY_JOURNAL_KEEP=10_000_000,
        DELAY_MAX_WORKERS=8,
    )
    Delay(app)
    threading.Thread(target=beat, daemon=True).start()
    with app.app_context():
        note("up", time.time_ns())
        jobs = [often.delay(), alone.delay()]
        note("since", jobs[0]._since)
    wait_for("stop")
    for job in jobs:
        job.cancel()
    wait_for("end")


def wait_for(name: str) -> None:
    while not (folder / name).exists():
        time.sleep(0.01)


if __name__ == "__main__":
    # Nobody waits for the forked ones.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            main()
            break
        print(pid, flush=True)
