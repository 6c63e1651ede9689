"""How many requests a process handles at the same time: what a long answer may take of it."""

import re
import threading
from collections.abc import Mapping
from typing import Any

from flask_delay.servers import gevent
from flask_delay.servers.cpython import main_stack

_GUNICORN = "gunicorn.workers.gthread"
_GRANIAN = ("granian.server.mp", "_spawn_wsgi_worker")
# Threads of one pool have the same name, but for the number at its end.
_NUMBER = re.compile(r"\d+$")


def at_once(environ: Mapping[str, Any]) -> int | None:
    """How many requests this process can handle at the same time; None if nothing limits it.

    `environ` is that of a request that the calling thread handles. If the server does not tell, it
    is the number of threads that the server has so far.
    """
    if gevent.is_patched():
        # A greenlet for each request.
        return None
    if not environ.get("wsgi.multithread"):
        return 1
    if "werkzeug" in str(environ.get("SERVER_SOFTWARE", "")).lower():
        # A thread for each request.
        return None
    for frame, (module, name) in main_stack():
        if module == _GUNICORN:
            threads = getattr(getattr(frame.f_locals.get("self"), "cfg", None), "threads", None)
        elif (module, name) == _GRANIAN:
            threads = frame.f_locals.get("blocking_threads")
        else:
            continue
        if isinstance(threads, int):
            return threads
    return _threads_like_this()


def _threads_like_this() -> int:
    own = _NUMBER.sub("", threading.current_thread().name)
    return sum(_NUMBER.sub("", it.name) == own for it in threading.enumerate())
