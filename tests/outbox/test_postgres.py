"""Tasks that are submitted with a transaction, on a PostgreSQL server."""

import pytest
from sqlalchemy import create_engine
from tests.outbox import kills, postgres
from tests.outbox.contract import Contract, submit
from tests.outbox.shop import DEADLINE, Order, db, ran

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(postgres.missing() is not None, reason=str(postgres.missing())),
]


@pytest.fixture(scope="module")
def server():
    with postgres.running() as url:
        yield url


@pytest.fixture
def url(server):
    engine = create_engine(server)
    db.metadata.drop_all(engine)
    engine.dispose()
    return server


class TestOnPostgreSQL(Contract):
    def test_a_connection_that_is_lost_in_the_commit(self, app, monkeypatch):
        """Whether the database has committed, only itself can tell."""
        db.session.add(Order(number=1))
        future = submit(1)
        connection = db.session.connection()
        pid = connection.exec_driver_sql("select pg_backend_pid()").scalar()
        # The engine has no pool.
        with db.engine.connect() as other:
            other.exec_driver_sql(f"select pg_terminate_backend({pid})")
        with pytest.raises(Exception, match="terminat|closed|lost"):
            db.session.commit()
        db.session.rollback()
        monkeypatch.setattr("flask_delay.journal.outbox._UNSURE", 0)
        found = app.extensions["delay"].store._outbox()
        found._hand.submit(found._sweep).result(DEADLINE)
        assert future.cancelled()
        assert ran == []

    def test_a_transaction_that_is_not_committed_yet_is_not_seen(self, app):
        future = submit(1)
        found = app.extensions["delay"].store._outbox()
        found._hand.submit(found._look).result(DEADLINE)
        assert not future.done()
        db.session.commit()
        assert future.result(DEADLINE) == 1


def test_random_kills(tmp_path, url, capsys):
    verdict = kills.run(tmp_path, url, 40, seed=7)
    with capsys.disabled():
        print(f"\n{verdict}")
    assert verdict.problems == []
