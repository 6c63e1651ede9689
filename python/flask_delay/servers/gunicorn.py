"""gunicorn's hooks; see `flask_delay.contrib.gunicorn`."""

import os
import signal
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

from flask_delay._native import _end_within, _service_executor
from flask_delay.servers import gevent

# Seconds between the end of the wait and the kill, for the warning and the exit.
_MARGIN = 1.0
# The time that gunicorn leaves a worker after the second signal or an abort, less the margin.
_QUICK = 1.0
_ABORTED = 0.3
_HEARTBEAT = 1.0


class Hooks:
    """The hooks of one worker; `limits` returns each Delay's `SHUTDOWN_TIMEOUT`, by its key."""

    def __init__(self, limits: Callable[[], Mapping[str, float | None]]) -> None:
        self._limits = limits
        # The time of the first signal to end, by the monotonic clock; and whether it was SIGTERM.
        # After SIGTERM, SIGINT and SIGQUIT mean that the exit is urgent. Without it, Ctrl-C sends
        # both of them.
        self._told: float | None = None
        self._terminated = False
        # A descriptor of the file whose times show gunicorn that a worker is alive. It is a
        # duplicate, because the worker closes its own before it exits.
        self._pulse: int | None = None

    def post_worker_init(self, worker: Any) -> None:
        """Warn about settings that shorten the time of tasks; note signals to end from now on.

        Called in the worker, once the app is loaded.
        """
        gevent.check()
        graceful = worker.cfg.graceful_timeout
        for key, seconds in self._limits().items():
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
        self._told, self._terminated = None, False
        self._pulse = os.dup(worker.tmp.fileno())
        handler = signal.getsignal(signal.SIGTERM)

        def tell(signum: int, frame: FrameType | None) -> None:
            self._terminated = True
            if self._told is None:
                self._told = time.monotonic()
            if callable(handler):
                handler(signum, frame)

        signal.signal(signal.SIGTERM, tell)
        # As gunicorn does: the signal does not interrupt system calls of a request.
        signal.siginterrupt(signal.SIGTERM, False)

    def worker_int(self, _worker: Any) -> None:
        """Exit quickly if the worker was ending already. Called at SIGINT and SIGQUIT."""
        if self._terminated:
            _end_within(_QUICK)
        elif self._told is None:
            self._told = time.monotonic()

    def worker_abort(self, _worker: Any) -> None:
        """Name the tasks that are lost with a worker that gunicorn aborts. Called at SIGABRT."""
        _end_within(_ABORTED)

    def worker_exit(self, _server: Any, worker: Any) -> None:
        """End the remaining tasks before gunicorn kills the worker.

        Called in the worker on its way out, before the interpreter waits for tasks.
        """
        longest = max((seconds or 0.0 for seconds in self._limits().values()), default=0.0)
        if self._told is not None:
            left = self._told + worker.cfg.graceful_timeout - _MARGIN - time.monotonic()
            _end_within(left)
            longest = min(longest, left)
        if self._pulse is not None and longest > 0:
            _service_executor("delay-pulse").submit(_beat, self._pulse, longest + _MARGIN)


def _beat(pulse: int, seconds: float) -> None:
    end = time.monotonic() + seconds
    while (now := time.monotonic()) < end:
        os.utime(pulse, (now, now))
        time.sleep(_HEARTBEAT)
