"""Alembic finds the table for tasks that are submitted with a transaction."""

import pytest

pytest.importorskip("alembic")
pytest.importorskip("sqlalchemy")

from alembic.autogenerate import compare_metadata, produce_migrations
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import MetaData, create_engine, inspect

from flask_delay.contrib import outbox


def flat(operation):
    """The operations that a container of them has."""
    if not hasattr(operation, "ops"):
        return [operation]
    return [it for inner in operation.ops for it in flat(inner)]


def test_a_migration_makes_the_table():
    metadata = MetaData()
    table = outbox.table(metadata)
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        context = MigrationContext.configure(connection)
        operations = Operations(context)
        for operation in flat(produce_migrations(context, metadata).upgrade_ops):
            operations.invoke(operation)
        assert inspect(connection).get_table_names() == [table.name]
        # There is nothing left to do.
        assert compare_metadata(context, metadata) == []
    engine.dispose()
