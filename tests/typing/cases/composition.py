"""What `then`, `gather` and `chain` make of the types of functions and results."""

from typing import Any, assert_type

from flask_delay import Delay, Executor, Future, Group, chain, delay, gather, group, task


def size(text: str) -> int:
    return len(text)


async def double(value: int) -> int:
    return value * 2


@task(retry=3)
def show(value: int, width: int = 0) -> str:
    return f"{value:{width}}"


@task
async def show_async(value: int) -> str:
    return str(value)


def clean() -> bytes:
    return b""


async def clean_async() -> bytes:
    return b""


def steps(future: Future[str]) -> None:
    assert_type(future.then(size), Future[int])
    assert_type(future.then(size).then(double), Future[int])
    assert_type(future.then(size).then(show), Future[str])
    assert_type(future.then(size).then(show_async), Future[str])
    assert_type(future.then(size).then(show.using(timeout=3)), Future[str])
    assert_type(future.then(lambda text: [text]), Future[list[str]])
    assert_type(future.then(clean, on="end"), Future[bytes])
    assert_type(future.then(clean_async, on="end"), Future[bytes])
    future.then(double)  # E: arg-type, reportArgumentType
    future.then(size).then(size)  # E: arg-type, reportArgumentType
    future.then(show)  # E: arg-type, reportArgumentType
    future.then(1)  # E: call-overload, reportArgumentType


def gathered(one: Future[int], two: Future[str], many: list[Future[bytes]]) -> None:
    assert_type(gather(one, one, one), Future[list[int]])
    assert_type(gather(*many), Future[list[bytes]])
    assert_type(gather(one, two), Future[tuple[int, str]])
    assert_type(gather(one, two, one, two, one), Future[tuple[int, str, int, str, int]])
    assert_type(gather(one, two, return_exceptions=True), Future[list[Any]])
    number, text = gather(one, two).result()
    assert_type(number, int)
    assert_type(text, str)
    assert_type(gather(one, one).then(sum), Future[int])
    gather(one, 1)  # E: call-overload, reportArgumentType
    gather(many)  # E: call-overload, reportArgumentType


def chained() -> None:
    both = chain(size, double, show)
    assert_type(both.delay("x"), Future[Any])
    chain(show).delay(1, width=3)
    both.delay(1)  # E: arg-type, reportArgumentType
    both.delay()  # E: call-arg, reportCallIssue
    chain(1)  # E: arg-type, reportArgumentType
    chain()  # E: call-arg, reportCallIssue
    delay(size, "x").then(print)


def groups(background: Delay, executor: Executor) -> None:
    with group(timeout=3) as block:
        assert_type(block, Group)
        assert_type(block.delay(size, "text"), Future[int])
        assert_type(block.delay(double, 1), Future[int])
        assert_type(block.delay(show, 1, width=2), Future[str])
        assert_type(block.using(timeout=3).delay(size, "text"), Future[int])
        assert_type(list(block.map(size, ["text"])), list[int])
        block.delay(size, 1)  # E: call-overload, reportArgumentType
    with background.group() as of_app, executor.group() as of_pool:
        assert_type(of_app, Group)
        assert_type(of_pool, Group)


async def async_groups(background: Delay) -> None:
    async with background.group() as block:
        assert_type(block, Group)
