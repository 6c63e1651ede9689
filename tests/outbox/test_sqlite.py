"""Tasks that are submitted with a transaction, on SQLite."""

import subprocess
import sys

import pytest
from flask import Flask
from sqlalchemy import MetaData, create_engine, event, text
from sqlalchemy.orm import Session
from tests.outbox import shop
from tests.outbox.contract import Contract, submit, until
from tests.outbox.shop import DEADLINE, Order, db, ran, rows, ship

from flask_delay import Delay, delay, task, using
from flask_delay.contrib import outbox
from flask_delay.testing import journal


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'shop.db'}"


class TestOnSQLite(Contract):
    def test_a_commit_that_the_database_refuses(self, app, monkeypatch):
        """A row was referred to that is not there, which SQLite only checks at the commit."""
        with db.engine.connect() as connection:
            connection.exec_driver_sql(
                "create table line (number integer references 'order' (number)"
                " deferrable initially deferred)"
            )
            connection.commit()
        db.session.execute(text("pragma foreign_keys = on"))
        db.session.rollback()
        event.listen(
            db.engine, "connect", lambda it, _: it.execute("pragma foreign_keys = on"), insert=True
        )
        db.session.execute(text("insert into line values (7)"))
        future = submit(1)
        with pytest.raises(Exception, match="FOREIGN KEY"):
            db.session.commit()
        db.session.rollback()
        # Only the database can tell.
        monkeypatch.setattr("flask_delay.journal.outbox._UNSURE", 0)
        found = app.extensions["delay"].store._outbox()
        found._hand.submit(found._sweep).result(DEADLINE)
        until(future.cancelled)
        assert rows() == []
        assert ran == []


class TestRefusals:
    def test_a_plain_task(self, app):
        with pytest.raises(ValueError, match=r"'within' .* not durable: say durable=True"):
            using(within=db.session).delay(ship, 1)

    def test_a_plain_task_without_an_app(self):
        with pytest.raises((ValueError, RuntimeError)):
            using(within=db.session).delay(ship, 1)

    @pytest.mark.parametrize("value", [None, True, "session", Session, object()])
    @pytest.mark.parametrize("option", ["within", "after_commit"])
    def test_what_is_no_session(self, option, value):
        with pytest.raises(TypeError, match=f"'{option}' .*a session of SQLAlchemy"):
            using(durable=True, **{option: value})

    def test_jobs(self, app):
        with pytest.raises(ValueError, match=r"'within' .*makes a job"):
            using(within=db.session, every=60)

    def test_steps(self, app):
        first = delay(int)
        with pytest.raises(ValueError, match=r"'within' .*follows another one"):
            first.then(ship.using(durable=True, within=db.session))

    def test_both_options(self):
        with pytest.raises(ValueError, match="exclude each other"):
            using(durable=True, within=db.session, after_commit=db.session)

    def test_another_backend(self, app):
        with pytest.raises(ValueError, match="celery"):
            using(durable=True, within=db.session, backend="celery").delay(ship, 1)

    def test_arguments_and_functions_that_are_not_for_durable_tasks(self, app):
        with pytest.raises(TypeError):
            submit(object())
        with pytest.raises(TypeError, match="lambda"):
            submit(1, lambda number: number)
        db.session.commit()
        assert rows() == []

    def test_a_database_in_memory(self, make_app, url):
        app = make_app()
        with app.app_context(), Session(create_engine("sqlite://")) as session:
            shop.table.create(session.connection())
            with pytest.raises(ValueError, match=r"in memory.*DELAY_MODE"):
                using(durable=True, within=session).delay(ship, 1)

    def test_a_session_on_a_connection(self, app):
        with (
            db.engine.connect() as connection,
            Session(connection) as session,
            pytest.raises(ValueError, match="bind it to the engine"),
        ):
            using(durable=True, within=session).delay(ship, 1)

    def test_no_table_is_known(self, app, monkeypatch):
        monkeypatch.setattr("flask_delay.journal.outbox.tables", set())
        with pytest.raises(RuntimeError, match=r"contrib\.outbox\.table\(metadata\)"):
            submit(1)

    def test_a_session_without_a_transaction(self, app):
        with Session(db.engine, autobegin=False) as session:
            with pytest.raises(RuntimeError, match=r"begin\(\)"):
                using(after_commit=session).delay(ship, 1)
            session.begin()
            future = using(durable=True, within=session).delay(ship, 1)
            session.commit()
        assert future.result(DEADLINE) == 1

    def test_a_durable_task_after_a_commit(self, app):
        with pytest.raises(ValueError, match=r"'after_commit' .*use within"):
            using(durable=True, after_commit=db.session).delay(ship, 1)

    def test_a_refused_submit_leaves_no_future(self, app):
        found = app.extensions["delay"].owner
        with pytest.raises(ValueError, match="in memory"):
            session = Session(create_engine("sqlite://"))
            using(durable=True, within=session, id="refused").delay(ship, 1)
        assert found.get("refused") is None


class TestTables:
    def test_a_second_call_returns_the_same(self):
        metadata = MetaData()
        table = outbox.table(metadata)
        assert outbox.table(metadata) is table
        assert metadata.tables["delay_outbox"] is table

    def test_a_schema(self):
        assert outbox.table(MetaData(schema="shop")).fullname == "shop.delay_outbox"

    def test_plain_sqlalchemy(self, tmp_path):
        """Without Flask-SQLAlchemy, the setting names the database."""
        url = f"sqlite:///{tmp_path / 'plain.db'}"
        engine = create_engine(url)
        metadata = MetaData()
        outbox.table(metadata)
        metadata.create_all(engine)
        with journal(tmp_path) as settings:
            app = Flask("plain", static_folder=None, instance_path=str(tmp_path))
            app.config.update(settings, DELAY_OUTBOX=url)
            Delay(app)
            with app.app_context(), Session(engine) as session:
                future = using(durable=True, within=session).delay(ship, 1)
                session.commit()
                assert future.result(DEADLINE) == 1
                store = app.extensions["delay"].store
                found = [engine.url for engine, _ in store._outbox()._known()]
                assert [str(it) for it in found] == [url]
        engine.dispose()

    @pytest.mark.parametrize(
        "value", ["nonsense", "oracle+nothing://ann:secret@host/db", "postgresql+none://", 7, ""]
    )
    def test_a_setting_that_sqlalchemy_cannot_use(self, value):
        app = Flask("plain", static_folder=None)
        app.config["DELAY_OUTBOX"] = value
        with pytest.raises(ValueError, match=r"DELAY_OUTBOX .*as SQLAlchemy writes it") as raised:
            Delay(app)
        assert "secret" not in str(raised.value)

    def test_a_setting_without_models(self, tmp_path, left, url):
        """A process that does not import the models finds the rows by the setting."""
        ids = left(2)
        program = f"""
import time
from flask import Flask
from flask_delay import Delay, task
import sys
app = Flask("shop", static_folder=None, instance_path={str(tmp_path / "instance")!r})
app.config.update(DELAY_JOURNAL={str(tmp_path / "journal.db")!r}, DELAY_OUTBOX={url!r})
executor = Delay(app)

@task(name="tests.outbox.shop.ship")
def ship(number):
    return number

end = time.monotonic() + {DEADLINE}
while time.monotonic() < end:
    futures = [executor.get(id) for id in {ids!r}]
    if all(futures):
        break
    time.sleep(0.05)
print([future.result({DEADLINE}) for future in futures])
"""
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=DEADLINE * 2
        )
        assert done.stdout == "[0, 1]\n", done.stderr

    def test_an_app_without_sqlalchemy(self):
        """The submit path does not import it."""
        program = """
import sys
sys.modules["sqlalchemy"] = None
from flask import Flask
from flask_delay import Delay, delay, using
app = Flask("plain")
Delay(app)
with app.app_context():
    print(using(priority=1).delay(int).result(20))
try:
    using(after_commit=object())
except TypeError as error:
    print(error)
"""
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert done.stdout.startswith("0\nthe option 'after_commit' is <object"), done.stderr

    def test_one_process_looks(self, make_app, left, monkeypatch):
        """Each one at its start, later the first one to come."""
        app = make_app()
        with app.app_context():
            found = app.extensions["delay"].store._outbox()
            looks = []
            monkeypatch.setattr(found, "_look", lambda: looks.append("look"))
            monkeypatch.setattr(found, "_sweep", lambda: looks.append("sweep"))
            at = found._rhythm.after(0)
            found._tick(at)
            found._tick(at)
            until(lambda: len(looks) == 2)
            assert sorted(looks) == ["look", "sweep"]


@pytest.mark.parametrize("mode", ["immediate", "manual"])
class TestModesForTests:
    """Without a journal, the commit and the rollback decide as they do with one."""

    @pytest.fixture
    def app(self, make_app, mode):
        return make_app(DELAY_MODE=mode)

    @pytest.fixture
    def run(self, app, mode):
        owner = app.extensions["delay"].owner
        return owner.run_pending if mode == "manual" else lambda: None

    @pytest.mark.parametrize("option", ["within", "after_commit"])
    def test_a_commit(self, app, run, option):
        durable = option == "within"
        future = using(durable=durable, **{option: db.session}).delay(ship, 1)
        run()
        assert future.state == "pending"
        db.session.commit()
        run()
        assert future.result(0) == 1
        assert rows() == []

    def test_a_rollback(self, app, run):
        future = using(durable=True, within=db.session).delay(ship, 1)
        db.session.rollback()
        run()
        assert future.cancelled()
        assert ran == []

    def test_a_task_that_uses_the_database(self, app, run):
        @task
        def count():
            return db.session.query(Order).count()

        db.session.add(Order(number=1))
        future = using(after_commit=db.session).delay(count)
        db.session.commit()
        run()
        assert future.result(0) == 1
