"""AnyIO in tasks of a view that is in an event loop itself."""

import pytest

pytest.importorskip("anyio")
pytest.importorskip("sniffio")

import anyio
import anyio.lowlevel
import anyio.to_thread
import sniffio

DEADLINE = 20.0


async def library():
    await anyio.lowlevel.checkpoint()
    return sniffio.current_async_library()


def run_library():
    return anyio.run(library)


def test_anyio_run_in_a_task_of_a_view_in_a_loop(executor):
    def view():
        # As a thread that AnyIO has started: not in the loop, but in its context.
        return executor.submit(run_library).result(DEADLINE)

    async def main():
        inside = executor.submit(run_library).result(DEADLINE)
        return inside, await anyio.to_thread.run_sync(view)

    assert anyio.run(main) == ("asyncio", "asyncio")


def test_a_coroutine_of_a_view_in_trio_is_in_asyncio(executor):
    token = sniffio.current_async_library_cvar.set("trio")
    try:
        assert executor.submit(library).result(DEADLINE) == "asyncio"
    finally:
        sniffio.current_async_library_cvar.reset(token)
