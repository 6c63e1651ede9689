"""uWSGI: its settings that break tasks.

uWSGI is a process that embeds Python: it may never release the GIL while it waits for requests, and
it may exit without Python's own exit.
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
# The messages shown so far; each is shown once in a process.
_said: set[str] = set()


def problems() -> list[str]:
    """The uWSGI settings that break tasks; empty if this is not uWSGI."""
    names = _options()
    if names is None:
        return []
    found = []
    # Recent versions have threads by default, and report it.
    if not getattr(sys.modules["uwsgi"], "has_threads", names & {"enable-threads", "threads"}):
        found.append(_THREADS)
    if "skip-atexit" in names:
        found.append(_SKIPS)
    return found


def check(*, forked: Callable[[], object], ended: Callable[[], object]) -> None:
    """Warn once about uWSGI settings that break tasks, if this is uWSGI.

    `forked` is called in each worker that uWSGI forks, which it does without Python's hooks;
    `ended` in a uWSGI that skips Python's own exit, before the wait for tasks.
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
        # It keeps a list, and would replace a hook set here.
        postfork = importlib.import_module("uwsgidecorators").postfork
    except Exception:
        # Not installed, or of no use without uWSGI's master process.
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
    # Older versions give bytes.
    return {name.decode() if isinstance(name, bytes) else name for name in options}


def _end_with(uwsgi: Any, ended: Callable[[], object]) -> None:
    """Wait for tasks in a uWSGI that skips Python's own exit."""
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
