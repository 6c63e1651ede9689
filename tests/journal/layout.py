"""Files of the journal's layouts with rows of every kind: how they are made, and read again.

`python -m tests.journal.layout`, or `make layout`, writes that of today's code into `layouts`. The
file of a layout that was released is never written again: `test_layouts.py` opens each of them.
"""

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from flask import Flask

from flask_delay import Delay, Retry, current_task, task, using

FOLDER = Path(__file__).parent / "layouts"
DEADLINE = 30.0
# What the dump of a file does not have.
_PRAGMAS = ("application_id", "auto_vacuum", "user_version")


@task(durable=True, name="layout.add_up", also=("layout.sum_up",))
def add_up(left: Any, right: Any = 1) -> Any:
    """Return a sum."""
    return left + right


@task(durable=True, name="layout.turn_down")
def turn_down(text: str) -> None:
    """Fail."""
    raise LookupError(text)


@task(durable=True, name="layout.fail_once", retry=Retry(9, waits=[3600.0]))
def fail_once() -> int:
    """Fail once."""
    if current_task.attempt == 1:
        raise ConnectionError("again")
    return current_task.attempt


@task(durable=True, name="layout.give_unkept")
def give_unkept() -> object:
    """Return what is not kept."""
    return object()


@task(durable=True, name="layout.end_process")
def end_process() -> None:
    """End the process."""
    os.kill(os.getpid(), signal.SIGKILL)


@task(durable=True, name="layout.keep_going")
def keep_going() -> list[Any]:
    """Keep what is done, until its process ends; the next attempt returns what was kept."""
    if current_task.checkpointed is None:
        current_task.step("charge", int, "7")
        current_task.checkpoint({"done": 3})
        current_task.progress(3, 10, "three")
        threading.Event().wait()
    return [current_task.checkpointed, current_task.step("charge", int, "8")]


@task(name="layout.take_time")
def take_time(seconds: float) -> str:
    """Take so long."""
    time.sleep(seconds)
    return "plain"


def make_app(path: Path, **config: Any) -> Flask:
    """Make the app whose tasks are in the file."""
    app = Flask("layouts", static_folder=None, instance_path=str(path.parent))
    settings = {"JOURNAL": str(path), "MAX_WORKERS": 1, "JOURNAL_DEATHS": 1, **config}
    app.config.update({f"DELAY_{key}": value for key, value in settings.items()})
    # What a page shows is noted where there is one.
    app.register_blueprint(Delay(app).dashboard_blueprint(authorize=None))
    return app


def executor_of(app: Flask) -> Delay:
    """The `Delay` of the app."""
    owner: Delay = app.extensions["delay"].owner
    return owner


# --- Writing --------------------------------------------------------------------------


def _poison(_executor: Delay) -> None:
    using(id="dead").delay(end_process).result()


def _end(executor: Delay) -> None:
    """Tasks that end, of which one is forgotten."""
    using(id="forgotten").delay(add_up, 1).result(DEADLINE)
    executor.prune(0)
    using(id="failed").delay(turn_down, "no pear").exception(DEADLINE)
    using(id="unkept").delay(give_unkept).exception(DEADLINE)
    using(once="order 7").delay(add_up, 6).result(DEADLINE)
    using(id="finished").delay(add_up, (1, 2), (3,)).result(DEADLINE)
    using(id="limited", rate="1/h", key="mailbox").delay(add_up, 70).result(DEADLINE)
    using(id="cancelled", countdown=3600).delay(add_up, 1).cancel()
    assert take_time.delay(0).id
    # It becomes a dead letter here, since this process takes it over.
    view = "dead"
    while executor.tasks(view, name="layout.end_process") == []:
        time.sleep(0.05)
    executor.drain(DEADLINE)
    time.sleep(1)


def _leave(executor: Delay) -> None:
    """Tasks that wait, and two that run."""
    using(id="retried").delay(fail_once)
    while executor.tasks("scheduled") == []:
        time.sleep(0.05)
    executor.pause("layout.turn_down")
    using(id="paused").delay(turn_down, "paused")
    using(id="running").delay(keep_going)
    using(id="ready").delay(add_up, 1, right=2).then(add_up)
    using(id="large").delay(add_up, "x" * 5_000, "y")
    using(unique=True).delay(add_up, 10)
    using(id="options", priority=3, retry=2, timeout=60).delay(add_up, 20)
    using(id="expired", expires=1).delay(add_up, 30)
    using(id="scheduled", countdown=3600).delay(add_up, 40)
    using(id="old name").delay(add_up, 50)
    using(id="parked").delay(add_up, 60)
    # Its id was asked for.
    assert take_time.delay(3600).id
    time.sleep(1.5)


_ROLES: dict[str, Callable[[Delay], None]] = {
    "poison": _poison,
    "end": _end,
    "leave": _leave,
}


def _play(role: str, path: Path) -> None:
    app = make_app(path)
    with app.app_context():
        _ROLES[role](executor_of(app))
        if role == "end":
            executor_of(app).shutdown()
            return
        print("done", flush=True)
        sys.stdin.read()


def write(to: Path) -> Path:
    """Write the file of today's layout into the folder; return its path."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.db"

        def start(role: str) -> subprocess.Popen[str]:
            arguments = [sys.executable, "-m", "tests.journal.layout", role, str(path)]
            pipe = subprocess.PIPE
            return subprocess.Popen(arguments, stdin=pipe, stdout=pipe, text=True)

        assert start("poison").wait(DEADLINE) == -signal.SIGKILL
        assert start("end").wait(2 * DEADLINE) == 0
        left = start("leave")
        assert left.stdout is not None
        assert left.stdout.readline() == "done\n"
        left.kill()
        left.wait(DEADLINE)
        with closing(sqlite3.connect(path)) as file:
            with file:
                _change(file)
            return _dump(file, to)


def _change(file: sqlite3.Connection) -> None:
    """What time, other processes, and a function of another name do to rows."""
    file.execute("INSERT INTO waiter (task, slot) SELECT sequence, owner FROM task WHERE owner > 0")
    named = "SELECT function FROM function WHERE name = 'layout.sum_up'"
    file.execute(f"UPDATE task SET function = ({named}) WHERE id = 'old name'")
    # Such tasks get no id of one's own.
    for key in ("once", "unique"):
        file.execute(f"UPDATE task SET id = '{key}' WHERE {key}_key IS NOT NULL")
    file.execute("UPDATE task SET id = 'follower' WHERE sequence IN (SELECT task FROM dependency)")
    file.execute("UPDATE task SET id = 'plain ' || state WHERE published = 1")
    # The place of this file on the machine is no part of a layout.
    here = f"{Path(__file__).parents[2]}{os.sep}"
    file.execute("UPDATE task SET error = replace(error, ?, '')", [here])
    file.execute("UPDATE worker SET about = '{}'")
    parked = "state = 4, reason = 'no process knows it', parked_at = ?"
    file.execute(f"UPDATE task SET {parked} WHERE id = 'parked'", [int(time.time() * 1e6)])


def _dump(file: sqlite3.Connection, to: Path) -> Path:
    version = file.execute("PRAGMA user_version").fetchone()[0]
    pragmas = [(it, file.execute(f"PRAGMA {it}").fetchone()[0]) for it in _PRAGMAS]
    lines = [*(f"PRAGMA {name} = {value};" for name, value in pragmas), *file.iterdump()]
    path = to / f"{version}.sql"
    path.write_text("\n".join(lines) + "\n")
    return path


# --- Reading --------------------------------------------------------------------------


def restore(stored: Path, path: Path) -> None:
    """Make the file that was stored as text. No process of that time lives."""
    with closing(sqlite3.connect(path)) as file:
        file.executescript(stored.read_text())
        # Numbers of processes are used again.
        file.execute("UPDATE process SET pid = 1 << 30")
        file.execute("UPDATE task SET due = 1 WHERE state = 1")
        file.commit()


def schema(path: Path) -> list[str]:
    """The texts of tables and indexes, and the number of the layout."""
    with closing(sqlite3.connect(path)) as file:
        rows = file.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY sql")
        version = file.execute("PRAGMA user_version").fetchone()[0]
        return [f"layout {version}", *(sql for (sql,) in rows)]


def counts(path: Path) -> dict[str, int]:
    """The number of rows of each table."""
    with closing(sqlite3.connect(path)) as file:
        names = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
        tables = [name for (name,) in file.execute(names)]
        return {it: file.execute(f"SELECT count(*) FROM {it}").fetchone()[0] for it in tables}


if __name__ == "__main__":
    if sys.argv[1:]:
        _play(sys.argv[1], Path(sys.argv[2]))
    else:
        print(write(FOLDER))
