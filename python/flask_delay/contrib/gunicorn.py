"""Hooks for gunicorn, for workers that it would kill while tasks still run.

In `gunicorn.conf.py`:

    from flask_delay.contrib.gunicorn import (  # noqa: F401
        post_worker_init, worker_abort, worker_exit, worker_int,
    )

Without the hooks accepted tasks end first as well, but gunicorn kills a worker whose tasks take too
long, and nothing is logged. With the hooks

- a worker that was told to end (a stop, a reload) stops waiting for tasks shortly before
  gunicorn kills it, and names the unfinished tasks in one warning;
- so does a worker that is stopped a second time (SIGINT or SIGQUIT after SIGTERM), or that gunicorn
  aborts because it has not answered for `timeout` seconds;
- a worker that waits for tasks counts as alive: when it is recycled (`max_requests`) or
  reloaded, tasks have all of `SHUTDOWN_TIMEOUT`, and not only the rest of `timeout`;
- a worker names at its start the settings that leave tasks less time than `SHUTDOWN_TIMEOUT`.

If you define a hook of your own under one of these names, call the one from here in it, with the
same arguments.
"""

from flask_delay import state
from flask_delay.servers.gunicorn import Hooks

__all__ = ["post_worker_init", "worker_abort", "worker_exit", "worker_int"]

_hooks = Hooks(state.limits)
post_worker_init = _hooks.post_worker_init
worker_int = _hooks.worker_int
worker_abort = _hooks.worker_abort
worker_exit = _hooks.worker_exit
