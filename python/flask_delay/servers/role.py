"""Which processes do not serve, and leave the jobs to those that do."""

import inspect
import os
import sys
from types import FrameType

from flask_delay.servers.cpython import main_stack, stack

# Where the main thread of such a process is: in a function of this module.
_RELOADER = ("werkzeug._reloader", "restart_with_reloader")
_ARBITER = "gunicorn.arbiter"
# A command of `flask`, and the one that serves.
_LOAD = ("flask.cli", "load_app")
_RUN = ("flask.cli", "run_command")

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
    return any(_is_watching(frame, name) for frame, name in main_stack())


def loads_for_a_command() -> bool:
    """Whether the app is being loaded here, in this thread, for a command of `flask` but `run`.

    What the command itself does is something else.
    """
    names = [name for _, name in stack(inspect.currentframe())]
    return _LOAD in names and _RUN not in names


def _is_watching(frame: FrameType, name: tuple[str, str]) -> bool:
    if name == _RELOADER:
        return True
    if name[0] != _ARBITER:
        return False
    # In its workers, which it has forked, the same frames are to be seen. While it loads
    # the app, it has not noted its id yet.
    pid = getattr(frame.f_locals.get("self"), "pid", None)
    return pid is None or pid == os.getpid()
