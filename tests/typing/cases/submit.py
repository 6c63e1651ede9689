"""What `delay`, `submit` and `map` return, and which arguments they take."""

import asyncio
import concurrent.futures
import functools
from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeVar, assert_type

from flask_delay import Delay, Executor, Future, Stream, delay, task

T = TypeVar("T")


def add(left: int, right: int = 0, *, note: str = "") -> int:
    print(note)
    return left + right


async def add_async(left: int, right: int = 0, *, note: str = "") -> int:
    await asyncio.sleep(0)
    return add(left, right, note=note)


def count(most: int) -> Generator[int, None, str]:
    yield from range(most)
    return "counted"


def nothing() -> None: ...


async def nothing_async() -> None: ...


class Encoder:
    def __call__(self, value: str) -> bytes:
        return value.encode()

    def method(self, value: str) -> bytes:
        return self(value)

    async def async_method(self, value: str) -> bytes:
        return self(value)


def plain(extension: Delay, executor: Executor) -> None:
    assert_type(delay(add, 1), Future[int])
    assert_type(delay(add, 1, right=2, note="x"), Future[int])
    assert_type(extension.delay(add, 1, 2), Future[int])
    assert_type(executor.submit(add, 1), Future[int])
    assert_type(extension.executor.submit(add, 1), Future[int])
    assert_type(delay(nothing), Future[None])
    assert_type(delay(Encoder(), "x"), Future[bytes])
    assert_type(delay(Encoder().method, "x"), Future[bytes])
    assert_type(delay(functools.partial(add, 1)), Future[int])
    assert_type(delay(Encoder), Future[Encoder])
    assert_type(delay(lambda: [1]), Future[list[int]])
    assert_type(delay(sorted, [1]), Future[list[int]])


def streams(extension: Delay, executor: Executor) -> None:
    assert_type(delay(count, 3), Future[str])
    assert_type(extension.delay(count, 3), Future[str])
    assert_type(executor.submit(count, 3), Future[str])
    assert_type(task(count).delay(3), Future[str])
    assert_type(list(executor.map(count, [3])), list[str])
    assert_type(executor.submit(int).then(count), Future[str])
    assert_type(executor.submit(count, 3).stream(), Stream[Any])
    numbers: Stream[int] = delay(count, 3).stream(after=1, timeout=0.5)
    for number in numbers:
        assert_type(number, int)


def asynchronous(extension: Delay, executor: Executor) -> None:
    assert_type(delay(add_async, 1), Future[int])
    assert_type(delay(add_async, 1, right=2, note="x"), Future[int])
    assert_type(extension.delay(add_async, 1, 2), Future[int])
    assert_type(executor.submit(add_async, 1), Future[int])
    assert_type(delay(nothing_async), Future[None])
    assert_type(delay(Encoder().async_method, "x"), Future[bytes])
    assert_type(delay(functools.partial(add_async, 1)), Future[int])
    assert_type(delay(asyncio.sleep, 1, "value"), Future[str])


def wrong_arguments(extension: Delay, executor: Executor) -> None:
    delay(add)  # E: call-overload, reportCallIssue
    delay(add, "1")  # E: call-overload, reportArgumentType
    delay(add, 1, 2, 3)  # E: call-overload, reportCallIssue
    delay(add, 1, wrong=2)  # E: arg-type, reportCallIssue
    delay(add, 1, note=2)  # E: arg-type, reportArgumentType
    delay(add_async)  # E: call-overload, reportCallIssue
    delay(add_async, "1")  # E: call-overload, reportArgumentType
    delay(1)  # E: call-overload, reportArgumentType
    delay()  # E: call-overload, reportCallIssue
    extension.delay(add, "1")  # E: call-overload, reportArgumentType
    extension.delay(add_async, "1")  # E: call-overload, reportArgumentType
    executor.submit(add, "1")  # E: call-overload, reportArgumentType
    executor.submit(add_async, note=b"")  # E: call-overload, reportCallIssue


def results(executor: Executor) -> None:
    assert_type(delay(add, 1).result(), int)
    assert_type(delay(add_async, 1).result(timeout=1.5), int)
    assert_type(delay(add, 1).exception(), BaseException | None)
    text: str = delay(add, 1).result()  # E: assignment, reportAssignmentType
    other: Future[str] = delay(add_async, 1)  # E: call-overload, reportAssignmentType
    print(text, other)


def maps(extension: Delay, executor: Executor) -> None:
    assert_type(executor.map(add, [1], [2]), Iterator[int])
    assert_type(executor.map(add_async, [1], timeout=2, chunksize=3, buffersize=4), Iterator[int])
    assert_type(extension.map(add, [1]), Iterator[int])
    assert_type(extension.map(add_async, [1], buffersize=4), Iterator[int])
    executor.map(add, 1)  # E: call-overload, reportArgumentType
    executor.map(add, [1], buffersize="4")  # E: call-overload, reportArgumentType


def generic(function: Callable[[], T], anything: Callable[..., Any]) -> Future[T]:
    assert_type(delay(anything, 1, x=2), Future[Any])
    return delay(function)


def standard(executor: Executor, extension: Delay) -> None:
    """Whatever takes the standard library's classes takes ours."""
    assert_type(with_pool(executor), int)
    assert_type(with_pool(extension.executor), int)
    future: concurrent.futures.Future[int] = executor.submit(add, 1)
    concurrent.futures.wait([future, executor.submit(add, 1)])
    for done in concurrent.futures.as_completed([future]):
        assert_type(done.result(), int)


def with_pool(pool: concurrent.futures.Executor) -> int:
    return pool.submit(add, 1).result()
