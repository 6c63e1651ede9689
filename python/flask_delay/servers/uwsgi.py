"""uWSGI: which of its settings tasks cannot live with.

uWSGI is the process that Python is embedded in: it may never let go of the GIL while it waits
for requests, and it may end without Python's own end.
"""

import importlib
import sys
import warnings
from collections.abc import Callable
from typing import Any

from flask_delay._native import _end

_THREADS = (
    "uWSGI runs without threads, so tasks go on only while a request is handled. Set"
    " enable-threads = true (--enable-threads)"
)
_SKIPS = (
    "uWSGI's skip-atexit ends a worker without a look at its tasks: those it has accepted are"
    " lost then. Remove that setting; see skip-atexit-teardown"
)
# What was warned of; a message is said once in a process.
_said: set[str] = set()


def problems() -> list[str]:
    """What of uWSGI's settings tasks cannot live with; nothing if this is not uWSGI."""
    names = _options()
    if names is None:
        return []
    found = []
    # Recent ones have threads by default, and tell.
    if not getattr(sys.modules["uwsgi"], "has_threads", names & {"enable-threads", "threads"}):
        found.append(_THREADS)
    if "skip-atexit" in names:
        found.append(_SKIPS)
    return found


def check(*, forked: Callable[[], object], ended: Callable[[], object]) -> None:
    """Say once what of uWSGI's settings tasks cannot live with, if this is uWSGI.

    `forked` is called in each worker that uWSGI forks, which it does without Python's hooks;
    `ended` in a uWSGI that leaves out Python's own end, before tasks are waited for.
    """
    for problem in problems():
        _say(problem)
    names = _options() or set()
    if "skip-atexit-teardown" in names and "skip-atexit" not in names:
        server = sys.modules["uwsgi"]
        if not hasattr(server, "flask_delay_ends"):
            _end_with(server, ended)
    _after_fork(forked)


def _after_fork(forked: Callable[[], object]) -> None:
    server: Any = sys.modules.get("uwsgi")
    if _options() is None or hasattr(server, "flask_delay_goes_on"):
        return
    server.flask_delay_goes_on = True
    try:
        # Has a list, and would replace a hook of ours.
        postfork = importlib.import_module("uwsgidecorators").postfork
    except Exception:
        # It is not there, or not for uWSGI without its master process.
        existing = getattr(server, "post_fork_hook", None)

        def go_on() -> None:
            if existing is not None:
                existing()
            forked()

        server.post_fork_hook = go_on
    else:
        postfork(forked)


def _options() -> set[str] | None:
    """The names of the settings, or None if this is not uWSGI."""
    options = getattr(sys.modules.get("uwsgi"), "opt", None)
    # Anything else of that name is not the server.
    if not isinstance(options, dict):
        return None
    # Older ones give bytes.
    return {name.decode() if isinstance(name, bytes) else name for name in options}


def _end_with(uwsgi: Any, ended: Callable[[], object]) -> None:
    """Have tasks waited for in a uWSGI that leaves out Python's own end."""
    existing = getattr(uwsgi, "atexit", None)

    def end() -> None:
        try:
            if existing is not None:
                existing()
        finally:
            ended()
            _end()

    uwsgi.atexit = end
    uwsgi.flask_delay_ends = True


def _say(message: str) -> None:
    if message not in _said:
        _said.add(message)
        # Points at the line that called init_app.
        warnings.warn(message, RuntimeWarning, stacklevel=4)
