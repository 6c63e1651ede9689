"""The options of `using` and `task`, `Retry`, and what else is about limits and deadlines."""

from collections.abc import Hashable
from typing import assert_type

from flask_delay import (
    Delay,
    DuplicateTask,
    Executor,
    Future,
    QueueFull,
    Retry,
    TaskExpired,
    TaskTimeout,
    current_task,
    task,
    using,
)

background = Delay()


def key(number: int) -> str:
    return str(number)


@task(priority=1, key=key, limit=2, rate="10/s", unique="raise", timeout=5, expires=60.0, retry=3)
def work(number: int) -> str:
    return key(number)


def right(hashable: Hashable) -> None:
    assert_type(work.delay(1), Future[str])
    assert_type(work.using(retry=Retry(3, on=OSError), unique=True).delay(1), Future[str])
    assert_type(using(key="mail", limit=1).delay(work, 1), Future[str])
    using(key=("user", 1), unique=True)
    using(key=hashable, rate="1/d")
    background.using(key=lambda *_: "key", unique=False, limit=1)
    background.task(timeout=0.5, request=True)


def wrong() -> None:
    using(priority="high")  # E: arg-type, reportArgumentType
    using(key=[], limit=1)  # E: arg-type, reportArgumentType
    using(limit=1.5)  # E: arg-type, reportArgumentType
    using(rate=10)  # E: arg-type, reportArgumentType
    using(unique="return")  # E: arg-type, reportArgumentType
    using(timeout="5")  # E: arg-type, reportArgumentType
    using(timeout=None)  # E: arg-type, reportArgumentType
    using(expires="5")  # E: arg-type, reportArgumentType
    using(retry=1.5)  # E: arg-type, reportArgumentType
    work.using(retries=1)  # E: call-arg, reportCallIssue
    background.task(timeout="5")  # E: call-overload, reportArgumentType


def retries() -> None:
    assert_type(Retry(), Retry)
    Retry(3, 1, 60, jitter=0.1, on=(OSError, ValueError), unless=TimeoutError)
    assert_type(Retry(on=SystemExit), Retry)
    Retry("3")  # E: arg-type, reportArgumentType
    Retry(on=OSError())  # E: arg-type, reportArgumentType
    Retry(on=(int,))  # E: arg-type, reportArgumentType
    Retry().times = 5  # E: misc, reportAttributeAccessIssue


def in_a_task(is_late: bool) -> int:
    if is_late:
        current_task.retry(after=5)
    try:
        current_task.check()
    except ValueError:
        current_task.retry()
    current_task.retry("5")  # E: arg-type, reportArgumentType


def stopping(future: Future[int]) -> None:
    assert_type(future.stop(), bool)
    future.stop(0)
    future.stop(after=None)
    future.stop("1")  # E: arg-type, reportArgumentType


def errors() -> None:
    runtime: list[type[RuntimeError]] = [QueueFull, DuplicateTask]
    late: list[type[TimeoutError]] = [TaskTimeout, TaskExpired]
    print(runtime, late)


def executors() -> None:
    Executor(4, queue_size=100, when_full="drop_oldest")
    Executor(queue_size=100, when_full="block", block_timeout=1.5)
    Executor(queue_size=100, block_timeout=None)
    Executor(queue_size="100")  # E: arg-type, reportArgumentType
    Executor(when_full="wait")  # E: arg-type, reportArgumentType
    Executor(block_timeout="1")  # E: arg-type, reportArgumentType
