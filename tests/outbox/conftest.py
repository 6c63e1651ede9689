"""The app of `shop.py` on the database of `url`, which each module has."""

import json
from contextlib import ExitStack

import pytest

pytest.importorskip("flask_sqlalchemy")

from flask import current_app, has_app_context
from tests.outbox import shop


@pytest.fixture
def make_app(tmp_path, url):
    with ExitStack() as stack:

        def make(**config):
            app = stack.enter_context(shop.opened(tmp_path, url, **config))
            stack.callback(shop.db.session.remove)
            return app

        yield make


@pytest.fixture
def app(make_app):
    return make_app()


@pytest.fixture
def left(tmp_path, url):
    """`left(3)` leaves rows as a process that has died after its commit; returns their ids.

    Of the first ones, `accepted` of them, it had told the journal.
    """

    def leave(count, *, accepted=0, mark=None):
        with ExitStack() as stack:
            if not has_app_context():
                stack.enter_context(shop.opened(tmp_path, url))
                # It runs none of them.
                current_app.extensions["delay"].store.stop()
            store = current_app.extensions["delay"].store
            journal, outbox = store._opened(), store._outbox()
            name = store.functions.name_of(shop.ship.__wrapped__)
            values = []
            for number in range(count):
                order = (name, 0, None, None, None, False, None)
                future, row = journal.draft(*order, shop.ship.__wrapped__, number)
                journal.withdraw(future)
                if number < accepted:
                    assert journal.accept([row]) == [True]
                body = json.dumps(row)
                values.append({"id": row["id"], "journal": mark or outbox._mark(), "body": body})
            with shop.db.engine.begin() as connection:
                connection.execute(shop.table.insert(), values)
            return [row["id"] for row in values]

    return leave
