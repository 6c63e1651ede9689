"""Uploads of durable tasks: kept until the task does not run again, whichever process runs it."""

import io
import os
import threading
import time
from pathlib import Path

import pytest
from tests.uploaded import uploads_in
from werkzeug.datastructures import FileStorage

from flask_delay import DuplicateTask, chain, current_task, task, uploads, using

DEADLINE = 30.0
GO, BEGUN = threading.Event(), threading.Event()
FAILING: list[bool] = []


@task(durable=True)
def told(file, *more):
    return file.filename, file.name, file.content_type, file.stream.tell(), file.read(), more


@task(durable=True)
def path_of(files: "list[Path]"):
    return [(it.suffix, it.read_bytes()) for it in files]


@task(durable=True)
async def awaited(*, file):
    return file.read()


@task(durable=True, retry=1)
def fail(file):
    data = file.read()
    if FAILING:
        raise ValueError(data)
    return data, current_task.attempt


@task(durable=True)
def wait(file):
    BEGUN.set()
    assert GO.wait(DEADLINE)
    return file.read()


def of(data=b"data", filename="a b.csv"):
    return FileStorage(io.BytesIO(data), filename, "report", "text/csv")


@pytest.fixture
def app(make_app):
    app = make_app()
    with app.app_context():
        yield app


@pytest.fixture
def executor(app):
    return app.extensions["delay"].owner


@pytest.fixture
def left(app):
    """The uploads that are there."""
    folder = app.extensions["delay"].uploads.folder
    return lambda: uploads_in(folder, "durable-")


@pytest.fixture
def gone(left, wait_until):
    def check():
        assert wait_until(lambda: not left()), left()

    return check


def test_a_task_gets_its_upload(left, gone):
    future = told.delay(of(), 5)
    assert future.result(DEADLINE) == ("a b.csv", "report", "text/csv", 0, b"data", (5,))
    assert path_of.delay([of(b"1"), of(b"2", "b.PNG")]).result(DEADLINE) == [
        (".csv", b"1"),
        (".PNG", b"2"),
    ]
    assert awaited.delay(file=of()).result(DEADLINE) == b"data"
    gone()


def test_a_task_waits_with_its_upload(executor, left, gone):
    future = using(countdown=0.3, retry=2).delay(told, of())
    assert len(left()) == 1
    assert future.result(DEADLINE)[4] == b"data"
    gone()


def test_a_page_shows_the_name_and_the_size(app):
    future = using(countdown=1000).delay(told, of(b"secret" * 1000, "plan.txt"))
    (listed,) = app.extensions["delay"].store.listed("held", None, 10, arguments=True)
    view = listed.view
    assert view.id == future.id
    assert "plan.txt" in view.arguments
    assert "6,000 bytes" in view.arguments
    assert "secretsecret" not in view.arguments
    future.cancel()


def test_a_cancelled_task_removes_the_file(left, gone):
    future = using(countdown=1000).delay(told, of())
    assert len(left()) == 1
    assert future.cancel()
    gone()


def test_a_task_that_failed_keeps_it_until_it_is_forgotten(app, executor, left, gone):
    FAILING.append(True)
    try:
        future = fail.delay(of())
        assert isinstance(future.exception(DEADLINE), ValueError)
        assert future.attempts == 2
        assert len(left()) == 1
        # The journal may still know it when the server starts again.
        app.extensions["delay"].store._sweep()
        assert len(left()) == 1
    finally:
        FAILING.clear()
    assert executor.retry(future.id).result(DEADLINE)[0] == b"data"
    gone()


def test_what_is_forgotten_is_swept(app, executor, left):
    FAILING.append(True)
    try:
        future = fail.delay(of())
        assert future.exception(DEADLINE)
        assert len(left()) == 1
    finally:
        FAILING.clear()
    assert executor.prune(0) == 1
    app.extensions["delay"].store._sweep()
    assert left() == []


def test_a_twin_needs_no_file(left, gone):
    one, two = (using(once="order-7").delay(told, of()) for _ in range(2))
    assert one.id == two.id
    one.result(DEADLINE)
    gone()
    GO.clear()
    unique = using(unique="raise", key="k").delay
    first = unique(wait, of())
    with pytest.raises(DuplicateTask):
        unique(wait, of())
    assert len(left()) == 1
    GO.set()
    assert first.result(DEADLINE) == b"data"
    gone()


def test_a_function_of_the_key_sees_the_upload(app, gone):
    seen = []

    def key(files):
        seen.append([(it.filename, it.name, it.content_type, it.size) for it in files])
        return files[0].filename

    assert using(unique="raise", key=key).delay(path_of, [of()]).result(DEADLINE)
    assert seen == [[("a b.csv", "report", "text/csv", 4)]]
    gone()


def test_a_submit_that_fails_leaves_nothing(make_app, app, left):
    with pytest.raises(TypeError, match="argument 2 of task .*object"):
        told.delay(of(), object())
    with pytest.raises(ValueError, match="DELAY_JOURNAL_MAX_BYTES"):
        told.delay(of(), "x" * 2_000_000)
    with pytest.raises(TypeError, match="unexpected keyword argument 'name'"):
        told.delay(of(), name=1)
    closed = of()
    closed.close()
    with pytest.raises(ValueError, match="before the file is closed"):
        told.delay(closed)
    assert left() == []


def test_not_in_one_commit_with_others(app, left):
    with pytest.raises(TypeError, match=r"'a b.csv' .*pass it to delay\(\) itself"):
        list(told.map([of()]))
    with pytest.raises(TypeError, match=r"'a b.csv' .*pass it to delay\(\) itself"):
        chain(told, told).delay(of())
    assert left() == []


def test_not_with_a_transaction(app, left):
    orm = pytest.importorskip("sqlalchemy.orm")
    with orm.Session() as session, pytest.raises(ValueError, match="save it, and pass the path"):
        using(within=session).delay(told, of())
    assert left() == []


@pytest.mark.parametrize("mode", ["immediate", "manual"])
def test_in_tests(make_app, mode, tmp_path):
    app = make_app(DELAY_MODE=mode, DELAY_JOURNAL=None)
    with app.app_context():
        future = told.delay(of(), (1, 2))
        with pytest.raises(TypeError, match="argument 2 of task .*object"):
            told.delay(of(), object())
    if mode == "manual":
        app.extensions["delay"].executor.run_pending()
    assert future.result(0)[4] == b"data"


def test_what_was_never_accepted_is_swept_in_time(app, left):
    state = app.extensions["delay"]
    folder = state.store._files
    for id in ("new", "old"):
        batch, *_ = state.uploads.keep_lasting(folder, id, len, ([of()],), {})
        if id == "old":
            os.utime(batch.folder, (time.time() - 7200,) * 2)
    # What is not ours stays, and is in nobody's way.
    (folder / "0").mkdir()
    (folder / "notes.txt").write_text("")
    os.utime(folder / "notes.txt", (0, 0))
    state.store._sweep()
    assert (folder / "notes.txt").exists()
    assert [(it.parent / "task").read_text() for it in left()] == ["new"]


@pytest.mark.parametrize(
    "notes",
    [
        {"a": ["../../etc/passwd", 1, "a", "b", [], True]},
        {"a": ["0" * 32 + "/../x", 1, 2]},
        {"a": 1},
    ],
)
def test_a_text_of_the_journal_names_no_other_file(notes, tmp_path):
    with pytest.raises((ValueError, TypeError)):
        uploads.read_notes(tmp_path, notes)


# --- Several processes --------------------------------------------------------------------

CODE = """
import io
from werkzeug.datastructures import FileStorage

def of(data):
    return FileStorage(io.BytesIO(data), "a.txt", "report")

@task(durable=True, retry=2)
def kept(file):
    note("kept", data=file.read().decode())
    if not (folder / "go").exists():
        time.sleep(60)
    return os.getpid()

@task(durable=True, backend="processes")
def there(file):
    note("there", data=file.read().decode())
    return os.getpid()
"""


def files(tmp_path):
    return uploads_in(tmp_path, "durable-")


def test_another_process_runs_the_task_of_a_killed_one(start, notes, tmp_path, wait_until):
    one = start(CODE)
    id = one("kept.delay(of(b'data')).id")
    assert wait_until(notes)
    (tmp_path / "go").touch()
    one.kill()
    assert len(files(tmp_path)) == 1
    two = start(CODE)
    assert two(f"executor.get({id!r}).result(20)") == two.pid
    assert [it["data"] for it in notes()] == ["data", "data"]
    assert wait_until(lambda: not files(tmp_path))


def test_in_a_worker_process(start, tmp_path, wait_until):
    one = start(CODE, DELAY_APP="shop:app", DELAY_PROCESSES=1)
    assert one("there.delay(of(b'data')).result(20)") != one.pid
    assert wait_until(lambda: not files(tmp_path))


def test_one_that_waits_outlives_its_process(start, tmp_path, wait_until):
    (tmp_path / "go").touch()
    one = start(CODE)
    id = one("using(countdown=2).delay(kept, of(b'data')).id")
    assert one.end() == 0
    assert len(files(tmp_path)) == 1
    two = start(CODE)
    assert two(f"executor.get({id!r}).result(20)") == two.pid
    assert wait_until(lambda: not files(tmp_path))
