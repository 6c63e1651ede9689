"""gevent: what it makes of the threads that tasks run on.

Where gevent has patched the standard library, a task runs on a native thread all the same.
What it calls of the patched modules waits on an event loop, a "hub", that gevent makes for
that thread.
"""

import sys
import warnings

from flask_delay._native import _set_departure_hook

_MESSAGE = (
    "gevent has patched threads. The tasks of Flask-Delay run on native threads all the same,"
    " side by side with the greenlets: future.result() lets other greenlets run, and what"
    " waits in a task holds up no request; but greenlets, queues and pools of gevent belong to"
    " the thread that made them, so none may be shared with a task"
)
_warned = False


def check() -> None:
    """Say once how tasks behave, if gevent has patched threads."""
    global _warned  # noqa: PLW0603
    monkey = sys.modules.get("gevent.monkey")
    if _warned or monkey is None or not monkey.is_module_patched("threading"):
        return
    _warned = True
    # Points at the line that called init_app.
    warnings.warn(_MESSAGE, RuntimeWarning, stacklevel=3)


def _leave() -> None:
    """Take the thread's hub apart; gevent itself would leave its files open for ever."""
    hubs = sys.modules.get("gevent._hub_local")
    if hubs is not None:
        hub = hubs.get_hub_if_exists()
        if hub is not None:
            hub.destroy(destroy_loop=True)


_set_departure_hook(_leave)
