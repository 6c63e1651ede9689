"""The role of a process: processes that do not serve leave the jobs to those that do."""

import inspect
import os
import sys
from types import FrameType

from flask_delay.servers.cpython import main_stack, stack

# The function of this module that the main thread of such a process is in.
_RELOADER = ("werkzeug._reloader", "restart_with_reloader")
_ARBITER = "gunicorn.arbiter"
# A command of `flask`, and the command that serves.
_LOAD = ("flask.cli", "load_app")
_RUN = ("flask.cli", "run_command")

_works_for: str | None = None


def work_for(backend: str) -> None:
    """Mark this process as a worker of that backend: it runs the backend's tasks itself."""
    global _works_for  # noqa: PLW0603 (what a process is)
    _works_for = backend


def works_for() -> str | None:
    """The backend of which this process is a worker; None if it serves."""
    return _works_for


def watches_only() -> bool:
    """Whether this process only starts and watches other processes that serve the same app.

    These are gunicorn's arbiter with `--preload`, uWSGI's master, and the outer process of
    Werkzeug's reloader. May be called from any thread.
    """
    server = sys.modules.get("uwsgi")
    if server is not None and getattr(server, "worker_id", lambda: 1)() == 0:
        return True
    # Only the stack shows it.
    return any(_is_watching(frame, name) for frame, name in main_stack())


def loads_for_a_command() -> bool:
    """Whether this thread loads the app for a command of `flask` other than `run`.

    False while the command itself runs.
    """
    names = [name for _, name in stack(inspect.currentframe())]
    return _LOAD in names and _RUN not in names


def _is_watching(frame: FrameType, name: tuple[str, str]) -> bool:
    if name == _RELOADER:
        return True
    if name[0] != _ARBITER:
        return False
    # The same frames are on the stack of its forked workers. While the arbiter loads the app, it
    # has not noted its id yet.
    pid = getattr(frame.f_locals.get("self"), "pid", None)
    return pid is None or pid == os.getpid()
