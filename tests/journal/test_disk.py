"""The disk, the file system and the file of an app: what each level waits for, and what goes wrong.

Calls of the system fail as `faults.c` says, which is loaded before the C library.
"""

import contextlib
import re
import shutil
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.journal.conftest import Raised, run_flask

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None, reason="needs Linux and a C compiler"
)


# --- What a level waits for -----------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "durable", "waits"),
    [
        ("commit", True, True),
        ("second", True, False),
        ("second", "disk", True),
        ("never", True, False),
        ("never", "disk", True),
    ],
)
def test_a_level_waits_for_the_disk_or_not(start, faults, level, durable, waits):
    one, two = start(DELAY_JOURNAL_SYNC=level), start(DELAY_JOURNAL_SYNC=level)
    id = one("add.using(id='first').delay(1).id")
    # Both have it open: that too has something on the disk.
    assert two(f"executor.get({id!r}).result(20)") == 2
    faults.begin("sync waits")
    one.send(f"add.using(durable={durable!r}, id='order').delay(2).id")
    assert one.has_answered(0.5) is not waits
    # It is committed at once, and other processes see it.
    assert two("executor.get('order').id") == "order"
    faults.end("sync waits")
    assert one.answer() == "order"
    assert one("executor.get('order').result(20)") == 3


OUTBOX = """
from sqlalchemy import MetaData, create_engine, event
from sqlalchemy.orm import Session
from flask_delay.contrib import outbox

engine = create_engine(f"sqlite:///{folder / 'orders.db'}")
# It has a disk of its own.
event.listen(engine, "connect", lambda it, _: it.execute("pragma synchronous = off"))
metadata = MetaData()
table = outbox.table(metadata)
metadata.create_all(engine)


def order(id):
    with Session(engine) as session, session.begin():
        using(durable=True, within=session, id=id).delay(add, 1)
"""


def test_a_row_of_the_outbox_stays_until_its_task_is_on_the_disk(
    start, faults, wait_until, tmp_path
):
    """Whatever the level is: the row is on another disk, which has not lost it."""
    pytest.importorskip("sqlalchemy")
    one, two = start(code=OUTBOX, DELAY_JOURNAL_SYNC="second"), start()

    def left():
        with contextlib.closing(sqlite3.connect(tmp_path / "orders.db")) as connection:
            return connection.execute("SELECT id FROM delay_outbox").fetchall()

    # Whatever comes with the first one is on the disk before.
    one("order('first')")
    assert two("executor.get('first').result(20)") == 2
    assert wait_until(lambda: not left())
    faults.begin("sync waits")
    one.send("order('order')")
    assert wait_until(lambda: two("executor.get('order')") is not None)
    assert not wait_until(lambda: not left(), 1)
    faults.end("sync waits")
    one.answer()
    assert two("executor.get('order').result(20)") == 2
    assert wait_until(lambda: not left())


def test_a_disk_that_does_not_sync(start, faults, wait_until):
    """Nothing is accepted that it may lose, and nothing of that runs."""
    one = start(DELAY_JOURNAL_SYNC="commit", DELAY_JOURNAL_TIMEOUT=1)
    one("add.delay(1).result(20)")
    faults.begin("sync fails")
    with pytest.raises(Raised, match=r"^JournalUnavailable: .*disk I/O error"):
        one("add.using(id='order', countdown=60).delay(2)")
    faults.end("sync fails")
    assert "the journal cannot be written to the disk" in one.log()
    assert wait_until(lambda: one("executor.get('order')") is None)
    assert one("add.using(id='order').delay(3).result(20)") == 4


def test_a_full_disk(start, faults, wait_until, tmp_path):
    """It refuses tasks; the end of one that runs is stored as soon as there is room again."""
    one, two = start(), start()
    one("runs = wait_for.delay('go')")
    id = one("runs.id")
    assert wait_until(lambda: two(f"executor.get({id!r}).running()"))
    faults.begin("full")
    with pytest.raises(Raised, match=r"^JournalUnavailable: .*journal.db.*make room on its disk"):
        one("add.using(id='order').delay(1)")
    one("go('go')")
    # Its own process has its result.
    assert one("runs.result(20)") == one.pid
    assert wait_until(lambda: "if this process ends before, these tasks run again" in one.log())
    assert two(f"executor.get({id!r}).state") == "running"
    faults.end("full")
    assert two(f"executor.get({id!r}).result(20)") == one.pid
    assert two("executor.get('order')") is None
    assert one("add.using(id='order').delay(1).result(20)") == 2


# --- Places and files that will not do ------------------------------------------------

USE = """
import sys
from flask import Flask
from flask_delay import Delay, task

@task(durable=True)
def add(number):
    return number + 1

app = Flask("app", static_folder=None)
app.config["DELAY_JOURNAL"] = sys.argv[1]
where = "init_app"
try:
    executor = Delay(app)
    where = "delay"
    with app.app_context():
        add.delay(1)
except Exception as error:
    print(where, type(error).__name__, error)
"""


@pytest.fixture
def refused(run_script, tmp_path) -> Callable[[str], str]:
    """What an app says whose journal cannot be used; `flask delay check` says it as well."""
    path = tmp_path / "place" / "journal.db"

    def refused(expected: str) -> str:
        done = run_script(USE, str(path), flags=())
        assert done.rc == 0, done.err
        assert done.out.startswith(f"{expected} {path.parent}"), done.out
        folder = tmp_path / "checked"
        folder.mkdir()
        (folder / "app.py").write_text(
            "from flask import Flask\nfrom flask_delay import Delay\n"
            f"app = Flask(__name__)\napp.config['DELAY_JOURNAL'] = {str(path)!r}\nDelay(app)\n"
        )
        checked = run_flask(folder, "delay", "check", app="app")
        assert checked.returncode == 1, checked.stdout + checked.stderr
        lines = [it for it in checked.stdout.splitlines() if it.startswith("WRONG  journal")]
        assert lines, checked.stdout
        return done.out + "\n".join(lines)

    return refused


@pytest.fixture
def place(tmp_path) -> Path:
    folder = tmp_path / "place"
    folder.mkdir(mode=0o700)
    return folder


@pytest.mark.parametrize(
    ("fault", "expected", "said"),
    [
        (
            "NFS",
            "init_app ValueError",
            "cannot be on NFS: .*set DELAY_JOURNAL to a path on a local disk",
        ),
        ("no locks", "init_app JournalUnavailable", "cannot be locked: No locks available"),
        ("no FIFOs", "delay JournalUnavailable", "cannot be made: Operation not permitted"),
        ("read only", "init_app ValueError", "the folder cannot be made: Read-only file system"),
    ],
)
def test_a_file_system_that_will_not_do(faults, refused, fault, expected, said):
    faults.begin(fault)
    text = refused(expected)
    assert re.search(said, text), text


def test_a_file_of_a_newer_version(start, refused, place):
    start(DELAY_JOURNAL=str(place / "journal.db")).end()
    with sqlite3.connect(place / "journal.db") as file:
        file.execute("PRAGMA user_version = 99")
        file.execute("UPDATE meta SET value = 99 WHERE key = 'oldest'")
    file.close()
    text = refused("init_app JournalUnavailable")
    assert "newer code has changed the layout of this journal" in text
    assert "deploy the newer code here too" in text


def test_a_damaged_file(refused, place):
    (place / "journal.db").write_bytes(b"no database, but something else" * 100)
    assert "put a backup in its place" in refused("init_app JournalUnavailable")


def test_a_file_that_is_removed_in_use(start, wait_until, tmp_path):
    """The log says so, waiting futures fail, and the next task is in a new file."""
    one = start(DELAY_MAX_WORKERS=1)
    one("waits = add.using(countdown=60).delay(1)")
    one("add.delay(1).result(20)")
    for suffix in ("", "-wal", "-shm"):
        (tmp_path / f"journal.db{suffix}").unlink()
    assert one("type(waits.exception(20)).__name__") == "JournalUnavailable"
    assert "was removed or replaced" in one("str(waits.exception())")
    # It comes after the ends.
    assert wait_until(lambda: "was removed or replaced" in one.log())
    assert "ERROR" in next(it for it in one.log().splitlines() if "was removed or replaced" in it)
    assert one("add.delay(2).result(20)") == 3
    assert (tmp_path / "journal.db").exists()
    two = start()
    assert two("add.using(id='order').delay(3).result(20)") == 4
    assert one("executor.get('order').result(20)") == 4
