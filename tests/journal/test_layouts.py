"""A file of each layout that was released: opened by today's code, which runs what waits in it."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from tests.journal import layout

from flask_delay.testing import journal

DEADLINE = 30.0
STORED = sorted(layout.FOLDER.glob("*.sql"))

# How each task ends, with its result or the name of its error, and how many attempts it had.
ENDS = {
    "finished": ("finished", (1, 2, 3), 1),
    "failed": ("failed", "LookupError", 1),
    "unkept": ("finished", None, 1),
    "once": ("finished", 7, 1),
    "limited": ("finished", 71, 1),
    "cancelled": ("cancelled", None, 0),
    "dead": ("dead", "WorkerDied", 1),
    "plain 6": ("finished", "plain", 1),
    # Its process has died.
    "plain 2": ("failed", "WorkerDied", 0),
    # These wait in the file.
    "ready": ("finished", 3, 1),
    "follower": ("finished", 4, 1),
    "large": ("finished", "x" * 5_000 + "y", 1),
    "unique": ("finished", 11, 1),
    "options": ("finished", 21, 1),
    "expired": ("failed", "TaskExpired", 0),
    "scheduled": ("finished", 41, 1),
    "retried": ("finished", 2, 2),
    "old name": ("finished", 51, 1),
    "parked": ("finished", 61, 1),
    "paused": ("failed", "LookupError", 1),
    "running": ("finished", [{"done": 3}, 7], 2),
}


@pytest.mark.parametrize("stored", STORED, ids=lambda path: path.stem)
def test_ends_of_all_that_waits(stored: Path, tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    layout.restore(stored, path)
    with journal(tmp_path):
        app = layout.make_app(path, JOURNAL_DEATHS=3)
        executor = layout.executor_of(app)
        with app.app_context():
            executor.resume()
            for id in ENDS:
                future = executor.get(id)
                assert future is not None, id
                future.exception(DEADLINE) if not future.cancelled() else None
            assert executor.get("forgotten") is None
            found = {}
            for view in executor.tasks(limit=100):
                error = None if view.error is None else type(view.error).__name__
                found[view.id] = (view.state, view.result or error, view.attempts)
            assert found == ENDS
            assert executor.stats()["journal"]["dead"] == 1
            # And it goes on.
            assert layout.add_up.delay(1).result(DEADLINE) == 2
        executor.shutdown()
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_the_file_of_todays_layout_is_stored(tmp_path: Path) -> None:
    """It is made by `make layout`; one that was released is not changed, but gets a migration."""
    with journal(tmp_path):
        app = layout.make_app(tmp_path / "new.db")
        with app.app_context():
            executor = layout.executor_of(app)
            layout.add_up.delay(1).result(DEADLINE)
            executor.shutdown()
    today = layout.schema(tmp_path / "new.db")
    version = today[0].removeprefix("layout ")
    layout.restore(layout.FOLDER / f"{version}.sql", tmp_path / "stored.db")
    assert layout.schema(tmp_path / "stored.db") == today, "run make layout"
    assert [path.stem for path in STORED] == [str(it + 1) for it in range(int(version))]
    # With rows of every kind, but for jobs and commands, which the app here does not have.
    counts = layout.counts(tmp_path / "stored.db")
    assert {name for name, count in counts.items() if not count} == {"command", "periodic"}
