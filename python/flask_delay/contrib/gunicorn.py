"""Hooks for gunicorn: what becomes of tasks when it runs out of patience with a worker.

In `gunicorn.conf.py`:

    from flask_delay.contrib.gunicorn import (  # noqa: F401
        post_worker_init, worker_abort, worker_exit, worker_int,
    )

Without them accepted tasks end first as well, but a worker whose tasks take too long is killed
without a word. With them

- a worker that was told to end (a stop, a reload) stops waiting for tasks shortly before
  gunicorn kills it, and names in one warning those that did not finish;
- so does one that is stopped a second time (SIGINT or SIGQUIT after SIGTERM), or that gunicorn
  aborts, since it has not answered for `timeout` seconds;
- a worker that waits for tasks counts as alive: when it is recycled (`max_requests`) or
  reloaded, tasks have all of `SHUTDOWN_TIMEOUT`, and not what happens to be left of `timeout`;
- settings that leave tasks less time than `SHUTDOWN_TIMEOUT` are named when a worker starts.

A hook of your own under one of these names calls the one from here, with its own arguments.
"""

import os
import signal
import time
from types import FrameType
from typing import Any

from flask_delay import state
from flask_delay._native import _end_within, _service_executor
from flask_delay.servers import gevent

__all__ = ["post_worker_init", "worker_abort", "worker_exit", "worker_int"]

# In seconds: between the end of the waiting and the kill, for the warning and the exit.
_MARGIN = 1.0
# What gunicorn leaves a worker after the second signal, and after an abort, less the margin.
_QUICK = 1.0
_ABORTED = 0.3
_HEARTBEAT = 1.0


class _Life:
    """What is known of this worker."""

    # When it was first told to end, by the monotonic clock; and whether by SIGTERM, after
    # which SIGINT and SIGQUIT mean haste. Without it Ctrl-C brings both of them.
    told: float | None = None
    terminated = False
    # A descriptor of the file by whose times gunicorn sees that a worker is alive; ours,
    # because the worker's own is closed before it exits.
    pulse: int | None = None


def post_worker_init(worker: Any) -> None:
    """Name settings that cost tasks their time; take note from now on of being told to end.

    Called in the worker, once the app is loaded.
    """
    gevent.check()
    graceful = worker.cfg.graceful_timeout
    for key, seconds in state.limits().items():
        if seconds is None or seconds + _MARGIN > graceful:
            worker.log.warning(
                "%s is %s, but gunicorn kills a worker %s s after telling it to end"
                " (graceful_timeout): tasks get %s s; set %s to that, or graceful_timeout to"
                " more",
                key,
                seconds,
                graceful,
                max(graceful - _MARGIN, 0),
                key,
            )
    _Life.told, _Life.terminated = None, False
    _Life.pulse = os.dup(worker.tmp.fileno())
    handler = signal.getsignal(signal.SIGTERM)

    def tell(signum: int, frame: FrameType | None) -> None:
        _Life.terminated = True
        if _Life.told is None:
            _Life.told = time.monotonic()
        if callable(handler):
            handler(signum, frame)

    signal.signal(signal.SIGTERM, tell)
    # As gunicorn has it: the signal disturbs no request.
    signal.siginterrupt(signal.SIGTERM, False)


def worker_int(_worker: Any) -> None:
    """Be quick if the worker was ending already. Called at SIGINT and SIGQUIT."""
    if _Life.terminated:
        _end_within(_QUICK)
    elif _Life.told is None:
        _Life.told = time.monotonic()


def worker_abort(_worker: Any) -> None:
    """Name what is lost with a worker that gunicorn gives up. Called at SIGABRT."""
    _end_within(_ABORTED)


def worker_exit(_server: Any, worker: Any) -> None:
    """Have what is left to do end before gunicorn's patience does.

    Called in the worker on its way out, before the interpreter waits for tasks.
    """
    longest = max((seconds or 0.0 for seconds in state.limits().values()), default=0.0)
    if _Life.told is not None:
        left = _Life.told + worker.cfg.graceful_timeout - _MARGIN - time.monotonic()
        _end_within(left)
        longest = min(longest, left)
    if _Life.pulse is not None and longest > 0:
        _service_executor("delay-pulse").submit(_beat, _Life.pulse, longest + _MARGIN)


def _beat(pulse: int, seconds: float) -> None:
    end = time.monotonic() + seconds
    while (now := time.monotonic()) < end:
        os.utime(pulse, (now, now))
        time.sleep(_HEARTBEAT)
