"""`map`: one task for each item, and the results in the order of the items."""

import math
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from operator import index
from typing import Any, TypeVar

from flask_delay._native import Executor, Future, _set_method

_T = TypeVar("_T")
_Submit = Callable[..., Future[_T]]


def map_with(
    submit: _Submit[_T],
    fn: Callable[..., Any],
    *iterables: Iterable[Any],
    timeout: float | None = None,
    chunksize: int | None = None,  # noqa: ARG001 (for processes; it changes nothing for threads)
    buffersize: int | None = None,
) -> Iterator[_T]:
    """`Executor.map`, with `submit(fn, *args)` in place of the executor's own."""
    return _start(lambda: submit, fn, iterables, timeout, buffersize)


def _map(
    self: Executor,
    fn: Callable[..., Any],
    *iterables: Iterable[Any],
    timeout: float | None = None,
    chunksize: int | None = None,  # noqa: ARG001
    buffersize: int | None = None,
) -> Iterator[Any]:
    # A weak reference, because a forgotten iterator must not keep the pool alive.
    executor = weakref.ref(self)
    # By name, because a subclass may override `submit`.
    return _start(lambda: getattr(executor(), "submit", None), fn, iterables, timeout, buffersize)


_set_method("map", _map)


def _start(
    find: Callable[[], _Submit[_T] | None],
    fn: Callable[..., Any],
    iterables: tuple[Iterable[Any], ...],
    timeout: float | None,
    buffersize: int | None,
) -> Iterator[_T]:
    size = None if buffersize is None else _size(buffersize)
    end = None if timeout is None else time.monotonic() + _seconds(timeout)
    calls = zip(*iterables, strict=False)

    def submitted(count: int | None) -> Iterator[Future[_T]]:
        part = islice(calls, count)
        # Of durable tasks, which take many in one commit.
        many = getattr(find(), "many", None)
        if many is not None:
            yield from many(fn, part)
        for arguments in part:
            if submit := find():
                yield submit(fn, *arguments)

    futures = deque(submitted(size))
    return _results(futures, end, None if size is None else lambda: futures.extend(submitted(1)))


def _results(
    futures: deque[Future[_T]], end: float | None, refill: Callable[[], None] | None
) -> Iterator[_T]:
    try:
        while futures:
            # No variable here may hold the future or the result while the iterator waits for the
            # next request.
            yield _result(futures.popleft(), end, refill)
    finally:
        for future in futures:
            future.cancel()


def _result(future: Future[_T], end: float | None, refill: Callable[[], None] | None) -> _T:
    try:
        if refill is not None:
            refill()
        return future.result(None if end is None else end - time.monotonic())
    except StopIteration as error:
        raise RuntimeError("a call of map() raised StopIteration") from error
    finally:
        future.cancel()
        # The future's exception refers to this frame.
        del future


def _seconds(timeout: float) -> float:
    try:
        if not math.isnan(timeout):
            return float(timeout)
        error: type[Exception] = ValueError
    except (TypeError, OverflowError):
        error = TypeError
    raise error(f"timeout must be a number of seconds or None, got {timeout!r}")


def _size(buffersize: int) -> int:
    try:
        size = index(buffersize)
    except TypeError:
        raise TypeError(f"buffersize must be an integer or None, got {buffersize!r}") from None
    if size <= 0:
        raise ValueError(f"buffersize must be None or > 0, got {size}")
    return size
