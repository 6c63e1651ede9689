"""What the results' Redis holds of a task: Celery's state of it, and Flask-Delay's record.

Celery stores nothing before a worker begins, so a waiting task would look like an unknown id. A
submit therefore stores Celery's own state PENDING under the task's key, and a record of what Celery
does not keep under another. By these every process finds the task, until Celery's `result_expires`.
"""

import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import redis
from celery import Celery, states
from celery.exceptions import TaskRevokedError
from flask import Flask

from flask_delay._native import DuplicateTask, Progress, TaskExpired
from flask_delay.backends.celery import errors
from flask_delay.backends.message import TaskMessage
from flask_delay.observe.view import TaskView

PROGRESS = "PROGRESS"
"""The state of a task that has said how far it is."""
GRACE = 5.0
"""Seconds after a task's `expires` until an unstarted task is given up: clocks differ."""

# The states that a cancellation may replace: no worker runs the task.
_WAITING = frozenset({states.PENDING, states.RETRY})
# A state of a task's own means that it runs.
_STATES = {
    states.PENDING: "pending",
    states.RETRY: "pending",
    states.SUCCESS: "finished",
    states.FAILURE: "finished",
    states.REVOKED: "cancelled",
}
# The stored result of a task that was revoked because it expired.
_EXPIRED = {"exc_type": "TaskRevokedError", "exc_message": ["expired"]}


class Stored(NamedTuple):
    """A task, as the Redis has it."""

    status: str
    """Celery's word for its state."""
    view: TaskView
    expires: float | None
    """When it may start at the latest, in seconds since 1970."""


class Results:
    """The results of a Celery app, over one client of their Redis.

    The methods raise the errors of redis-py. They may be called from any thread.
    """

    def __init__(self, celery: Celery, client: Any, app: Flask) -> None:
        self._celery = celery
        self._backend: Any = celery.backend
        self._client = client
        self._app = app

    def channel(self, id: str) -> str:
        """The channel of the task's states, which is also the key of the stored one."""
        key = self._backend.get_key_for_task(id)
        return key.decode() if isinstance(key, bytes) else str(key)

    def announce(self, message: TaskMessage, name: str, sender: str) -> None:
        """Make a task known that is about to be sent, and publish to the channel `sender`.

        `name` is the function's. Takes one round trip. A sender may announce a task again. Raises
        DuplicateTask if there is another task with this id.
        """
        key = self.channel(message.id)
        mark = self._packed(message.id, states.PENDING, None, sender=sender).encode()
        record = json.dumps({"name": name, "expires": message.expires})
        seconds = self._seconds(message.eta)
        with self._client.pipeline(transaction=False) as pipe:
            pipe.set(key, mark, nx=True, ex=seconds)
            pipe.set(_record(key), record, nx=True, ex=seconds)
            pipe.publish(sender, b"")
            is_new, *_ = pipe.execute()
        # Not new, and its own: redis-py has tried twice, or the sender has announced it before.
        if not is_new and self._client.get(key) != mark:
            raise DuplicateTask(
                f"there is a task with the id {message.id!r} in Celery's results already: each"
                f" needs one of its own, until the task has been forgotten"
            )

    def withdraw(self, id: str) -> None:
        """Forget a task that was announced and could not be sent."""
        key = self.channel(id)
        self._client.delete(key, _record(key))

    def keep(self, id: str, name: str, progress: Progress) -> None:
        """Store a task's last progress, which its next state will replace where Celery has it."""
        record = json.dumps({"name": name, "progress": progress})
        self._client.set(_record(self.channel(id)), record, ex=self._seconds(None))

    def find(self, id: str) -> Stored | None:
        """The task with this id, whichever process has sent it; None for an unknown one."""
        key = self.channel(id)
        with self._client.pipeline(transaction=False) as pipe:
            data, packed = pipe.get(key).get(_record(key)).execute()
        if data is None:
            return None
        record = {} if packed is None else json.loads(packed)
        name = record.get("name") or id
        try:
            meta = self.decode(data)
            view = view_of(id, name, meta, self._app)
        except Exception as error:
            # Not JSON, or not in Celery's form.
            view = TaskView(id=id, name=name, state="finished", error=error)
            return Stored(states.FAILURE, view, None)
        status, expires = meta["status"], record.get("expires")
        if status == states.PENDING and expires is not None and time.time() > expires + GRACE:
            view = replace(view, state="finished", error=expired(name))
        if view.progress is None and (progress := record.get("progress")):
            view = replace(view, progress=Progress(*progress))
        return Stored(status, view, expires)

    def decode(self, data: bytes) -> Mapping[str, Any]:
        """What Celery has stored or published. Raises the errors of its decoder."""
        # Not `decode_result`, which makes exceptions of its own.
        meta: Mapping[str, Any] = self._backend.decode(data)
        return meta

    def revoke(self, id: str, reason: str) -> None:
        """Store that a task was revoked, unless a worker has begun it.

        A worker would store that too, but not before it comes to the task.
        """
        key = self.channel(id)
        result = self._backend.prepare_exception(TaskRevokedError(reason))
        date = self._celery.now().isoformat()
        revoked = self._packed(id, states.REVOKED, result, date_done=date)
        with self._client.pipeline() as pipe:
            pipe.watch(key)
            stored = pipe.get(key)
            if stored is not None and self.decode(stored)["status"] not in _WAITING:
                return
            pipe.multi()
            pipe.set(key, revoked, ex=self._seconds(None))
            pipe.publish(key, revoked)
            with contextlib.suppress(redis.WatchError):
                pipe.execute()

    def _packed(self, id: str, status: str, result: object, **more: object) -> str:
        """A state in the form in which Celery stores it."""
        meta = {"status": status, "result": result, "traceback": None, "children": [], **more}
        # Not the backend's `encode`, which may compress: two results of that can differ.
        return json.dumps({"date_done": None, **meta, "task_id": id})

    def _seconds(self, eta: float | None) -> int | None:
        """How long to keep what is stored now, for a task that starts no earlier than `eta`."""
        kept: int | None = self._backend.expires
        if not kept:
            return None
        return int(kept + max((eta or 0) - time.time(), 0))


def _record(key: str) -> str:
    # No id has such a key.
    return f"flask-delay-task-{key}"


def view_of(id: str, name: str, meta: Mapping[str, Any], app: Flask) -> TaskView:
    """The state of a task that Celery has stored."""
    status, result = meta["status"], meta["result"]
    state = _STATES.get(status, "running")
    progress = error = value = None
    if status == PROGRESS:
        progress = Progress(result["done"], result["total"], result["note"])
    elif status == states.SUCCESS:
        value = result
    elif status == states.FAILURE:
        error = errors.unpacked(name, meta, app)
    elif status == states.REVOKED and _EXPIRED.items() <= result.items():
        state, error = "finished", expired(name)
    return TaskView(id=id, name=name, state=state, progress=progress, error=error, result=value)


def expired(name: str) -> TaskExpired:
    """The error of a task that has not started in time."""
    return TaskExpired(f"task {name!r} was not started before it expired")
