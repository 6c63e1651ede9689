"""`track`: a loop that reports its progress."""

import contextlib
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
_END = object()


@overload
def track(
    iterable: Iterable[_T],
    total: float | None = None,
    *,
    note: str = "",
    bar: bool = False,
    resume: bool = False,
) -> Generator[_T, None, None]: ...
@overload
def track(
    iterable: AsyncIterable[_T],
    total: float | None = None,
    *,
    note: str = "",
    bar: bool = False,
    resume: bool = False,
) -> AsyncGenerator[_T, None]: ...
def track(
    iterable: Iterable[_T] | AsyncIterable[_T],
    total: float | None = None,
    *,
    note: str = "",
    bar: bool = False,
    resume: bool = False,
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

    With `resume`, a later attempt of a durable task skips the items that were done: it takes them
    from `iterable`, which must have the same order in each attempt, and does not pass them to the
    loop. After each item the number of those that are done is kept as by `current_task.checkpoint`,
    and the attempt may be ended there as by that. The loops of a task are told apart by their
    order, and one must end before the next begins, otherwise RuntimeError. In a task that is not
    durable, and where no task runs, it changes nothing.

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
    steps = _Steps(total, note, _tqdm() if bar else None, resume=resume)
    if isinstance(iterable, AsyncIterable) and not isinstance(iterable, Iterable):
        return _follow_async(aiter(iterable), steps)
    return _follow(iter(iterable), steps)


class _Steps:
    """The progress of one loop, for its task and its progress bar."""

    def __init__(self, total: float | None, note: str, bar: Any, *, resume: bool) -> None:
        self._resume = resume
        # The number of a loop that can be resumed.
        self._loop: int | None = None
        self._done = 0
        self._total = total
        self._note = note
        # The class, and the bar itself while the loop runs.
        self._bar_class = bar
        self._bar: Any = None

    @property
    def done(self) -> int:
        """How many items are done: at first, those of earlier attempts."""
        return self._done

    def __enter__(self) -> Self:
        begun = current_task._begin_loop() if self._resume else None  # noqa: SLF001
        if begun is not None:
            self._loop, self._done = begun
        self._say()
        if self._bar_class is not None:
            # None: no bar unless in a terminal.
            self._bar = self._bar_class(
                total=self._total, initial=self._done, desc=self._note or None, disable=None
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                current_task._end_loop(self._loop)  # noqa: SLF001

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
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # As in `check`.
                current_task._loop_done(self._loop, self._done)  # noqa: SLF001

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
        for _ in range(steps.done):
            if next(items, _END) is _END:
                break
        for item in items:
            steps.check()
            yield item
            steps.advance()
        steps.end()


async def _follow_async(items: AsyncIterator[_T], steps: _Steps) -> AsyncGenerator[_T, None]:
    with steps:
        for _ in range(steps.done):
            if await anext(items, _END) is _END:
                break
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
