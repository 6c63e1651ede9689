"""The memory of pending tasks."""

import contextlib
import operator
from typing import Any

from benchmarks.cases import blocked, resident
from benchmarks.model import Peer, Values

_open: list[contextlib.ExitStack] = []


def pending(peer: Peer, size: int) -> Values:
    """Bytes per pending task with two arguments that exist already, its future kept."""
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(peer.open(1))
        stack.enter_context(blocked(pool, 1))
        submit, first, second = pool.submit, object(), object()
        handles: list[Any] = [None] * size
        before = resident()
        for index in range(size):
            handles[index] = submit(operator.is_, first, second)
        used = resident() - before
        # Left open: running a million tasks may take half a minute.
        _open.append(stack.pop_all())
    return {"bytes": used / size}
