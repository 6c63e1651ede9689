"""gevent: its effect on the threads that run tasks.

Where gevent has patched the standard library, a task still runs on a native thread. If it calls a
patched module, it waits on an event loop, a "hub", that gevent makes for that thread.
"""

import sys
import time
import warnings
from typing import Any

from flask_delay._native import Future, Stream, _set_greenlet_hooks

MESSAGE = (
    "gevent has patched threads. The tasks of Flask-Delay run on native threads all the same,"
    " side by side with the greenlets: future.result() lets other greenlets run, and what"
    " waits in a task holds up no request; but greenlets, queues and pools of gevent belong to"
    " the thread that made them, so none may be shared with a task"
)
# Seconds.
_SLICE = 60.0
_warned = False


def check() -> None:
    """Warn once about the behaviour of tasks, if gevent has patched threads."""
    global _warned  # noqa: PLW0603
    if _warned or not is_patched():
        return
    _warned = True
    # Points at the line that called init_app.
    warnings.warn(MESSAGE, RuntimeWarning, stacklevel=3)


def is_patched(module: str = "threading") -> bool:
    """Whether gevent has patched this module."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched(module))


def _hub() -> Any:
    """This thread's hub, if it has one: without it there are no greenlets to run."""
    hubs = sys.modules.get("gevent._hub_local")
    return None if hubs is None else hubs.get_hub_if_exists()


def _wait(future: Future[Any] | Stream[Any], seconds: float | None) -> bool | None:
    """Wait for a future, or a stream's item, as gevent's locks do; None if this thread has no hub.

    The hub's own greenlet must not switch to another one, so the result is None there too.
    """
    hub = _hub()
    if hub is None:
        return None
    from gevent import getcurrent  # noqa: PLC0415
    from gevent.lock import Semaphore  # noqa: PLC0415

    if getcurrent() is hub:
        return None
    # Another thread may release it.
    woken = Semaphore(0)

    def wake(_: Future[Any]) -> None:
        woken.release()

    if not future._add_waker(wake):
        return True
    end = None if seconds is None else time.monotonic() + seconds
    try:
        while True:
            # A hub with nothing to wait for would raise an error; this timeout gives it something.
            left = _SLICE if end is None else min(end - time.monotonic(), _SLICE)
            if woken.acquire(timeout=max(left, 0)):
                return True
            if end is not None and time.monotonic() >= end:
                return False
    finally:
        future._drop_waker(wake)


def _leave() -> None:
    """Destroy the thread's hub; gevent itself would leave its files open forever."""
    hub = _hub()
    if hub is not None:
        hub.destroy(destroy_loop=True)


_set_greenlet_hooks(wait=_wait, leave=_leave)
