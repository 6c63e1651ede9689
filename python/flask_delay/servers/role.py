"""The role of a process: jobs and durable tasks run in processes that serve."""

import inspect
import os
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

from flask_delay.servers.cpython import main_stack, stack, stack_of

# The function of this module that the main thread of such a process is in.
_RELOADER = ("werkzeug._reloader", "restart_with_reloader")
_ARBITER = "gunicorn.arbiter"
# A command of `flask`, and the command that serves.
_LOAD = ("flask.cli", "load_app")
_RUN = ("flask.cli", "run_command")
# Werkzeug's server, which `flask run` starts too: its start, its reloader, and its loop.
_STARTS = frozenset({_RUN, ("werkzeug.serving", "run_simple")})
_RELOADS = ("werkzeug._reloader", "run_with_reloader")
_SERVES = ("werkzeug.serving", "serve_forever")

# Servers whose workers are processes of `multiprocessing`, by their packages.
_SERVERS = frozenset({"granian", "hypercorn", "uvicorn"})

# Seconds that a program has to make its app.
_PROGRAM = 1.0

_works_for: str | None = None
_after_fork: list[Callable[[], object]] = []


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


def is_starting() -> bool:
    """Whether the main thread starts Werkzeug's server, which does not serve yet.

    With its reloader, such a process may be about to watch another one. May be called from any
    thread.
    """
    names = {name for _, name in main_stack()}
    if names.isdisjoint(_STARTS) or _SERVES in names:
        return False
    # The process that the reloader starts serves in another thread.
    return _RELOADS not in names or os.environ.get("WERKZEUG_RUN_MAIN") != "true"


def loads_for_a_command() -> bool:
    """Whether this thread loads the app for a command of `flask` other than `run`.

    False while the command itself runs.
    """
    names = [name for _, name in stack(inspect.currentframe())]
    return _LOAD in names and _RUN not in names


def is_bystander() -> bool:
    """Whether this process leaves the work to others: it watches them, or is a backend's worker."""
    return watches_only() or works_for() is not None


def is_child() -> bool:
    """Whether `multiprocessing` started this process, for work other than serving."""
    module = sys.modules.get("multiprocessing.process")
    if module is None or module.parent_process() is None:
        return False
    return all(_root(name) not in _SERVERS for _, (name, _) in main_stack())


def will_change_user() -> bool:
    """Whether this is a worker of gunicorn that still has the rights of its arbiter."""
    for frame, (module, _) in main_stack():
        if module == _ARBITER:
            uid = getattr(getattr(frame.f_locals.get("self"), "cfg", None), "uid", None)
            return uid is not None and uid != os.geteuid()
    return False


def making() -> Callable[[], bool]:
    """A function that tells whether the app is still being made by the code that calls now.

    That is the outermost code of the caller's package: a module that is imported, or a function. A
    program that makes its app itself goes on as long as the process does, and has a second. Under
    Werkzeug's server the app is made when it serves, since until then it may come to watch only.
    """
    frames = [
        (frame, module, name)
        for frame, (module, name) in stack(inspect.currentframe())
        if _root(module) != _root(__name__)
    ]
    own = [
        frame
        for frame, module, name in frames
        if _root(module) == _root(frames[0][1]) and (module, name) != ("__main__", "<module>")
    ]
    # Not the frame itself, which would keep the objects of that code alive.
    maker = (id(own[-1]), own[-1].f_code) if own else None
    thread, end = threading.get_ident(), time.monotonic() + _PROGRAM

    def is_making() -> bool:
        if is_starting():
            return True
        if maker is None:
            return time.monotonic() < end
        return any((id(frame), frame.f_code) == maker for frame, _ in stack_of(thread))

    return is_making


def _root(module: str) -> str:
    return module.partition(".")[0]


def after_fork(call: Callable[[], object]) -> None:
    """Have `call()` called in each process that is forked from this one, as the last so far."""
    _after_fork.append(call)


def forked() -> None:
    """Do what follows a fork. For a server that forks without Python's hooks."""
    for call in _after_fork:
        call()


os.register_at_fork(after_in_child=forked)


def _is_watching(frame: FrameType, name: tuple[str, str]) -> bool:
    if name == _RELOADER:
        return True
    if name[0] != _ARBITER:
        return False
    # The same frames are on the stack of its forked workers. While the arbiter loads the app, it
    # has not noted its id yet.
    pid = getattr(frame.f_locals.get("self"), "pid", None)
    return pid is None or pid == os.getpid()
