"""uvicorn: SIGTERM after its last request.

uvicorn installs its handler before it loads the app, so Flask-Delay installs none. At the end
uvicorn restores the earlier handlers and raises the captured signals again. By default SIGTERM then
kills the process at once, with its accepted tasks.
"""

import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

_UNKNOWN = (
    "this version of uvicorn is not known to Flask-Delay: at SIGTERM, tasks that it has accepted"
    " may be lost. Load the app before uvicorn handles the signal: import it, and call"
    " uvicorn.run(app)"
)
_Handler = Callable[[int, FrameType | None], Any]


def end_by(leave: _Handler) -> None:
    """Have `leave` handle SIGTERM after a running uvicorn is done, if it has no other handler.

    Does nothing under other servers. May be called from any thread.
    """
    handler = signal.getsignal(signal.SIGTERM)
    server: Any = getattr(handler, "__self__", None)
    module = sys.modules.get("uvicorn.server")
    if module is None or not isinstance(server, module.Server):
        return
    captured = getattr(server, "_captured_signals", None)
    if type(captured) is list:
        server._captured_signals = _Captured(captured, leave)  # noqa: SLF001
    elif captured is None and hasattr(server, "capture_signals"):
        # Older versions end like any program, and need nothing.
        warnings.warn(_UNKNOWN, RuntimeWarning, stacklevel=4)


class _Captured(list[int]):
    """The signals that uvicorn captured; it iterates over them after restoring the handlers."""

    def __init__(self, captured: list[int], leave: _Handler) -> None:
        super().__init__(captured)
        self._leave = leave

    def __iter__(self) -> Iterator[int]:
        self._take_over()
        return super().__iter__()

    def __reversed__(self) -> Iterator[int]:
        self._take_over()
        return super().__reversed__()

    def _take_over(self) -> None:
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self._leave)
