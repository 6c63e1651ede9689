"""uvicorn: what it does with SIGTERM once it has answered its last request.

It handles the signal from before it loads the app, so there is a handler already and none is
ours. At the end it puts back what was there before, and raises the signals it got once more: by
default SIGTERM then ends the process on the spot, and accepted tasks with it.
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
    """Have `leave` handle SIGTERM once a uvicorn that runs is done, if nobody else does.

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
        # Older ones end as any program, and need nothing.
        warnings.warn(_UNKNOWN, RuntimeWarning, stacklevel=4)


class _Captured(list[int]):
    """The signals that uvicorn got, which it goes through when it has put the handlers back."""

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
