"""The standard library's event loop, and uvloop's, over our executor."""

import asyncio
import contextvars
import functools
import threading

import pytest

variable = contextvars.ContextVar("variable")


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request):
    module = pytest.importorskip(request.param)

    def run(main):
        with asyncio.Runner(loop_factory=module.new_event_loop) as runner:
            return runner.run(main)

    return run


def test_run_in_executor(run, executor, where, is_ours):
    async def main():
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(executor, where) for _ in range(20)))

    assert all(map(is_ours, run(main())))


def test_run_in_executor_that_fails(run, executor):
    async def main():
        with pytest.raises(ZeroDivisionError):
            await asyncio.get_running_loop().run_in_executor(executor, divmod, 1, 0)

    run(main())


def test_cancelled_before_it_started(run, executor):
    release = threading.Event()

    async def main():
        loop = asyncio.get_running_loop()
        held = [loop.run_in_executor(executor, release.wait, 20) for _ in range(4)]
        late = loop.run_in_executor(executor, int)
        late.cancel()
        release.set()
        await asyncio.gather(*held)
        with pytest.raises(asyncio.CancelledError):
            await late

    run(main())


def test_wrap_future(run, executor, where, is_ours):
    async def main():
        return await asyncio.wrap_future(executor.submit(where))

    assert is_ours(run(main()))


def test_like_to_thread(run, executor, where, is_ours):
    """`asyncio.to_thread` takes no executor; this is what it does with its own."""

    async def main():
        variable.set("carried")
        context = contextvars.copy_context()
        call = functools.partial(context.run, lambda: (where(), variable.get()))
        return await asyncio.get_running_loop().run_in_executor(executor, call)

    name, value = run(main())
    assert is_ours(name)
    assert value == "carried"


def test_default_executor(executor, where, is_ours):
    """uvloop takes any; asyncio, since 3.11, the `ThreadPoolExecutor` and no other."""
    uvloop = pytest.importorskip("uvloop")

    async def main():
        asyncio.get_running_loop().set_default_executor(executor)
        return await asyncio.to_thread(where)

    with asyncio.Runner() as runner, pytest.raises(TypeError, match="ThreadPoolExecutor"):
        runner.run(main())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert is_ours(runner.run(main()))
