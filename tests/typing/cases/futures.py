"""What a future is: awaitable, with callbacks and facts about its task."""

import asyncio
import concurrent.futures
from collections.abc import Awaitable
from datetime import datetime
from typing import assert_type

from flask_delay import (
    Delay,
    Executor,
    Future,
    PoolStats,
    Progress,
    Stats,
    current_task,
    delay,
)


async def double(value: int) -> int:
    return value * 2


async def awaits() -> None:
    assert_type(await delay(len, "x"), int)
    assert_type(await delay(double, 1), int)
    assert_type(await asyncio.wait_for(delay(double, 1), 1), int)
    assert_type(await asyncio.gather(delay(double, 1), delay(str, 1)), tuple[int, str])
    assert_type(await asyncio.wrap_future(delay(double, 1)), int)
    awaitable: Awaitable[int] = delay(double, 1)
    text: str = await delay(double, 1)  # E: call-overload, reportAssignmentType
    print(awaitable, text)


def report(future: Future[int]) -> None:
    print(future.result() + 1)


def report_text(future: Future[str]) -> None:
    print(future.result())


def report_any_future(future: concurrent.futures.Future[int]) -> str:
    return str(future.result())


def callbacks(future: Future[int], extension: Delay, executor: Executor) -> None:
    future.add_done_callback(report)
    future.add_done_callback(report_any_future)
    future.add_done_callback(lambda future: future.id)
    future.add_done_callback(report_text)  # E: arg-type, reportArgumentType
    future.add_done_callback(1)  # E: arg-type, reportArgumentType
    executor.add_default_done_callback(print)
    extension.add_default_done_callback(1)  # E: type-var, reportArgumentType

    @extension.add_default_done_callback
    def note(future: Future[object]) -> str:
        return future.name

    assert_type(note(Future[object]()), str)


def facts(future: Future[int]) -> None:
    assert_type(future.id, str)
    assert_type(future.name, str)
    assert_type(future.state, str)
    assert_type(future.attempts, int)
    assert_type(future.progress, Progress | None)
    assert_type(future.enqueued_at, datetime | None)
    assert_type(future.cancel(), bool)
    future.id = "x"  # E: misc, reportAttributeAccessIssue
    print(future.nothing)  # E: attr-defined, reportAttributeAccessIssue


def current() -> None:
    assert_type(current_task.id, str)
    assert_type(current_task.attempt, int)
    current_task.progress(1, 2)
    current_task.progress(0.5, 1, note="half")
    current_task.progress(1, None)
    current_task.progress("1", 2)  # E: arg-type, reportArgumentType
    current_task.check()


def executors() -> None:
    Executor(4, "name", print, ("x",), idle_timeout=1.5)
    Executor(max_workers=None)
    Executor("4")  # E: arg-type, reportArgumentType
    Executor(4, wrong=1)  # E: call-arg, reportCallIssue
    with Executor() as executor:
        assert_type(executor, Executor)
        assert_type(executor.drain(1), bool)
        assert_type(executor.stats(), PoolStats)


def figures(extension: Delay) -> None:
    stats = extension.stats()
    assert_type(stats, Stats)
    assert_type(stats["queued"], int)
    assert_type(stats["tasks"]["fetch"]["wait"]["p99"], float)
    print(stats["nothing"])  # E: typeddict-item, reportGeneralTypeIssues
