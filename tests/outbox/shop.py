"""An app with a database, whose durable tasks are submitted with its transactions."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import event
from sqlalchemy.pool import NullPool

from flask_delay import Delay, current_task, task
from flask_delay.contrib import outbox
from flask_delay.testing import journal

DEADLINE = 30.0

db = SQLAlchemy()
table = outbox.table(db.metadata)


class Order(db.Model):  # type: ignore[name-defined,misc]
    number = db.Column(db.Integer, primary_key=True)
    name = db.Column(db.String(50), unique=True)


BEGIN = "BEGIN"
ran: list[Any] = []
gate = threading.Event()


@task
def ship(number):
    ran.append(number)
    return number


@task
def hold(number):
    gate.wait(DEADLINE)
    ran.append(number)
    return number


@task
def other(number):
    return -number


@task
def fail(number):
    raise LookupError(f"no order {number}")


@task
def where():
    return current_task.id, os.getpid()


def make(folder: Path, url: str, **config: Any) -> Flask:
    app = Flask("shop", static_folder=None, instance_path=str(folder / "instance"))
    app.config.update(
        # Without a pool, a connection is closed where it was used.
        SQLALCHEMY_ENGINE_OPTIONS={"poolclass": NullPool},
        SQLALCHEMY_DATABASE_URI=url,
        DELAY_MAX_WORKERS=2,
    )
    app.config.update(config)
    db.init_app(app)
    Delay(app)
    with app.app_context():
        if db.engine.dialect.name == "sqlite":
            event.listen(db.engine, "connect", _by_hand)
            event.listen(db.engine, "begin", _begin)
    return app


def _by_hand(connection: Any, _: object) -> None:
    # As SQLAlchemy's documentation says: pysqlite would let a savepoint begin before the
    # transaction.
    connection.isolation_level = None


def _begin(connection: Any) -> None:
    connection.exec_driver_sql(BEGIN)


@contextmanager
def opened(folder: Path, url: str, **config: Any) -> Iterator[Flask]:
    """The app, whose context is the current one, with a journal and new tables."""
    ran.clear()
    gate.clear()
    with journal(folder) as settings:
        app = make(folder, url, **{**settings, **config})
        with app.app_context():
            db.create_all()
            yield app
        gate.set()
        app.extensions["delay"].shutdown(wait=True, cancel_futures=True)


def rows() -> list[str]:
    """The ids of the tasks that were not carried over."""
    with db.engine.connect() as connection:
        return [row.id for row in connection.execute(table.select())]
