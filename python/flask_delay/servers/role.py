"""Which processes do not serve, and leave the jobs to those that do."""

import os
import sys
import threading
from types import FrameType

# Where the main thread of such a process is: in a function of this module.
_RELOADER = ("werkzeug._reloader", "restart_with_reloader")
_ARBITER = "gunicorn.arbiter"

_works_for: str | None = None


def work_for(backend: str) -> None:
    """Say that this process is a worker of that backend: it runs the backend's tasks itself."""
    global _works_for  # noqa: PLW0603 (what a process is)
    _works_for = backend


def works_for() -> str | None:
    """The backend that this process is a worker of; None if it serves."""
    return _works_for


def watches_only() -> bool:
    """Whether this process starts and watches others that serve the same app.

    gunicorn's arbiter with `--preload`, uWSGI's master, the outer one of Werkzeug's two
    processes with its reloader. May be called from any thread.
    """
    server = sys.modules.get("uwsgi")
    if server is not None and getattr(server, "worker_id", lambda: 1)() == 0:
        return True
    # It shows nowhere but on the stack.
    frame = sys._current_frames().get(threading.main_thread().ident or 0)  # noqa: SLF001
    while frame is not None:
        if _is_watching(frame):
            return True
        frame = frame.f_back
    return False


def loads_for_a_command() -> bool:
    """Whether the app is being loaded here, in this thread, for a command of `flask` but `run`.

    What the command itself does is something else.
    """
    frame: FrameType | None = sys._getframe()  # noqa: SLF001
    loading = False
    while frame is not None:
        if frame.f_globals.get("__name__") == "flask.cli":
            if frame.f_code.co_name == "run_command":
                return False
            loading |= frame.f_code.co_name == "load_app"
        frame = frame.f_back
    return loading


def _is_watching(frame: FrameType) -> bool:
    module = frame.f_globals.get("__name__")
    if (module, frame.f_code.co_name) == _RELOADER:
        return True
    if module != _ARBITER:
        return False
    # In its workers, which it has forked, the same frames are to be seen. While it loads
    # the app, it has not noted its id yet.
    pid = getattr(frame.f_locals.get("self"), "pid", None)
    return pid is None or pid == os.getpid()
