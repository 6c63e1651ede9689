"""SQLAlchemy's sessions for coroutines: plain tasks after their commit, and no durable ones."""

import asyncio

import pytest

pytest.importorskip("flask_sqlalchemy")
pytest.importorskip("aiosqlite")
pytest.importorskip("greenlet")

from flask import Flask
from sqlalchemy import Column, Integer, MetaData, Table, insert
from sqlalchemy.ext.asyncio import (
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)

from flask_delay import Delay, task, using
from flask_delay.contrib import outbox

DEADLINE = 20.0


@task
def ship(number):
    return number


def run(tmp_path, use):
    metadata = MetaData()
    table = Table("order", metadata, Column("number", Integer, primary_key=True))
    outbox.table(metadata)
    app = Flask("shop", static_folder=None, instance_path=str(tmp_path))
    extension = Delay(app)

    async def main():
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'shop.db'}")
        async with engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
        try:
            with app.app_context():
                await use(engine, table)
        finally:
            await engine.dispose()

    asyncio.run(main())
    extension.shutdown()


def test_a_commit_and_a_rollback(tmp_path):
    async def use(engine, table):
        async with AsyncSession(engine) as session:
            await session.execute(insert(table).values(number=1))
            future = using(after_commit=session).delay(ship, 1)
            assert not future.done()
            await session.commit()
            assert await future == 1
            dropped = using(after_commit=session).delay(ship, 2)
            await session.rollback()
            assert dropped.cancelled()

    run(tmp_path, use)


def test_a_registry(tmp_path):
    async def use(engine, _table):
        registry = async_scoped_session(async_sessionmaker(engine), asyncio.current_task)
        future = using(after_commit=registry).delay(ship, 1)
        await registry.commit()
        assert await future == 1
        await registry.remove()

    run(tmp_path, use)


def test_durable_tasks_are_refused(tmp_path):
    async def use(engine, _table):
        async with AsyncSession(engine) as session:
            with pytest.raises(TypeError, match=r"engine of asyncio.*after_commit"):
                using(durable=True, within=session).delay(ship, 1)

            def submit(inner):
                with pytest.raises(ValueError, match="one of asyncio"):
                    using(durable=True, within=inner).delay(ship, 1)

            await session.run_sync(submit)

    run(tmp_path, use)
