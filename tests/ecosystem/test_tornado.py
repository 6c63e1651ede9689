import pytest

tornado = pytest.importorskip("tornado")

from tornado import gen  # noqa: E402
from tornado.concurrent import run_on_executor  # noqa: E402
from tornado.ioloop import IOLoop  # noqa: E402


def test_run_in_executor(executor, where, is_ours):
    async def main():
        return await IOLoop.current().run_in_executor(executor, where)

    assert is_ours(run(main))


def test_run_on_executor(executor, where, is_ours):
    class Handler:
        def __init__(self):
            self.executor = executor

        @run_on_executor
        def work(self, value):
            return where(), value

    async def main():
        return await Handler().work(7)

    name, value = run(main)
    assert is_ours(name)
    assert value == 7


def test_future_in_a_coroutine(executor, where, is_ours):
    """One at a time: a list of any `concurrent.futures` does not wake Tornado's loop."""

    @gen.coroutine
    def main():
        first = yield executor.submit(where)
        second = yield executor.submit(where)
        return first, second

    assert all(map(is_ours, run(main)))


def test_await_several(executor, where, is_ours):
    async def main():
        return await gen.multi([gen.convert_yielded(as_coroutine()) for _ in range(10)])

    async def as_coroutine():
        return await executor.submit(where)

    assert all(map(is_ours, run(main)))


def run(main):
    loop = IOLoop(make_current=False)
    try:
        return loop.run_sync(main, timeout=20)
    finally:
        loop.close(all_fds=True)
