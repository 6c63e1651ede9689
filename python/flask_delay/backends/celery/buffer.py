"""Tasks that wait in memory until the broker is back: `DELAY_CELERY_WHEN_DOWN = "buffer"`."""

import atexit
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

from flask_delay.logs import log as _log


class _Named(Protocol):
    @property
    def name(self) -> str: ...


_T = TypeVar("_T", bound=_Named)

SIZE = 1000
"""So many tasks at most."""

# Seconds between two attempts to send.
_PAUSE = 0.5


class Buffer(Generic[_T]):
    """Passes its messages to `send`, in order, as soon as `send` stops raising `unreachable`.

    Skips messages for which `is_wanted` is false. Its thread runs only while there are messages.
    """

    def __init__(
        self,
        send: Callable[[_T], object],
        unreachable: tuple[type[BaseException], ...],
        is_wanted: Callable[[_T], bool],
    ) -> None:
        self._send = send
        self._unreachable = unreachable
        self._is_wanted = is_wanted
        self._held: deque[_T] = deque()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    def is_empty(self) -> bool:
        """Whether a new message may be sent directly, without overtaking another one."""
        return not self._held

    def keep(self, message: _T) -> bool:
        """Hold a message; False if the buffer is full."""
        with self._lock:
            if len(self._held) >= SIZE or self._closed.is_set():
                return False
            self._held.append(message)
            if self._thread is not None:
                return True
            # A daemon: otherwise the exit would wait for it as long as the broker is down.
            self._thread = threading.Thread(target=self._run, name="delay-celery-b", daemon=True)
            self._thread.start()
        atexit.unregister(self.close)
        atexit.register(self.close)
        _log.warning("the broker cannot be reached: tasks are kept in memory until it can")
        return True

    def close(self, wait: bool = True) -> None:
        """Send no more messages; log which ones are lost."""
        self._closed.set()
        atexit.unregister(self.close)
        thread = self._thread
        if wait and thread is not None and thread is not threading.current_thread():
            thread.join(_PAUSE)
        if lost := self._wanted():
            names = ", ".join(message.name for message in lost)
            _log.warning("tasks lost, since the broker did not come back: %s", names)

    def _wanted(self) -> list[_T]:
        held: Iterable[_T] = list(self._held)
        return [message for message in held if self._is_wanted(message)]

    def _run(self) -> None:
        while not self._closed.wait(_PAUSE):
            try:
                self._send_all()
            except self._unreachable:
                continue
            with self._lock:
                if not self._held:
                    self._thread = None
                    _log.warning("the broker is back, and has all tasks that were kept")
                    return

    def _send_all(self) -> None:
        while self._held and not self._closed.is_set():
            message = self._held[0]
            if self._is_wanted(message):
                self._send(message)
            # Removed only now, so that a message submitted meanwhile queues behind it.
            self._held.popleft()
