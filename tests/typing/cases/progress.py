"""What `track` gives: items of the type that went in, for the loop that they are for."""

from collections.abc import AsyncIterator, Iterable
from typing import assert_type

from flask_delay import Progress, track


def loops(rows: Iterable[str]) -> None:
    for row in track(rows):
        assert_type(row, str)
    for number in track(range(3), 3, note="counting", bar=True):
        assert_type(number, int)
    track(3)  # E: call-overload, reportArgumentType
    track(rows, "note")  # E: call-overload, reportArgumentType
    track(rows, note=1)  # E: call-overload, reportArgumentType


async def asynchronous(rows: AsyncIterator[str]) -> None:
    async for row in track(rows):
        assert_type(row, str)
    list[str](track(rows))  # E: call-overload, reportArgumentType


def facts(progress: Progress) -> None:
    assert_type(progress.done, float)
    assert_type(progress.total, float | None)
