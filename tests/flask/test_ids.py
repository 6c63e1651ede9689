"""`using(id=...)`: an id that is known before the task is."""

import threading
import uuid

import pytest
from flask import current_app

from flask_delay import (
    Delay,
    DuplicateTask,
    Executor,
    QueueFull,
    chain,
    current_task,
    delay,
    state,
    task,
    using,
)
from flask_delay.periodic.job import Jobs


@pytest.fixture
def extension():
    return Delay()


@pytest.fixture
def app(make_app, extension):
    app = make_app(extension=extension, DELAY_RESULT_LIMIT=2, DELAY_MAX_WORKERS=1)
    app.register_blueprint(extension.status_blueprint(), url_prefix="/tasks")
    with app.app_context():
        yield app


@pytest.fixture
def occupied(app):
    """The one worker is at work, until this is set."""
    release, begun = threading.Event(), threading.Event()
    delay(lambda: begun.set() or release.wait(20))
    assert begun.wait(20)
    yield release
    release.set()


IDS = [
    uuid.uuid4(),
    str(uuid.uuid4()),
    uuid.uuid4().hex,
    str(uuid.uuid4()).upper(),
    "order 7",
    "ä" * 100,
    "7",
]


@pytest.mark.parametrize("id", IDS)
def test_it_is_the_tasks_id(app, extension, occupied, id):
    future = using(id=id).delay(lambda: (current_task.id, current_app.name))
    # Before it starts.
    assert extension.get(id) is future
    assert extension.get(str(id)) is future
    assert future.id == str(id)
    client = app.test_client()
    assert client.get(f"/tasks/{id}").get_json()["state"] == "pending"
    occupied.set()
    assert future.result(20) == (str(id), "app")
    assert client.get(f"/tasks/{id}").get_json()["state"] == "finished"


def test_a_row_that_is_written_after_the_submit(app, extension):
    """What the option is for: `Task(id=job.id)`, then the submit."""
    rows = {}
    job = uuid.uuid4()
    rows[str(job)] = "pending"

    def work():
        rows[current_task.id] = "done"

    using(id=job).delay(work).result(20)
    assert rows == {str(job): "done"}


@pytest.mark.parametrize("id", ["7", uuid.uuid4()])
class TestUnique:
    def test_while_it_waits_or_runs(self, app, extension, occupied, id):
        first = using(id=id).delay(int)
        for _ in range(2):
            with pytest.raises(DuplicateTask, match=f'the id "{id}" already'):
                using(id=id).delay(int)
        assert extension.get(id) is first
        assert extension.stats()["queued"] == 1

    def test_until_it_is_forgotten(self, app, extension, id):
        using(id=id).delay(int).result(20)
        assert extension.drain(20)
        with pytest.raises(DuplicateTask):
            using(id=id).delay(int)
        for _ in range(2):
            assert delay(int).id
            assert extension.drain(20)
        assert extension.get(id) is None
        assert app.test_client().get(f"/tasks/{id}").status_code == 410
        again = using(id=id).delay(int)
        assert extension.get(id) is again
        assert app.test_client().get(f"/tasks/{id}").status_code == 200

    def test_one_that_was_not_accepted_does_not_count(self, make_app, id):
        extension = Delay()
        app = make_app(
            extension=extension,
            DELAY_MAX_WORKERS=1,
            DELAY_QUEUE_SIZE=1,
            DELAY_WHEN_FULL="raise",
        )
        release, begun = threading.Event(), threading.Event()
        with app.app_context():
            delay(lambda: begun.set() or release.wait(20))
            assert begun.wait(20)
            delay(int)
            with pytest.raises(QueueFull):
                using(id=id).delay(int)
            assert extension.get(id) is None
            release.set()
            assert extension.drain(20)
            assert using(id=id).delay(int).result(20) == 0

    def test_a_key_that_fails_does_not_count(self, app, extension, id):
        with pytest.raises(ZeroDivisionError):
            using(id=id, limit=1, key=lambda: 1 / 0).delay(int)
        with pytest.raises(TypeError, match="not hashable"):
            using(id=id, unique="raise").delay(list, [])
        assert extension.get(id) is None
        assert using(id=id).delay(int).result(20) == 0

    def test_from_many_threads_one_gets_it(self, app, extension, occupied, id):
        found = []
        together = threading.Barrier(8, timeout=20)

        def submit():
            together.wait()
            with app.app_context():
                try:
                    found.append(using(id=id).delay(int))
                except DuplicateTask:
                    found.append(None)

        threads = [threading.Thread(target=submit) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        (future,) = [it for it in found if it is not None]
        assert extension.get(id) is future


def test_with_unique_raise(app, occupied):
    first = using(id="1", unique="raise").delay(int)
    with pytest.raises(DuplicateTask):
        using(id="2", unique="raise").delay(int)
    assert using(id="2").delay(int).id == "2"
    assert first.id == "1"


def test_retries_keep_it(app, extension):
    def fails_once():
        if current_task.attempt == 1:
            current_task.retry(after=0)
        return current_task.id, current_task.attempt

    assert using(id="it").delay(fails_once).result(20) == ("it", 2)
    assert extension.get("it").attempts == 2


def test_what_follows(app, extension, occupied):
    first = using(id="first").delay(int, 1)
    second = first.then(task(id="second")(str))
    assert (extension.get("first"), extension.get("second")) == (first, second)
    with pytest.raises(DuplicateTask):
        first.then(task(id="second")(str))
    last = chain(task(id="a")(int), task(id="b")(str)).delay(1)
    assert extension.get("b") is last
    occupied.set()
    assert (second.result(20), last.result(20)) == ("1", "1")


def test_of_a_coroutine(app, extension):
    async def which():
        return current_task.id

    assert using(id="it").delay(which).result(20) == "it"


@pytest.mark.parametrize("mode", ["immediate", "manual"])
def test_in_the_modes_for_tests(make_app, mode):
    extension = Delay()
    app = make_app(extension=extension, DELAY_MODE=mode)
    with app.app_context():
        future = using(id="it").delay(lambda: current_task.id)
        assert extension.get("it") is future
        if mode == "manual":
            extension.run_pending()
        assert future.result() == "it"
        with pytest.raises(DuplicateTask):
            using(id="it").delay(int)


def test_without_flask(monkeypatch):
    monkeypatch.setattr(state, "only_state", lambda: None)
    with Executor(1) as executor:
        monkeypatch.setattr(state, "shared_jobs", lambda: Jobs(executor))
        future = using(id="it").delay(lambda: current_task.id)
        assert (future.result(20), future.id) == ("it", "it")


@pytest.mark.parametrize(
    ("id", "error"),
    [
        (7, TypeError),
        (None, TypeError),
        (b"7", TypeError),
        ("", ValueError),
        ("x" * 101, ValueError),
        ("a/b", ValueError),
        ("a\nb", ValueError),
        ("\ud800", ValueError),
        ("\x00", ValueError),
    ],
)
def test_bad_ids(id, error):
    with pytest.raises(error, match="the option 'id' is .*, but must be a UUID, or a string of 1"):
        using(id=id)


def test_what_makes_no_sense_with_it(app):
    with pytest.raises(ValueError, match="'id' is '1', but with 'unique'"):
        using(id="1", unique=True)
    with pytest.raises(ValueError, match="'id' is '1', but 'every' makes a job"):
        using(id="1", every=1)
    for take in (
        lambda: using(id="1").map(int, [1]),
        lambda: task(id="1")(int).map([1]),
        lambda: app.extensions["delay"].owner.map(task(id="1")(int), [1]),
    ):
        with pytest.raises(ValueError, match=r"'id' is '1', which is for one call .* map\(\)"):
            take()


def test_ids_that_are_no_uuids_are_asked_for(app, extension):
    assert extension.get("") is None
    assert extension.get("what" * 100) is None
    future = delay(int)
    # Other ways to write a UUID.
    assert extension.get(future.id.upper()) is future
    assert extension.get(uuid.UUID(future.id)) is future
