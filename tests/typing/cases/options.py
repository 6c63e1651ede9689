"""The options of `using` and `task`, `Retry`, and what else is about limits and deadlines."""

from collections.abc import Hashable
from datetime import datetime, timedelta
from typing import Any, assert_type
from zoneinfo import ZoneInfo

from flask_delay import (
    Delay,
    DuplicateTask,
    Executor,
    Future,
    Job,
    JournalUnavailable,
    QueueFull,
    ResultNotKept,
    Retry,
    TaskExpired,
    TaskTimeout,
    WorkerDied,
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


def clean(folder: str) -> int:
    return len(folder)


@task(durable=True, name="mail.send", also=("shop.send", "mail.post"), retry=3)
def send(number: int) -> str:
    return key(number)


def lasting() -> None:
    assert_type(send.delay(1), Future[str])
    assert_type(using(durable="disk", once="order-1").delay(send, 1), Future[str])
    assert_type(send.using(once="order-1", durable=True).delay(1), Future[str])
    background.task(durable=False, also=["former"])
    task(name="tidy", every=60)
    using(durable="commit")  # E: call-overload, reportCallIssue
    using(once=1)  # E: call-overload, reportCallIssue
    using(name="mail.send")  # E: call-overload, reportCallIssue
    task(name=1)  # E: call-overload, reportArgumentType
    task(also=5)  # E: call-overload, reportArgumentType


@task(cron="30 2 * * *", timezone="Europe/Berlin")
def report(number: int) -> str:
    return key(number)


def times(zone: ZoneInfo, moment: datetime) -> None:
    assert_type(using(countdown=5).delay(clean, "x"), Future[int])
    assert_type(work.using(eta=moment, retry=2).delay(1), Future[str])
    job = using(every=60, timeout=5).delay(clean, "x")
    assert_type(job, Job)
    assert_type(job.next_run, datetime | None)
    assert_type(job.cancel(), bool)
    assert_type(background.using(every=timedelta(hours=1), overlap=True).delay(clean, "x"), Job)
    assert_type(using(cron="@daily", timezone=zone).delay(clean, "x"), Job)
    assert_type(report.delay(1), Job)
    assert_type(report(1), str)
    assert_type(work.using(every=60).delay(1), Job)
    assert_type(background.jobs, list[Job])
    assert_type(background.job("clean"), Job)
    assert_type(job.run_now(), Future[Any])
    assert_type(job.id, str)
    assert_type(job.name, str)
    assert_type(job.schedule, str)
    assert_type(job.paused, bool)
    using(every=60).delay(clean)  # E: call-arg, reportCallIssue
    using(every=60).delay(clean, 1)  # E: arg-type, reportArgumentType
    using(every="60")  # E: call-overload, reportArgumentType
    using(eta=5)  # E: call-overload, reportArgumentType
    report.delay("x")  # E: arg-type, reportArgumentType


def wrong() -> None:
    using(priority="high")  # E: call-overload, reportCallIssue
    using(key=[], limit=1)  # E: call-overload, reportCallIssue
    using(limit=1.5)  # E: call-overload, reportCallIssue
    using(rate=10)  # E: call-overload, reportCallIssue
    using(unique="return")  # E: call-overload, reportCallIssue
    using(timeout="5")  # E: call-overload, reportCallIssue
    using(timeout=None)  # E: call-overload, reportCallIssue
    using(expires="5")  # E: call-overload, reportCallIssue
    using(retry=1.5)  # E: call-overload, reportCallIssue
    work.using(retries=1)  # E: call-overload, reportCallIssue
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
    durable: list[type[RuntimeError]] = [JournalUnavailable, WorkerDied, ResultNotKept]
    late: list[type[TimeoutError]] = [TaskTimeout, TaskExpired]
    print(runtime, durable, late)


def executors() -> None:
    Executor(4, queue_size=100, when_full="drop_oldest")
    Executor(queue_size=100, when_full="block", block_timeout=1.5)
    Executor(queue_size=100, block_timeout=None)
    Executor(queue_size="100")  # E: arg-type, reportArgumentType
    Executor(when_full="wait")  # E: arg-type, reportArgumentType
    Executor(block_timeout="1")  # E: arg-type, reportArgumentType


@task(debounce=5, max_wait=60.0, key=key)
def search(number: int) -> str:
    return key(number)


def debounced() -> None:
    assert_type(search.delay(1), Future[str])
    using(debounce="5")  # E: call-overload, reportCallIssue
