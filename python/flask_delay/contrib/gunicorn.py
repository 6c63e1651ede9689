"""Hooks for gunicorn: what becomes of tasks when it runs out of patience with a worker.

In `gunicorn.conf.py`:

    from flask_delay.contrib.gunicorn import (  # noqa: F401
        post_worker_init, worker_abort, worker_exit, worker_int,
    )

Without them accepted tasks end first as well, but a worker whose tasks take too long is killed
without a word. With them

- a worker that was told to end (a stop, a reload) stops waiting for tasks shortly before
  gunicorn kills it, and names in one warning those that did not finish;
- so does one that is stopped a second time (SIGINT or SIGQUIT after SIGTERM), or that gunicorn
  aborts, since it has not answered for `timeout` seconds;
- a worker that waits for tasks counts as alive: when it is recycled (`max_requests`) or
  reloaded, tasks have all of `SHUTDOWN_TIMEOUT`, and not what happens to be left of `timeout`;
- settings that leave tasks less time than `SHUTDOWN_TIMEOUT` are named when a worker starts.

A hook of your own under one of these names calls the one from here, with its own arguments.
"""

from flask_delay import state
from flask_delay.servers.gunicorn import Hooks

__all__ = ["post_worker_init", "worker_abort", "worker_exit", "worker_int"]

_hooks = Hooks(state.limits)
post_worker_init = _hooks.post_worker_init
worker_int = _hooks.worker_int
worker_abort = _hooks.worker_abort
worker_exit = _hooks.worker_exit
