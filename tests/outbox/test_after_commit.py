"""Plain tasks that start after a commit."""

import gc
import threading
import time

import pytest
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from tests.outbox.contract import assert_not_kept, until
from tests.outbox.shop import DEADLINE, Order, db, ran, rows

from flask_delay import Delay, QueueFull, TaskExpired, delay, using


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'shop.db'}"


@pytest.fixture
def app(make_app):
    # No journal is opened for a plain task.
    return make_app(DELAY_JOURNAL=None)


def ship(number):
    ran.append(number)
    return number


def count():
    return db.session.query(Order).count()


def submit(*call, **options):
    return using(after_commit=db.session, **options).delay(*call)


def test_a_commit(app):
    db.session.add(Order(number=1))
    future = submit(count)
    assert future.state == "pending"
    assert not future.done()
    db.session.commit()
    # The task sees what was committed.
    assert future.result(DEADLINE) == 1
    assert not app.extensions["delay"].store.is_there
    assert rows() == []


def test_a_rollback(app):
    future = submit(ship, 1)
    db.session.rollback()
    assert future.cancelled()
    db.session.commit()
    assert ran == []


def test_without_a_transaction_one_begins(app):
    assert not db.session().in_transaction()
    future = submit(ship, 1)
    db.session.rollback()
    assert future.cancelled()


def test_a_session_that_is_closed_or_removed(app):
    closed = submit(ship, 1)
    db.session.close()
    removed = submit(ship, 2)
    db.session.remove()
    assert closed.cancelled()
    assert removed.cancelled()


def test_a_session_that_is_dropped(app):
    session = Session(db.engine)
    session.begin()
    future = using(after_commit=session).delay(ship, 1)
    del session
    gc.collect()
    assert future.cancelled()


def test_the_end_of_the_app_context_rolls_back(app):
    with app.app_context():
        future = submit(ship, 1)
    assert future.cancelled()


def test_savepoints(app):
    with db.session.begin_nested():
        kept = submit(ship, 1)
    nested = db.session.begin_nested()
    with db.session.begin_nested():
        inner = submit(ship, 2)
    dropped = submit(ship, 3)
    nested.rollback()
    assert inner.cancelled()
    assert dropped.cancelled()
    assert not kept.done()
    db.session.commit()
    assert kept.result(DEADLINE) == 1
    assert ran == [1]


def test_a_released_savepoint_in_a_transaction_that_is_rolled_back(app):
    with db.session.begin_nested():
        future = submit(ship, 1)
    db.session.rollback()
    assert future.cancelled()


def test_two_sessions(app):
    with Session(db.engine) as first, Session(db.engine) as second:
        one = using(after_commit=first).delay(ship, 1)
        two = using(after_commit=second).delay(ship, 2)
        second.commit()
        assert two.result(DEADLINE) == 2
        assert not one.done()
        first.rollback()
        assert one.cancelled()


def test_kinds_of_sessions(app):
    registry = scoped_session(sessionmaker(db.engine))
    future = using(after_commit=registry).delay(ship, 1)
    registry.commit()
    assert future.result(DEADLINE) == 1
    registry.remove()
    with sessionmaker(db.engine).begin() as session:
        future = using(after_commit=session).delay(ship, 2)
    assert future.result(DEADLINE) == 2


def test_a_commit_that_fails(app, caplog):
    db.session.add(Order(number=1, name="a"))
    db.session.commit()
    db.session.add(Order(number=2, name="a"))
    future = submit(ship, 2)
    with pytest.raises(IntegrityError):
        db.session.commit()
    db.session.rollback()
    assert future.cancelled()
    assert ran == []
    assert not caplog.records


def test_a_commit_that_the_database_refuses(app, caplog):
    future = submit(ship, 1)
    event.listen(db.session(), "before_commit", lambda _: None)

    def refuse(_connection):
        raise OSError("the connection is lost")

    event.listen(db.engine, "commit", refuse)
    db.session.add(Order(number=1))
    with pytest.raises(OSError, match="is lost"):
        db.session.commit()
    event.remove(db.engine, "commit", refuse)
    db.session.rollback()
    assert future.cancelled()
    assert "the commit that it was to follow has failed" in caplog.text


def test_a_submit_in_handlers_of_the_commit(app):
    """Each counts as one of the transaction that has just been committed."""
    seen = []

    def after(session):
        seen.append(using(after_commit=session).delay(ship, len(seen)))

    event.listen(db.session(), "before_commit", after)
    event.listen(db.session(), "after_commit", after)
    db.session.add(Order(number=1))
    db.session.commit()
    assert [future.result(DEADLINE) for future in seen] == [0, 1]


def test_a_handler_that_raises(app):
    """The commit has happened all the same."""

    def fail(_session):
        raise LookupError("of another")

    session = db.session()
    event.listen(session, "after_commit", fail)
    future = submit(ship, 1)
    with pytest.raises(LookupError):
        session.commit()
    session.close()
    assert future.result(DEADLINE) == 1


def test_a_task_that_cannot_be_told(app, monkeypatch, caplog):
    """The commit does not raise, and the other tasks start."""
    from flask_delay import transactions

    class Broken:
        def committed(self, _items):
            raise LookupError

    transactions.tie(db.session(), Broken(), None)
    future = submit(ship, 1)
    db.session.commit()
    assert future.result(DEADLINE) == 1
    assert "could not be told" in caplog.text


def test_options(app):
    begin = time.monotonic()
    late = submit(ship, 1, countdown=0.3)
    limited = [submit(ship, number, limit=1, key="a", priority=2) for number in (2, 3)]
    named = submit(ship, 4, id="mine", retry=1, timeout=20)
    assert app.extensions["delay"].owner.get("mine") is named
    db.session.commit()
    assert [future.result(DEADLINE) for future in (*limited, named)] == [2, 3, 4]
    assert late.result(DEADLINE) == 1
    # It counts from the submit.
    assert time.monotonic() - begin >= 0.3


def test_a_countdown_that_is_over_before_the_commit(app):
    future = submit(ship, 1, countdown=0.02)
    time.sleep(0.05)
    assert not future.done()
    db.session.commit()
    assert future.result(DEADLINE) == 1


def test_expires(app):
    future = submit(ship, 1, expires=0.05)
    with pytest.raises(TaskExpired):
        future.result(DEADLINE)
    db.session.commit()
    assert ran == []


def test_a_cancelled_task(app):
    future = submit(ship, 1)
    assert future.cancel()
    db.session.commit()
    assert delay(ship, 2).result(DEADLINE) == 2
    assert ran == [2]


def test_unique_is_refused(app):
    with pytest.raises(ValueError, match=r"'unique' .*cancelled with its transaction"):
        submit(ship, 1, unique=True)


def test_an_id_is_free_again_after_a_rollback(app):
    first = submit(ship, 1, id="mine")
    db.session.rollback()
    assert first.cancelled()
    assert app.extensions["delay"].owner.get("mine") is None
    second = submit(ship, 2, id="mine")
    db.session.commit()
    assert second.result(DEADLINE) == 2


def test_then(app):
    future = submit(ship, 1)
    following = future.then(lambda number: number + 1)
    dropped = submit(ship, 2)
    db.session.commit()
    assert following.result(DEADLINE) == 2
    assert dropped.result(DEADLINE) == 2
    future = submit(ship, 1)
    following = future.then(lambda number: number + 1)
    db.session.rollback()
    until(following.cancelled)


def test_map_and_coroutines(app):
    async def ship_async(number):
        return ship(number)

    results = using(after_commit=db.session).map(ship, range(3))
    future = submit(ship_async, 3)
    assert ran == []
    db.session.commit()
    assert list(results) == [0, 1, 2]
    assert future.result(DEADLINE) == 3


def test_a_request(app):
    from flask import request

    with app.test_request_context("/orders?n=7"):
        future = submit(lambda: request.args["n"], request=True)
        db.session.commit()
    assert future.result(DEADLINE) == "7"


def test_sessions_are_not_kept(app):
    """Not by the futures, and not by what is noted of their transactions."""
    assert_not_kept(lambda session: using(after_commit=session).delay(ship, 1))


def test_they_wait_in_the_queue_with_the_others(make_app):
    app = make_app(DELAY_QUEUE_SIZE=1, DELAY_WHEN_FULL="raise", DELAY_JOURNAL=None)
    with app.app_context():
        first = submit(ship, 1)
        with pytest.raises(QueueFull):
            submit(ship, 2)
        db.session.rollback()
        assert first.cancelled()
        second = submit(ship, 3)
        db.session.commit()
        assert second.result(DEADLINE) == 3


def test_worker_processes_are_told_after_the_commit(make_app):
    pytest.importorskip("cloudpickle")
    app = make_app(
        DELAY_JOURNAL=None,
        DELAY_BACKEND="processes",
        DELAY_PROCESSES=1,
        DELAY_APP="tests.outbox.site:app",
    )
    with app.app_context():
        future = submit(pow, 2, 3)
        assert future.state == "pending"
        db.session.commit()
        assert future.result(DEADLINE) == 8
        future = submit(pow, 2, 3)
        db.session.rollback()
        assert future.cancelled()


def test_without_an_app(app, tmp_path):
    """Elsewhere than in an app's context, with a Delay of another name."""
    other = Delay(name="reports")
    other.init_app(app)
    future = other.using(after_commit=db.session).delay(ship, 1)
    db.session.commit()
    assert future.result(DEADLINE) == 1
    other.shutdown()


def test_shutdown_drops_them(app):
    future = submit(ship, 1)
    owner = app.extensions["delay"].owner
    thread = threading.Thread(target=owner.shutdown, kwargs={"cancel_futures": True})
    thread.start()
    thread.join(DEADLINE)
    assert not thread.is_alive()
    assert future.cancelled()
    db.session.commit()
    assert ran == []
