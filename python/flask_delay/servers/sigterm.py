"""SIGTERM in processes without a handler of a server: exit as at the end of the program.

The default disposition kills the process at once, with its running and queued tasks. As a
`SystemExit`, the signal leads to the interpreter's own exit, where the native module lets accepted
tasks end.
"""

import signal
import sys
import threading
from types import FrameType

from flask_delay._native import _is_exiting
from flask_delay.servers import uvicorn, werkzeug
from flask_delay.servers.cpython import before_threads_end, is_waiting_for_threads


def drain_on_sigterm() -> None:
    """Turn SIGTERM into an orderly exit, with exit code 143, if it has no handler.

    An existing handler, such as a server's, is kept; uvicorn's is an exception, see `uvicorn`.
    Outside of the main thread, where Python allows no handlers, none is installed.

    The handler runs in the main thread between two bytecodes and takes no lock, so it cannot
    deadlock. If the interpreter is exiting already, including functions of `atexit`, the handler
    does nothing. A forked child inherits the handler and ends its own tasks in the same way. A
    second SIGTERM ends the process at once, unless `multiprocessing` has started it.
    """
    uvicorn.end_by(_exit)
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return
    try:
        signal.signal(signal.SIGTERM, _exit)
    except ValueError:
        # The main thread of an interpreter that is not the main one.
        return
    _Told.listened = True
    werkzeug.pass_sigterm_on()


class _Told:
    """The state of SIGTERM in this process."""

    # Whether the handler was installed, and whether it has been called.
    listened = False
    heard = False


def _listen_again() -> None:
    """Install the handler again for the end of tasks, where an event loop has replaced it.

    A closing event loop restores the default, so SIGTERM would cut off the remaining work of
    hypercorn's workers. hypercorn sends it to all workers as soon as one has ended.
    """
    if _Told.listened and not _Told.heard and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _exit)


# Registered later than the native module's hook, so called before it lets tasks end.
before_threads_end(_listen_again)


def _is_watched() -> bool:
    # Such a process gets the signal from its parent, and once more if all processes of a group get
    # it, as with systemd: so a second signal does not mean that the exit is urgent.
    processes = sys.modules.get("multiprocessing.process")
    return processes is not None and processes.parent_process() is not None


def _exit(signum: int, frame: FrameType | None) -> None:
    _Told.heard = True
    if not _is_watched():
        signal.signal(signum, signal.SIG_DFL)
    if not _is_exiting() and not is_waiting_for_threads(frame):
        # The exit code that a shell reports for a process that the signal ended.
        raise SystemExit(128 + signum)
