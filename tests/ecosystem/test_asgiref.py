import asyncio
import contextvars

import pytest

pytest.importorskip("asgiref")

from asgiref.sync import async_to_sync, sync_to_async

from flask_delay import Executor

variable = contextvars.ContextVar("variable")


def test_sync_to_async(executor, where, is_ours):
    call = sync_to_async(where, thread_sensitive=False, executor=executor)

    async def main():
        return await asyncio.gather(*(call() for _ in range(20)))

    assert all(map(is_ours, asyncio.run(main())))


def test_sync_to_async_carries_the_context(executor, where, is_ours):
    def work():
        variable.set(variable.get() + 1)
        return where()

    async def main():
        variable.set(1)
        name = await sync_to_async(work, thread_sensitive=False, executor=executor)()
        # asgiref brings changes back.
        return name, variable.get()

    name, value = asyncio.run(main())
    assert is_ours(name)
    assert value == 2


def test_async_to_sync_in_a_task(executor, where, is_ours):
    async def double(value):
        # Thread-sensitive work goes back to the thread that waits: our worker.
        return await sync_to_async(where)(), value * 2

    name, value = executor.submit(async_to_sync(double), 21).result(20)
    assert is_ours(name)
    assert value == 42


@pytest.mark.keeps_threads
def test_sync_to_async_as_a_task():
    """asgiref's wrapper is an object with an async `__call__`."""
    with Executor(1) as executor:
        call = sync_to_async(divmod, thread_sensitive=False)
        assert executor.submit(call, 7, 2).result(20) == (3, 1)
