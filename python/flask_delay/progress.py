"""`track`: a loop that reports its progress."""

import math
import operator
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Generator,
    Iterable,
    Iterator,
)
from typing import Any, Self, TypeVar, overload

from flask_delay._native import current_task

_T = TypeVar("_T")


@overload
def track(
    iterable: Iterable[_T], total: float | None = None, *, note: str = "", bar: bool = False
) -> Generator[_T, None, None]: ...
@overload
def track(
    iterable: AsyncIterable[_T], total: float | None = None, *, note: str = "", bar: bool = False
) -> AsyncGenerator[_T, None]: ...
def track(
    iterable: Iterable[_T] | AsyncIterable[_T],
    total: float | None = None,
    *,
    note: str = "",
    bar: bool = False,
) -> Generator[_T, None, None] | AsyncGenerator[_T, None]:
    """Iterate over an iterable, and report the progress as that of the running task.

    >>> for row in track(["a", "b"]):
    ...     print(row)
    a
    b

    At the start, and after each item that the loop has processed, the task calls
    `current_task.progress(done, total, note)`. Before each item it calls `current_task.check()`,
    which raises `concurrent.futures.CancelledError` if the task was told to stop. `total` is by
    default the length of `iterable`, or its own estimate (`operator.length_hint`), or None for
    unknown; at the end it becomes the number of items. A loop that is left early leaves the
    progress as it was. Where no task runs, this only iterates.

    An asynchronous iterable needs `async for`; for an object of both kinds use `for`.

    With `bar`, tqdm also draws a progress bar, after the text `note`, if standard error is a
    terminal.

    The call itself raises TypeError if `iterable` is not one, TypeError or ValueError for a bad
    `total` or `note`, and ImportError for `bar` without tqdm. You may call it in any thread; the
    returned iterator is for one loop, like every generator.
    """
    _require_note(note)
    _require_total(total)
    if total is None:
        total = operator.length_hint(iterable, -1)
        total = None if total < 0 else total
    steps = _Steps(total, note, _tqdm() if bar else None)
    if isinstance(iterable, AsyncIterable) and not isinstance(iterable, Iterable):
        return _follow_async(aiter(iterable), steps)
    return _follow(iter(iterable), steps)


class _Steps:
    """The progress of one loop, for its task and its progress bar."""

    def __init__(self, total: float | None, note: str, bar: Any) -> None:
        self._done = 0
        self._total = total
        self._note = note
        # The class, and the bar itself while the loop runs.
        self._bar_class = bar
        self._bar: Any = None

    def __enter__(self) -> Self:
        self._say()
        if self._bar_class is not None:
            # None: no bar unless in a terminal.
            self._bar = self._bar_class(total=self._total, desc=self._note or None, disable=None)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def check(self) -> None:
        """Called before an item."""
        try:
            current_task.check()
        except RuntimeError:
            # No task runs on this thread. That may change from item to item: some libraries take
            # the next item in a thread of their own.
            return

    def advance(self) -> None:
        """Called after an item."""
        self._done += 1
        self._say()
        if self._bar is not None:
            self._bar.update()

    def end(self) -> None:
        """Called after the last item."""
        if self._done == self._total:
            return
        self._total = self._done
        self._say()
        if self._bar is not None:
            self._bar.total = self._done

    def _say(self) -> None:
        try:
            current_task.progress(self._done, self._total, self._note)
        except RuntimeError:
            return  # As above.


def _follow(items: Iterator[_T], steps: _Steps) -> Generator[_T, None, None]:
    with steps:
        for item in items:
            steps.check()
            yield item
            steps.advance()
        steps.end()


async def _follow_async(items: AsyncIterator[_T], steps: _Steps) -> AsyncGenerator[_T, None]:
    with steps:
        async for item in items:
            steps.check()
            yield item
            steps.advance()
        steps.end()


def _require_note(note: object) -> None:
    if not isinstance(note, str):
        raise TypeError(f"track() takes a text as its note, got note={note!r}")


def _require_total(total: float | None) -> None:
    if total is None:
        return
    try:
        finite = math.isfinite(total)
    except TypeError:
        raise TypeError(f"track() takes a number as its total, got total={total!r}") from None
    except OverflowError:
        finite = False
    if not finite:
        raise ValueError(
            f"track() takes a finite total, got total={total!r}; None if it is not known"
        )


def _tqdm() -> Any:
    try:
        # Installed with the extra `bar`, so the package does not need it.
        from tqdm import tqdm  # noqa: PLC0415
    except ImportError as error:
        raise ImportError(
            "track(bar=True) needs tqdm, which is not installed: pip install 'flask-delay[bar]'"
        ) from error
    return tqdm
