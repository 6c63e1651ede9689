"""`track`: a loop that says how far it has come."""

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
    """Iterate over something, and have the running task say how far that is.

    >>> for row in track(["a", "b"]):
    ...     print(row)
    a
    b

    At the start, and after each item that the loop has worked off, the task says
    `current_task.progress(done, total, note)`. Before each item it asks
    `current_task.check()`, which raises `concurrent.futures.CancelledError` if it was told to
    stop. `total` is by default the length of `iterable`, or what that itself expects
    (`operator.length_hint`), or None for not known; at the end it is how many items there
    were. A loop that is left early leaves the progress where it was. Where no task runs, this
    iterates and no more.

    An asynchronous iterable is for `async for`; an object that is both kinds is for `for`.

    With `bar`, tqdm draws a bar as well, with `note` before it, if standard error is a
    terminal.

    The call itself raises TypeError if `iterable` is not one, TypeError or ValueError for a
    bad `total` or `note`, and ImportError for `bar` without tqdm. It may be made in any thread;
    what it returns is for one loop, as every generator is.
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
    """How far one loop is, for the task that runs it and for its bar."""

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
            # None: off, if it would not be in a terminal.
            self._bar = self._bar_class(total=self._total, desc=self._note or None, disable=None)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def check(self) -> None:
        """Before an item."""
        try:
            current_task.check()
        except RuntimeError:
            # No task runs here, which may change from item to item: some libraries take
            # the next one in a thread of their own.
            return

    def advance(self) -> None:
        """After an item."""
        self._done += 1
        self._say()
        if self._bar is not None:
            self._bar.update()

    def end(self) -> None:
        """There are no more items."""
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
        # Installed with the extra `bar`, so not needed by the package.
        from tqdm import tqdm  # noqa: PLC0415
    except ImportError as error:
        raise ImportError(
            "track(bar=True) needs tqdm, which is not installed: pip install 'flask-delay[bar]'"
        ) from error
    return tqdm
