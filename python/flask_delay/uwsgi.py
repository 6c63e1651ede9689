"""uWSGI: which of its settings tasks cannot live with.

uWSGI is the process that Python is embedded in: it may never let go of the GIL while it waits
for requests, and it may end without Python's own end.
"""

import sys
import warnings
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


def check() -> None:
    """Say once what of uWSGI's settings tasks cannot live with, if this is uWSGI."""
    uwsgi = sys.modules.get("uwsgi")
    options = getattr(uwsgi, "opt", None)
    # Anything else of that name is not the server.
    if uwsgi is None or not isinstance(options, dict):
        return
    # Older ones give bytes.
    names = {name.decode() if isinstance(name, bytes) else name for name in options}
    # Recent ones have threads by default, and tell.
    if not getattr(uwsgi, "has_threads", names & {"enable-threads", "threads"}):
        _say(_THREADS)
    if "skip-atexit" in names:
        _say(_SKIPS)
    elif "skip-atexit-teardown" in names and not hasattr(uwsgi, "flask_delay_ends"):
        _end_with(uwsgi)


def _end_with(uwsgi: Any) -> None:
    """Have tasks waited for in a uWSGI that leaves out Python's own end."""
    existing = getattr(uwsgi, "atexit", None)

    def end() -> None:
        try:
            if existing is not None:
                existing()
        finally:
            _end()

    uwsgi.atexit = end
    uwsgi.flask_delay_ends = True


def _say(message: str) -> None:
    if message not in _said:
        _said.add(message)
        # Points at the line that called init_app.
        warnings.warn(message, RuntimeWarning, stacklevel=4)
