"""SIGTERM where no server handles it: leave as at the end of the program.

The default disposition ends the process on the spot, and running and queued tasks with
it. Turned into a `SystemExit`, the signal takes the interpreter's own way out, on which
the native module lets accepted tasks end.
"""

import signal
import threading
from types import FrameType

from flask_delay import reloader
from flask_delay._native import _is_exiting


def drain_on_sigterm() -> None:
    """Turn SIGTERM into an orderly exit, with exit code 143, if nobody handles it.

    A handler that exists already, a server's above all, is left alone, and so is
    everything when not in the main thread, where Python allows no handlers.

    The handler runs in the main thread, between two bytecodes of whatever runs there, and
    takes no lock, so it cannot deadlock with it. If the interpreter is on its way out
    already, functions of `atexit` included, it leaves it at that. A forked child inherits
    the handler and ends its own tasks in the same way. A second SIGTERM ends the process at
    once.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return
    try:
        signal.signal(signal.SIGTERM, _exit)
    except ValueError:
        # The main thread of an interpreter that is not the main one.
        return
    reloader.pass_sigterm_on()


def _exit(signum: int, frame: FrameType | None) -> None:
    signal.signal(signum, signal.SIG_DFL)
    if not _is_exiting() and not _leaving(frame):
        # What a shell reports for a process that the signal ended.
        raise SystemExit(128 + signum)


def _leaving(frame: FrameType | None) -> bool:
    # An exception would cut short the wait for threads and tasks with which the interpreter
    # begins its exit. Until it comes to ours, that shows nowhere but on the stack.
    while frame is not None:
        if frame.f_code.co_name == "_shutdown" and frame.f_globals.get("__name__") == "threading":
            return True
        frame = frame.f_back
    return False
