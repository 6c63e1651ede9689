"""Whatever somebody writes into the file: no value of any column is imported or executed."""

import sqlite3
from contextlib import closing

import pytest

from flask_delay import task

# Has a journal in each round, writes into it what an attacker might, and uses it again. Every text
# has the name of a module that can be imported; an import or a compilation of it is noted.
PROGRAM = """
import itertools, os, random, sqlite3, sys, threading
from contextlib import closing, suppress
from flask import Flask
import flask_delay
from flask_delay import Delay, JournalUnavailable, current_task, task, using
from flask_delay.testing import journal

seen = []
HARM = {"import", "compile", "os.system", "subprocess.Popen", "os.exec", "pickle.find_class"}

def hook(event, args):
    if event in HARM and "planted" in repr(args):
        seen.append((event, args))

@task(durable=True, name="planted.work")
def work(*args, **kwargs):
    current_task.progress(1, 2, "planted")
    return args

@task(durable=True)
def fail(text):
    raise LookupError(text)

TEXTS = [
    "planted", "planted.go", "planted:go", "planted|go", "__import__('planted').go()", "../planted",
    "planted'; DROP TABLE task; --", "planted\\0go", "planted " + "[" * 20_000,
    '{"args": ["planted"], "kwargs": {"planted:go": 1}}', '{"$planted": ["planted:go"]}',
    '{"args": [{"$datetime": "2026-01-01T00:00:00[planted/go]"}], "kwargs": {}}',
    '{"type": "planted.Go", "message": "planted", "notes": ["planted"], "made": ["planted:go"]}',
    '{"type": "planted.go", "message": "m", "attributes": {"__class__": "planted.Go"}}',
    '{"retry": {"on": ["planted:go"], "times": 1}, "backend": "planted"}',
    '{"backend": "planted:Backend", "timeout": "planted", "priority": 10000000}',
]
NUMBERS = [0, 1, 2, 4, 6, 7, 9, -1, 99, 2**63 - 1, -(2**63)]
VALUES = {
    "TEXT": TEXTS, "INTEGER": NUMBERS, "REAL": [0.0, -1e308, 1e308, float("inf")],
    "BLOB": [b"planted", b""], "ANY": [*TEXTS, *NUMBERS],
}

def columns(connection):
    tables = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
    for (table,) in connection.execute(tables).fetchall():
        for _, column, kind, *_ in connection.execute(f"PRAGMA table_info({table})").fetchall():
            yield table, column, kind

def plant(path, chance, cells):
    with closing(sqlite3.connect(path, timeout=5)) as connection, connection:
        for table, column, kind in cells or chance.sample(list(columns(connection)), 6):
            value = chance.choice(VALUES[kind])
            # Not all have one, and some must be unique.
            with suppress(sqlite3.IntegrityError):
                connection.execute(f"UPDATE OR IGNORE {table} SET {column} = ?", [value])

EXPECTED = (JournalUnavailable, ValueError, flask_delay.QueueFull, flask_delay.DuplicateTask)

def use(app, executor, ids):
    client = app.test_client()
    done = 0
    for id in [*ids, "planted"]:
        assert client.get(f"/tasks/{id}").status_code in (200, 404, 410, 503)
        with suppress(*EXPECTED):
            future = executor.get(id)
            if future is not None:
                assert future.state in ("pending", "running", "finished", "cancelled")
                future.progress, future.name, future.attempts
                if future.done() and not future.cancelled():
                    with suppress(Exception):
                        future.result()
                future.stop() if id == ids[0] else future.cancel()
    with suppress(*EXPECTED):
        executor.stats()
    with suppress(*EXPECTED):
        future = work.delay("planted")
        with suppress(Exception):
            done = future.result(2) == ("planted",)
    return done

def round(folder, chance, cells=()):
    with journal(folder) as settings:
        settings |= {
            "DELAY_JOURNAL_TIMEOUT": 3, "DELAY_LOG_FAILURES": False, "DELAY_SHUTDOWN_TIMEOUT": 1,
        }

        def make():
            app = Flask("shop", static_folder=None)
            app.config.update(settings)
            executor = Delay(app)
            app.register_blueprint(
                executor.status_blueprint(url_prefix="/tasks", results=True, errors=True)
            )
            return app, executor

        app, executor = make()
        with app.app_context():
            futures = [
                work.delay("planted", "x" * 3000), fail.delay("planted"),
                using(once="planted").delay(work, 1), using(countdown=60).delay(work, 2),
                using(unique=True, timeout=5, retry=1, countdown=0.2).delay(work, 3),
            ]
            ids = [it.id for it in futures]
            futures[0].result(10), futures[1].exception(10)
            plant(executor._state().store.path, chance, cells)
            # In the process that has it open, and in one that opens it.
            done = use(app, executor, ids)
            executor.shutdown(wait=True)
        with suppress(*EXPECTED):
            app, executor = make()
            with app.app_context():
                done += use(app, executor, ids)
                executor.shutdown(wait=True)
    return done

import tempfile
folder, seed, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
# What is imported or compiled at its first use is not the file's.
round(tempfile.mkdtemp(dir=folder), random.Random(0), [("task", "note", "TEXT")])
sys.addaudithook(hook)
done = 0
chance = random.Random(seed)
for number in range(count):
    done += round(tempfile.mkdtemp(dir=folder), chance)
assert seen == [] and not os.path.exists("planted.ran"), seen
# Mostly, the journal is of use all the same.
print(done, "of", 2 * count)
try:
    import planted
except ImportError:
    pass
assert "import" in dict(seen) and os.path.exists("planted.ran"), seen
"""


def plant(run_script, tmp_path, seed, count, timeout):
    (tmp_path / "planted.py").write_text("open('planted.ran', 'w').close()\ndef go(): pass\n")
    folder = tmp_path / "journals"
    folder.mkdir()
    done = run_script(PROGRAM, str(folder), str(seed), str(count), timeout=timeout)
    assert done.rc == 0, done.err
    assert "panicked" not in done.err
    found, _, most = done.out.split()
    assert int(found) > int(most) / 4


def test_no_value_of_any_column_is_imported_or_executed(run_script, tmp_path):
    plant(run_script, tmp_path, seed=17, count=8, timeout=50)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_value_of_many_is(run_script, tmp_path):
    plant(run_script, tmp_path, seed=18, count=200, timeout=550)


@task(durable=True, name="planted.fails_at_first")
def fails_at_first():
    raise LookupError("no such row")


def test_a_row_that_has_ended_otherwise_than_the_future_here(make_app, wait_until):
    app = make_app()
    with app.app_context():
        future = fails_at_first.delay()
        assert isinstance(future.exception(20), LookupError)
        with closing(sqlite3.connect(app.extensions["delay"].store.path)) as connection:
            states = "SELECT state FROM task WHERE error IS NOT NULL"
            assert wait_until(lambda: connection.execute(states).fetchone())
            with connection:
                connection.execute("UPDATE task SET state = 6, error = NULL, unkept = 'set'")
        answer = app.test_client().get(f"/tasks/{future.id}")
    assert answer.status_code == 200
    assert answer.get_json()["state"] == "finished"
