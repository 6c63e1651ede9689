"""SIGTERM where no server handles it: leave as at the end of the program.

The default disposition ends the process on the spot, and running and queued tasks with
it. Turned into a `SystemExit`, the signal takes the interpreter's own way out, on which
the native module lets accepted tasks end.
"""

import signal
import sys
import threading
from types import FrameType

from flask_delay._native import _is_exiting
from flask_delay.servers import uvicorn, werkzeug
from flask_delay.servers.cpython import before_threads_end, is_waiting_for_threads


def drain_on_sigterm() -> None:
    """Turn SIGTERM into an orderly exit, with exit code 143, if nobody handles it.

    A handler that exists already, a server's above all, is left alone, and so is
    everything when not in the main thread, where Python allows no handlers. But for
    uvicorn's, see there.

    The handler runs in the main thread, between two bytecodes of whatever runs there, and
    takes no lock, so it cannot deadlock with it. If the interpreter is on its way out
    already, functions of `atexit` included, it leaves it at that. A forked child inherits the
    handler and ends its own tasks in the same way. A second SIGTERM ends the process at once,
    unless `multiprocessing` has started it.
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
    """What is known of SIGTERM in this process."""

    # Whether our handler was there, and whether it has been called.
    listened = False
    heard = False


def _listen_again() -> None:
    """Have our handler there while tasks end, also where an event loop has replaced it.

    An event loop that goes leaves the default behind: SIGTERM would cut off what hypercorn's
    workers have to do still, and hypercorn sends it to all of them as soon as one has ended.
    """
    if _Told.listened and not _Told.heard and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _exit)


# Called in the main thread, before the native module has tasks end, since it is the newer one.
before_threads_end(_listen_again)


def _is_watched() -> bool:
    # Such a process gets the signal from the one that has started it, and does so once more if
    # all processes of a group get it, as systemd has it: a second one is no sign of haste.
    processes = sys.modules.get("multiprocessing.process")
    return processes is not None and processes.parent_process() is not None


def _exit(signum: int, frame: FrameType | None) -> None:
    _Told.heard = True
    if not _is_watched():
        signal.signal(signum, signal.SIG_DFL)
    if not _is_exiting() and not is_waiting_for_threads(frame):
        # What a shell reports for a process that the signal ended.
        raise SystemExit(128 + signum)
