"""The compatibility layer for Flask-Executor keeps types as `delay` does."""

import asyncio
from collections.abc import Iterator
from typing import assert_type

from flask_delay import Delay
from flask_delay.compat.flask_executor import Executor, FutureProxy


def add(left: int, right: int = 0) -> int:
    return left + right


async def add_async(left: int, right: int = 0) -> int:
    await asyncio.sleep(0)
    return left + right


def plain(executor: Executor) -> None:
    assert_type(executor.submit(add, 1), FutureProxy[int])
    assert_type(executor.submit(add_async, 1), FutureProxy[int])
    assert_type(executor.submit_stored("key", add, 1), FutureProxy[int])
    assert_type(executor.submit_stored(1, add_async, 1), FutureProxy[int])
    assert_type(executor.map(add, [1]), Iterator[int])
    assert_type(executor.map(add_async, [1]), Iterator[int])
    assert_type(executor.submit(add, 1).result(1), int)
    assert_type(executor.extension, Delay)


def jobs(executor: Executor) -> None:
    job = executor.job(add)
    assert_type(job(1, 2), int)
    assert_type(job.submit(1, right=2), FutureProxy[int])
    assert_type(job.submit_stored("key", 1), FutureProxy[int])
    assert_type(job.map([1, 2]), Iterator[int])
    assert_type(executor.job(add_async).submit(1), FutureProxy[int])


def wrong(executor: Executor) -> None:
    executor.submit(add, "1")  # E: call-overload, reportArgumentType
    executor.submit_stored("key", add, "1")  # E: call-overload, reportArgumentType
    executor.job(add).submit("1")  # E: arg-type, reportArgumentType
    executor.submit(1)  # E: call-overload, reportArgumentType
