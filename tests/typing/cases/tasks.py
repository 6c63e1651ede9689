"""What `task`, `using` and their methods make of a function's types."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, assert_type

from flask_delay import Delay, Future, Task, task, using

background = Delay()


@task
def add(left: int, right: int = 0, *, note: str = "") -> int:
    """Add."""
    print(note)
    return left + right


@task(request=True)
def with_options(value: str) -> bytes:
    return value.encode()


@task
async def add_async(left: int) -> int:
    await asyncio.sleep(0)
    return left


@background.task
def of_one(value: int) -> str:
    return str(value)


@background.task(request=True)
async def of_one_async(value: int) -> str:
    return str(value)


class Sender:
    @task
    def send(self, text: str) -> int:
        return len(text)

    @task
    async def send_async(self, text: str) -> int:
        return len(text)

    @task
    @classmethod
    def make(cls, text: str) -> "Sender":
        print(text)
        return cls()


def functions() -> None:
    assert_type(add(1, right=2), int)
    assert_type(add.delay(1, right=2, note="x"), Future[int])
    assert_type(add.using(request=True).delay(1), Future[int])
    assert_type(add.map([1, 2], [3, 4], timeout=1, buffersize=2), Iterator[int])
    assert_type(with_options("x"), bytes)
    assert_type(with_options.delay("x"), Future[bytes])
    assert_type(of_one.delay(1), Future[str])
    function: Callable[[int], int] = add
    assert_type(function(1), int)
    named: Task[[int], str, str] = of_one
    print(named, add.__name__)


def coroutines() -> None:
    coroutine: Coroutine[Any, Any, int] = add_async(1)
    coroutine.close()
    assert_type(add_async.delay(1), Future[int])
    assert_type(add_async.map([1]), Iterator[int])
    assert_type(of_one_async.delay(1).result(), str)


def methods(sender: Sender) -> None:
    assert_type(sender.send("x"), int)
    assert_type(sender.send.delay("x"), Future[int])
    assert_type(sender.send_async.delay("x"), Future[int])
    assert_type(sender.send.using(request=False).delay("x"), Future[int])
    assert_type(Sender.make("x"), Sender)
    assert_type(Sender.make.delay("x"), Future[Sender])
    assert_type(sender.make.delay("x"), Future[Sender])


def verbs() -> None:
    assert_type(using(request=True).delay(len, "x"), Future[int])
    assert_type(using().delay(asyncio.sleep, 1, "x"), Future[str])
    assert_type(background.using(request=True).map(len, ["x"]), Iterator[int])


def wrong(sender: Sender) -> None:
    add("1")  # E: arg-type, reportArgumentType
    add.delay("1")  # E: arg-type, reportArgumentType
    add.delay()  # E: call-arg, reportCallIssue
    add.delay(1, wrong=2)  # E: call-arg, reportCallIssue
    add.map(1)  # E: arg-type, reportArgumentType
    add.using(wrong=1)  # E: call-overload, reportCallIssue
    add.using(request="x")  # E: call-overload, reportCallIssue
    add_async.delay("1")  # E: arg-type, reportArgumentType
    sender.send.delay(1)  # E: arg-type, reportArgumentType
    sender.send.delay(sender, "x")  # E: call-arg, reportCallIssue
    task(request=1)  # E: call-overload, reportArgumentType
    task(1)  # E: call-overload, reportArgumentType
    using(wrong=1)  # E: call-overload, reportCallIssue
    using(request=1)  # E: call-overload, reportArgumentType
    using(request=True).delay(len, 1)  # E: call-overload, reportArgumentType
