"""Flask-SQLAlchemy, whose session lives as long as an app context, on a real SQLite file."""

import threading

import pytest

pytest.importorskip("flask_sqlalchemy")

from flask import Flask, request
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import event

from flask_delay import Delay, delay, using

DEADLINE = 20.0
MODES = pytest.mark.parametrize("mode", ["threads", "immediate", "manual"])


class Shop:
    """An app with a table, and a list of the sessions that were closed: by whom, and when."""

    def __init__(self, path, mode):
        self.app = Flask("shop", static_folder=None)
        self.app.config.update(
            SQLALCHEMY_DATABASE_URI=f"sqlite:///{path / 'shop.db'}",
            DELAY_MODE=mode,
            DELAY_MAX_WORKERS=2,
        )
        self.extension = Delay(self.app)
        self.db = db = SQLAlchemy(self.app)

        class Row(db.Model):
            id = db.Column(db.Integer, primary_key=True)
            name = db.Column(db.String, nullable=False)

        self.Row = Row
        with self.app.app_context():
            db.create_all()
        self.removed = []
        self.future = None

        @self.app.teardown_appcontext
        def note(_exc):
            # Registered last, so run first: before the session is removed.
            session = db.session()
            done = self.future is not None and self.future.done()
            self.removed.append((session, threading.get_ident(), done))

    def names(self):
        with self.app.app_context():
            return sorted(self.db.session.scalars(self.db.select(self.Row.name)))

    def sessions(self):
        """The sessions that nobody has removed."""
        return list(self.db.session.registry.registry.values())

    def submit(self, function, *args):
        self.future = delay(function, *args)
        return self.future

    def result(self):
        if self.app.config["DELAY_MODE"] == "manual":
            self.extension.executor.run_pending()
        return self.future.result(DEADLINE)


@pytest.fixture
def shop(tmp_path, mode):
    shop = Shop(tmp_path, mode)
    yield shop
    shop.extension.shutdown()
    with shop.app.app_context():
        shop.db.engine.dispose()


@MODES
@pytest.mark.parametrize("kind", ["plain", "async"])
def test_sessions_of_task_and_caller_are_two(shop, kind):
    db, row = shop.db, shop.Row
    seen = {}

    def work():
        seen["session"] = db.session()
        seen["thread"] = threading.get_ident()
        db.session.add(row(name="of the task"))
        db.session.commit()
        # Not committed, so rolled back when the session is removed.
        db.session.add(row(name="lost"))
        db.session.flush()
        return db.session.scalar(db.select(db.func.count()).select_from(row))

    async def work_async():
        return work()

    with shop.app.app_context():
        pending = row(name="of the caller")
        db.session.add(pending)
        mine = db.session()
        shop.submit(work_async if kind == "async" else work)
        assert shop.result() == 2
        assert seen["session"] is not mine
        # The task's was removed, once, where the task ran, before its future was done.
        assert [it for it in shop.removed if it[0] is seen["session"]] == [
            (seen["session"], seen["thread"], False)
        ]
        assert shop.sessions() == [mine]
        # The caller's is the same and has what it had.
        assert db.session() is mine
        assert pending in db.session.new
        db.session.commit()
        assert pending.id is not None
    assert shop.names() == ["of the caller", "of the task"]


@MODES
def test_uncommitted_rows_stay_the_callers(shop):
    """Flushed, so there is a transaction: rolled back, or not seen by the task."""
    db, row = shop.db, shop.Row

    def count():
        return db.session.scalar(db.select(db.func.count()).select_from(row))

    with shop.app.app_context():
        db.session.add(row(name="of the caller"))
        db.session.flush()
        shop.submit(count)
        assert shop.result() == 0
        assert count() == 1
        db.session.commit()
    assert shop.names() == ["of the caller"]


@MODES
def test_object_of_the_caller_is_still_attached(shop):
    db, row = shop.db, shop.Row
    with shop.app.app_context():
        thing = row(name="thing")
        db.session.add(thing)
        db.session.commit()
        shop.submit(int)
        shop.result()
        # Expired by the commit: a closed session could not load it.
        assert thing.name == "thing"


@MODES
def test_failing_task_is_rolled_back(shop):
    db, row = shop.db, shop.Row

    def work():
        db.session.add(row(name="lost"))
        db.session.flush()
        raise LookupError

    with shop.app.app_context():
        shop.submit(work)
        with pytest.raises(LookupError):
            shop.result()
        assert shop.sessions() == []
    assert shop.names() == []


@MODES
def test_callbacks_have_a_session_of_their_own(shop):
    db, row = shop.db, shop.Row
    sessions = []

    def work():
        sessions.append(db.session())

    def report(_future):
        sessions.append(db.session())
        db.session.add(row(name="of the callback"))
        db.session.commit()

    shop.extension.add_default_done_callback(report)
    with shop.app.app_context():
        sessions.append(db.session())
        shop.submit(work)
        shop.result()
        assert shop.extension.drain(DEADLINE)
        assert shop.sessions() == sessions[:1]
    assert len(set(map(id, sessions))) == 3
    assert shop.names() == ["of the callback"]


@MODES
def test_with_a_copy_of_the_request(shop):
    db, row = shop.db, shop.Row

    @shop.app.post("/<name>")
    def view(name):
        db.session.add(row(name=name))
        shop.future = using(request=True).delay(work)
        db.session.commit()
        return "ok"

    def work():
        name = f"{request.view_args['name']} again"
        db.session.add(row(name=name))
        db.session.commit()
        return name

    assert shop.app.test_client().post("/one").status_code == 200
    assert shop.result() == "one again"
    assert shop.extension.drain(DEADLINE)
    assert shop.sessions() == []
    assert shop.names() == ["one", "one again"]


@pytest.mark.parametrize("mode", ["threads"])
def test_connections_come_back(shop):
    taken = []

    def work():
        return shop.db.session.scalar(shop.db.text("select 1"))

    with shop.app.app_context():
        event.listen(shop.db.engine, "checkout", lambda *_: taken.append(1))
        futures = [delay(work) for _ in range(50)]
        assert [future.result(DEADLINE) for future in futures] == [1] * 50
        assert len(taken) == 50
        assert shop.db.engine.pool.checkedout() == 0
