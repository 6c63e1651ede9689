"""What a task promises that is submitted with a transaction, whatever the database."""

import fcntl
import gc
import json
import time
import weakref
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from tests.outbox import shop
from tests.outbox.shop import DEADLINE, Order, db, ran, rows, ship

from flask_delay import (
    DuplicateTask,
    JournalUnavailable,
    TaskExpired,
    gather,
    task_cancelled,
    task_submitted,
    using,
)
from flask_delay.journal import outbox


def until(condition):
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def submit(number, fn=ship, **options):
    return using(durable=True, within=db.session, **options).delay(fn, number)


def store(app):
    return app.extensions["delay"].store


def is_known(app, future):
    return store(app).row(future.id) is not None


def assert_not_kept(submit):
    """Nothing that `submit(session)` has made keeps a session, or grows with its transactions."""
    futures, sessions = [], []
    for end in (Session.commit, Session.rollback, Session.close):
        session = Session(db.engine)
        futures.append(submit(session))
        end(session)
        sessions.append(weakref.ref(session))
        del session
    with Session(db.engine) as session:
        for number in range(20):
            with session.begin_nested():
                futures.append(submit(session))
            session.commit() if number % 2 else session.rollback()
        [ledger] = session.info.values()
        assert (ledger.tied, ledger.committed, ledger.commits) == ({}, set(), 0)
    for future in futures:
        until(future.done)
    gc.collect()
    assert [session() for session in sessions] == [None] * 3


class Contract:
    def test_a_commit(self, app):
        db.session.add(Order(number=1))
        future = submit(1)
        assert future.state == "pending"
        assert not is_known(app, future)
        assert app.extensions["delay"].owner.get(future.id) is future
        db.session.commit()
        # The journal has it when the commit returns.
        assert is_known(app, future)
        assert future.result(DEADLINE) == 1
        assert ran == [1]
        until(lambda: rows() == [])

    def test_a_rollback(self, app):
        db.session.add(Order(number=1))
        future = submit(1)
        db.session.rollback()
        assert future.cancelled()
        assert not is_known(app, future)
        assert rows() == []
        # The next transaction has nothing of it.
        db.session.add(Order(number=2))
        db.session.commit()
        assert not is_known(app, future)
        assert ran == []

    def test_a_session_that_is_closed_without_a_commit(self, app):
        future = submit(1)
        db.session.close()
        assert future.cancelled()
        assert rows() == []

    def test_a_session_that_is_dropped(self, app):
        session = Session(db.engine)
        future = using(durable=True, within=session).delay(ship, 1)
        del session
        gc.collect()
        until(future.cancelled)

    def test_several_in_one_transaction_and_one_in_the_next(self, app):
        futures = [submit(number) for number in range(20)]
        db.session.commit()
        assert sorted(future.result(DEADLINE) for future in futures) == list(range(20))
        again = submit(20)
        db.session.commit()
        assert again.result(DEADLINE) == 20
        assert sorted(ran) == list(range(21))
        until(lambda: rows() == [])

    def test_a_savepoint_that_is_rolled_back(self, app):
        kept = submit(1)
        nested = db.session.begin_nested()
        dropped = submit(2)
        nested.rollback()
        assert dropped.cancelled()
        last = submit(3)
        db.session.commit()
        assert [kept.result(DEADLINE), last.result(DEADLINE)] == [1, 3]
        until(lambda: rows() == [])
        assert sorted(ran) == [1, 3]

    def test_a_savepoint_that_is_released(self, app):
        with db.session.begin_nested(), db.session.begin_nested():
            future = submit(1)
        assert not is_known(app, future)
        db.session.commit()
        assert future.result(DEADLINE) == 1

    def test_a_released_savepoint_in_a_transaction_that_is_rolled_back(self, app):
        with db.session.begin_nested():
            with db.session.begin_nested():
                inner = submit(1)
            outer = submit(2)
        assert not inner.done()
        db.session.rollback()
        assert inner.cancelled()
        assert outer.cancelled()
        assert rows() == []

    def test_two_sessions(self, app):
        with Session(db.engine) as first:
            one = using(durable=True, within=first).delay(ship, 1)
            first.rollback()
            with Session(db.engine) as second:
                two = using(durable=True, within=second).delay(ship, 2)
                assert one.cancelled()
                assert not two.done()
                second.commit()
        assert two.result(DEADLINE) == 2

    def test_kinds_of_sessions(self, app):
        registry = scoped_session(sessionmaker(db.engine))
        future = using(durable=True, within=registry).delay(ship, 1)
        registry.commit()
        assert future.result(DEADLINE) == 1
        registry.remove()
        # Kept, as with `@task`: the registry says which session is meant at each submit.
        kept = ship.using(durable=True, within=db.session)
        future = kept.delay(2)
        db.session.commit()
        assert future.result(DEADLINE) == 2
        with sessionmaker(db.engine).begin() as session:
            future = using(durable=True, within=session).delay(ship, 3)
        assert future.result(DEADLINE) == 3

    def test_a_flush_that_fails_in_the_commit(self, app):
        db.session.add(Order(number=1, name="a"))
        db.session.commit()
        db.session.add(Order(number=2, name="a"))
        future = submit(2)
        with pytest.raises(IntegrityError):
            db.session.commit()
        db.session.rollback()
        assert future.cancelled()
        assert rows() == []

    def test_a_submit_in_the_middle_of_a_flush_event(self, app):
        seen = []

        def submit_one(_session, _context):
            seen.append(submit(1))

        shop.event.listen(db.session(), "before_flush", lambda *_: None)
        shop.event.listen(db.session(), "after_flush", submit_one)
        db.session.add(Order(number=1))
        db.session.commit()
        assert seen[0].result(DEADLINE) == 1

    def test_a_submit_after_the_commit(self, app):
        seen = []

        def ended(session, transaction):
            if transaction.parent is None and not seen:
                seen.append(using(durable=True, within=session).delay(ship, 2))

        session = db.session()
        first = submit(1)
        shop.event.listen(session, "after_transaction_end", ended)
        db.session.commit()
        assert first.result(DEADLINE) == 1
        assert not seen[0].done()
        db.session.commit()
        assert seen[0].result(DEADLINE) == 2

    def test_options(self, app):
        soon = datetime.now(UTC) + timedelta(seconds=0.3)
        late = submit(1, countdown=0.3)
        at = submit(2, eta=soon)
        named = submit(3, id="order-3", priority=5, retry=2, timeout=20)
        db.session.commit()
        begin = time.monotonic()
        assert store(app).row(late.id)["state"] == "scheduled"
        assert named.result(DEADLINE) == 3
        assert named.id == "order-3"
        assert [late.result(DEADLINE), at.result(DEADLINE)] == [1, 2]
        assert time.monotonic() - begin > 0.1

    def test_priority_counts_among_those_that_wait(self, make_app):
        app = make_app(DELAY_MAX_WORKERS=1)
        with app.app_context():
            running = submit(0, shop.hold)
            db.session.commit()
            until(lambda: running.running())
            futures = [submit(1), submit(2, priority=10)]
            db.session.commit()
            shop.gate.set()
            for future in futures:
                future.result(DEADLINE)
        assert ran == [0, 2, 1]

    def test_what_expires_before_the_commit(self, app):
        future = submit(1, expires=0.05)
        time.sleep(0.1)
        db.session.commit()
        with pytest.raises(TaskExpired):
            future.result(DEADLINE)
        assert ran == []

    def test_limit_and_rate(self, app):
        first = submit(1, limit=1, rate="1/h", key="orders")
        second = submit(2, limit=1, rate="1/h", key="orders")
        db.session.commit()
        done = {first.id: first, second.id: second}
        until(lambda: len(ran) == 1)
        waiting = {view.id: view for view in app.extensions["delay"].owner.tasks("blocked")}
        assert [view.waits for view in waiting.values()] == ["rate"]
        (id,) = waiting
        assert done.pop(id).cancel()
        assert next(iter(done.values())).result(DEADLINE) == ran[0]

    def test_once(self, app):
        first = submit(1, once="order 1")
        db.session.commit()
        assert first.result(DEADLINE) == 1
        second = submit(2, once="order 1")
        db.session.commit()
        # It ends as the first one did.
        assert second.result(DEADLINE) == 1
        # Its id is that of no task: 410 on the status page.
        assert app.extensions["delay"].owner.get(second.id) is None
        assert store(app).is_gone(second.id)
        assert ran == [1]
        until(lambda: rows() == [])
        dropped = submit(3, once="order 3")
        db.session.rollback()
        assert dropped.cancelled()
        third = submit(4, once="order 3")
        db.session.commit()
        assert third.result(DEADLINE) == 4

    def test_once_of_another_function(self, app, caplog):
        first = submit(1, once="order 1")
        second = submit(2, shop.other, once="order 1")
        db.session.commit()
        assert first.result(DEADLINE) == 1
        with pytest.raises(ValueError, match="belongs to a task of .*ship"):
            second.result(DEADLINE)
        assert "was not accepted" in caplog.text

    def test_unique(self, app):
        first = submit(1, shop.hold, unique=True)
        db.session.commit()
        second = submit(1, shop.hold, unique=True)
        third = submit(1, shop.hold, unique="raise")
        db.session.commit()
        with pytest.raises(DuplicateTask):
            third.result(DEADLINE)
        shop.gate.set()
        assert [first.result(DEADLINE), second.result(DEADLINE)] == [1, 1]
        assert ran == [1]
        until(lambda: rows() == [])

    def test_unique_ends_as_the_first_one(self, app):
        first = submit(1, unique=True, countdown=60)
        second = submit(1, unique=True)
        db.session.commit()
        assert first.cancel()
        until(second.cancelled)

    def test_an_id_that_is_taken(self, app):
        first = submit(1, id="mine")
        db.session.commit()
        assert first.result(DEADLINE) == 1
        with pytest.raises(DuplicateTask, match="mine"):
            submit(2, id="mine")
        # The session goes on.
        third = submit(3)
        db.session.commit()
        assert third.result(DEADLINE) == 3
        assert sorted(ran) == [1, 3]

    def test_a_cancel_before_the_commit_is_refused(self, app):
        future = submit(1)
        assert not future.cancel()
        db.session.commit()
        assert future.result(DEADLINE) == 1

    def test_tasks_that_follow(self, app):
        durable = ship.using(durable=True)
        first = submit(1)
        with pytest.raises(LookupError, match="its transaction is not committed"):
            first.then(durable)
        with pytest.raises(ValueError, match="is not durable, so it cannot follow"):
            first.then(ship)
        both = gather(submit(2), submit(3))
        db.session.commit()
        assert both.result(DEADLINE) == [2, 3]
        assert first.then(durable).result(DEADLINE) == 1
        following = gather(submit(4))
        db.session.rollback()
        until(following.cancelled)

    def test_map(self, app):
        results = ship.using(durable=True, within=db.session).map(range(5))
        db.session.commit()
        assert list(results) == list(range(5))

    def test_failures_and_signals(self, app):
        sent = []
        with (
            task_submitted.connected_to(lambda _app, future: sent.append(("submitted", future))),
            task_cancelled.connected_to(lambda _app, future: sent.append(("cancelled", future))),
        ):
            future = submit(1, shop.fail)
            assert sent == []
            db.session.commit()
            assert sent == [("submitted", future)]
            with pytest.raises(LookupError, match="no order 1"):
                future.result(DEADLINE)

    def test_a_journal_that_takes_none_now(self, app, monkeypatch, caplog):
        found = store(app)._outbox()
        with monkeypatch.context() as broken:

            def refuse():
                raise JournalUnavailable("no room on the disk")

            future = submit(1)
            broken.setattr(found, "_journal", refuse)
            db.session.commit()
            until(lambda: "not carried over now" in caplog.text)
        assert future.state == "pending"
        assert rows() == [future.id]
        found._hand.submit(found._sweep)
        assert future.result(DEADLINE) == 1
        until(lambda: rows() == [])

    def test_tasks_of_one_commit_wait_together(self, make_app, tmp_path, caplog):
        """One after the other, they would hold the commit for as many timeouts."""
        app = make_app(DELAY_JOURNAL_TIMEOUT=0.5)
        with app.app_context(), (tmp_path / "journal/turnstile").open() as turnstile:
            submit(0)
            db.session.commit()
            futures = [submit(number) for number in range(1, 21)]
            fcntl.flock(turnstile, fcntl.LOCK_EX)
            began = time.monotonic()
            db.session.commit()
            assert time.monotonic() - began < 20 * 0.5
            assert "not accepted within 0.5 s" in caplog.text
            assert len(rows()) >= 20
            fcntl.flock(turnstile, fcntl.LOCK_UN)
            found = store(app)._outbox()
            found._hand.submit(found._sweep).result(DEADLINE)
            assert [future.result(DEADLINE) for future in futures] == list(range(1, 21))
        assert sorted(ran) == list(range(21))

    def test_a_full_journal(self, make_app):
        app = make_app(DELAY_JOURNAL_WAITING=1, DELAY_MAX_WORKERS=1)
        with app.app_context():
            running = submit(0, shop.hold)
            db.session.commit()
            until(running.running)
            futures = [submit(number) for number in range(1, 4)]
            db.session.commit()
            assert sum(is_known(app, future) for future in futures) < 3
            shop.gate.set()
            found = store(app)._outbox()
            end = time.monotonic() + DEADLINE
            while not all(future.done() for future in futures):
                assert time.monotonic() < end
                found._hand.submit(found._sweep).result(DEADLINE)
                time.sleep(0.05)
        assert sorted(ran) == [0, 1, 2, 3]

    def test_a_row_that_was_left_is_carried_over_at_the_start(self, make_app, left):
        """Its process has died after the commit, or between the journal and the delete."""
        ids = left(3, accepted=1)
        app = make_app()
        with app.app_context():
            app.test_client().get("/")
            until(lambda: rows() == [])
            for id in ids:
                until(lambda id=id: store(app).row(id)["state"] == "finished")
        assert sorted(ran) == [0, 1, 2]

    def test_a_row_of_another_journal_is_left_alone(self, make_app, left):
        left(2, mark="another")
        app = make_app()
        with app.app_context():
            app.test_client().get("/")
            found = store(app)._outbox()
            found._hand.submit(found._look).result(DEADLINE)
            assert len(rows()) == 2
            assert ran == []

    def test_a_row_that_cannot_be_read(self, app, caplog):
        with db.engine.begin() as connection:
            for id, body in (("a", "{"), ("b", "[]"), ("c", json.dumps({"id": "d"}))):
                values = {"id": id, "body": body, "journal": store(app)._outbox()._mark()}
                connection.execute(shop.table.insert(), [values])
        found = store(app)._outbox()
        found._hand.submit(found._look).result(DEADLINE)
        assert sorted(rows()) == ["a", "b", "c"]
        for id in ("a", "b", "c"):
            assert f"the row of task {id} in delay_outbox cannot be read" in caplog.text

    def test_more_rows_than_are_read_at_once(self, app, left, monkeypatch):
        monkeypatch.setattr(outbox, "_MANY", 4)
        left(10)
        found = store(app)._outbox()
        found._hand.submit(found._look).result(DEADLINE)
        until(lambda: sorted(ran) == list(range(10)))
        assert rows() == []

    def test_two_looks_at_once(self, app, left):
        left(50)
        found = store(app)._outbox()
        others = [app.extensions["delay"].executor.submit(found._look) for _ in range(2)]
        for other in others:
            other.result(DEADLINE)
        until(lambda: len(ran) == 50)
        assert sorted(ran) == list(range(50))
        assert rows() == []

    def test_a_commit_of_which_nobody_knows_whether_it_happened(self, app, monkeypatch):
        """It did, or it did not: the row tells."""
        found = store(app)._outbox()
        for happened in (True, False):
            future = submit(int(happened))
            ledger = next(iter(db.session().info.values()))
            [[(party, pending)]] = ledger.tied.values()
            ledger.tied.clear()
            if happened:
                db.session.commit()
            else:
                db.session.rollback()
            party.dropped([pending], is_certain=False)
            if happened:
                assert future.result(DEADLINE) == 1
            else:
                # After the first look, the database may still be about to commit.
                found._hand.submit(found._sweep).result(DEADLINE)
                assert not future.done()
                monkeypatch.setattr(outbox, "_UNSURE", 0)
                found._hand.submit(found._sweep).result(DEADLINE)
                until(future.cancelled)
        assert ran == [1]

    def test_sessions_are_not_kept(self, app):
        assert_not_kept(lambda session: using(durable=True, within=session).delay(ship, 1))
        until(lambda: rows() == [])

    def test_no_table(self, app):
        shop.table.drop(db.engine)
        with pytest.raises(RuntimeError, match=r"has no table 'delay_outbox'.*create_all"):
            submit(1)
        # The transaction was not broken by that.
        db.session.add(Order(number=1))
        db.session.commit()
        shop.table.create(db.engine)
        future = submit(1)
        db.session.commit()
        assert future.result(DEADLINE) == 1

    def test_a_row_is_json(self, app):
        future = submit(1, countdown=60)
        body = db.session.scalar(text("select body from delay_outbox"))
        row = json.loads(body)
        assert row["id"] == future.id
        assert row["function"] == "tests.outbox.shop.ship"
        assert json.loads(row["arguments"]) == {"args": [1], "kwargs": {}}
        db.session.rollback()
