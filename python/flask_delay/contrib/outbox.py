"""The table by which durable tasks are submitted with a transaction of SQLAlchemy.

    from flask_delay.contrib import outbox

    db = SQLAlchemy()
    outbox.table(db.metadata)

    using(durable=True, within=db.session).delay(send_receipt, order.id)
    db.session.commit()

Alembic finds the table in the metadata, as it does the tables of models. See docs/durable.md.
"""

from sqlalchemy import MetaData, Table

from flask_delay.journal import outbox, store

__all__ = ["table"]


def table(metadata: MetaData) -> Table:
    """Add the table `delay_outbox` to the metadata, and return it; a second call returns the same.

    The database of the metadata is looked through for rows of this app whose process has died
    before it had carried them over. With plain SQLAlchemy it is only known once a task was
    submitted there, or by the setting `OUTBOX`. May be called before or after the app is made.
    """
    made = outbox.make_table(metadata)
    store.watch_outboxes()
    return made
