"""A process's view of a Celery app: connections to its broker, and one listener for results.

Celery stores the outcome of a task in Redis and publishes it there, on the task's own channel. One
thread listens to the channels of all unfinished tasks. After each confirmed subscription it reads
the stored state. So the order of subscription and result does not matter, and no result is missed
when the connection was lost.
"""

import contextlib
import heapq
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import redis
from celery import Celery, states
from flask import Flask
from kombu.exceptions import LimitExceeded, OperationalError
from kombu.pools import ProducerPool

from flask_delay._native import DuplicateTask, Future, _RemoteTask
from flask_delay.backends.base import BrokerUnavailable
from flask_delay.backends.celery import connections, messages, results
from flask_delay.backends.celery.buffer import Buffer
from flask_delay.backends.celery.results import Results, Stored
from flask_delay.backends.message import TaskMessage
from flask_delay.logs import log as _log
from flask_delay.observe.view import TaskView

# Seconds. The longest wait of the listener before it checks for a missed wake-up.
_LOOK = 1.0
_PAUSES = (0.1, 5.0)


class Client:
    """See the module. Starts its thread with the first task."""

    def __init__(self, celery: Celery, app: Flask, *, buffers: bool) -> None:
        self._celery = celery
        self._app = app
        backend: Any = celery.backend
        self._client = connections.to_results(backend.client)
        self._results = Results(celery, self._client, app)
        connection = connections.to_broker(celery)
        self.is_redis: bool = connection.transport.driver_type == "redis"
        pool: Any = ProducerPool
        # Without a pool (0 or None), one connection is kept all the same.
        limit = celery.conf.broker_pool_limit or 1
        self._producers = pool(
            connection.Pool(limit=limit), limit=limit, Producer=celery.amqp.Producer
        )
        self._unreachable = (
            *connection.connection_errors,
            *connection.channel_errors,
            LimitExceeded,
            OperationalError,
            redis.RedisError,
            OSError,
        )
        self._buffer = Buffer(
            self._send_held, self._unreachable, lambda it: self._channel(it.id) in self._pending
        )
        self._buffers = buffers
        # By the channel, which is also the key of the stored result.
        self._pending: dict[str, _RemoteTask] = {}
        # Channels that are new, or that other threads than the listener have removed.
        self._changed: deque[str] = deque()
        # When tasks with `expires` expire: the new ones, and those that the listener knows.
        self._expiring: deque[tuple[float, str]] = deque()
        self._deadlines: list[tuple[float, str]] = []
        self._bell = f"flask-delay-{uuid.uuid4()}"
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    def publish(self, handle: _RemoteTask, message: TaskMessage) -> None:
        """Send a task, and update `handle` from now on.

        Raises BrokerUnavailable, and DuplicateTask if another task has the id.
        """
        channel = self._channel(message.id)
        if self._pending.setdefault(channel, handle) is not handle:
            raise DuplicateTask(f"there is a task with the id {message.id!r} already")
        self._note_expiry(message.id, message.expires)
        try:
            # Before the message is sent, so that no result is missed.
            self._listen_to(channel)
            if self._buffer.is_empty() or not self._buffer.keep(message):
                self._send(message)
        except self._unreachable as error:
            if self._buffers and self._buffer.keep(message):
                return
            self._forget(channel)
            raise BrokerUnavailable(
                f"task {message.name!r} was not accepted: the broker {self._where()} or the"
                f" results' Redis cannot be reached ({error})"
            ) from error
        except DuplicateTask:
            self._forget(channel)
            raise

    def look(self, id: str) -> TaskView | None:
        """The state of the task with this id, whichever process has sent it; None if unknown.

        Raises BrokerUnavailable.
        """
        found = self._stored(id)
        return None if found is None else found.view

    def follow(
        self, id: str, make: Callable[[str, str, Callable[[bool], object]], _RemoteTask]
    ) -> Future[Any] | None:
        """A future of the task with this id, which is updated from now on; None if unknown.

        It is one that there is already, or that of `make(id, name, recall)`. Raises
        BrokerUnavailable.
        """
        channel = self._channel(id)
        # A second one would take the updates of the first.
        if (known := self._pending.get(channel)) is not None:
            return known.future
        found = self._stored(id)
        if found is None:
            return None
        made = make(id, found.view.name, lambda terminate: self.recall(id, terminate=terminate))
        if _update(made, found.status, found.view):
            return made.future
        handle = self._pending.setdefault(channel, made)
        if handle is made:
            self._note_expiry(id, found.expires)
            self._listen_to(channel)
            # In case the listener sleeps: it reads the state again once it has subscribed.
            with self._reaching():
                self._client.publish(self._bell, b"")
        return handle.future

    def recall(self, id: str, *, terminate: bool, reason: str = "revoked") -> None:
        """Revoke a task, or end it where it runs. Logs if the message cannot be sent."""
        self._forget(self._channel(id))
        try:
            with self._producers.acquire(block=True) as producer:
                # As Celery's `control.revoke`, which would open a connection of its own.
                mailbox = self._celery.control.mailbox(producer.connection)
                mailbox.producer_pool = self._producers
                mailbox.abcast("revoke", {"task_id": id, "terminate": terminate, "signal": "TERM"})
            self._results.revoke(id, reason)
        except self._unreachable as error:
            _log.warning(
                "task %s was cancelled, but the broker cannot be told, so it may run all the"
                " same: %s",
                id,
                error,
            )

    def close(self, wait: bool, *, cancel_futures: bool) -> None:
        """End the thread; with `cancel_futures`, first cancel the tasks that have not begun."""
        if cancel_futures:
            for handle in list(self._pending.values()):
                handle.future.cancel()
        self._closed.set()
        self._buffer.close(wait)
        thread = self._thread
        if thread is None:
            return
        # Otherwise it notices by itself, a moment later.
        with contextlib.suppress(*self._unreachable):
            self._client.publish(self._bell, b"")
        if wait and thread is not threading.current_thread():
            thread.join()
        self._producers.force_close_all()

    def _send(self, message: TaskMessage) -> None:
        """Make the task known, and send its message."""
        handle = self._pending.get(self._channel(message.id))
        name = message.name if handle is None else handle.future.name
        # Wakes the listener too.
        self._results.announce(message, name, self._bell)
        try:
            self._send_message(message)
        except self._unreachable:
            with contextlib.suppress(*self._unreachable):
                self._results.withdraw(message.id)
            raise

    def _send_held(self, message: TaskMessage) -> None:
        try:
            self._send(message)
        except DuplicateTask as error:
            # Too late to refuse it.
            handle = self._pending.pop(self._channel(message.id), None)
            if handle is not None:
                handle.fail(error)

    def _send_message(self, message: TaskMessage) -> None:
        # As Celery's `send_task`, which would subscribe each publishing thread to results that it
        # never reads.
        id, name, args, kwargs = message.id, message.name, message.args, dict(message.kwargs)
        amqp = self._celery.amqp
        made = messages.options(message, is_redis=self.is_redis)
        options = amqp.router.route(made, name, args, kwargs)
        headers = options.pop("headers")
        limits = {key: options.pop(key, None) for key in messages.LIMITS}
        body = amqp.as_task_v2(
            id,
            name,
            args,
            kwargs,
            root_id=id,
            create_sent_event=self._celery.conf.task_send_sent_event,
            **limits,
        )
        with self._producers.acquire(block=True) as producer:
            amqp.send_task_message(
                producer,
                name,
                body,
                headers=headers,
                serializer="json",
                retry=True,
                retry_policy=connections.ONCE_MORE,
                **options,
            )

    def _where(self) -> str:
        where: str = self._celery.connection_for_write().as_uri()
        return where

    def _channel(self, id: str) -> str:
        return self._results.channel(id)

    # --- Results ---

    def _stored(self, id: str) -> Stored | None:
        with self._reaching():
            return self._results.find(id)

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except (redis.RedisError, OSError) as error:
            where = self._celery.backend.as_uri()
            raise BrokerUnavailable(
                f"the results' Redis {where} cannot be reached: {error}"
            ) from error

    def _note_expiry(self, id: str, expires: float | None) -> None:
        if expires is not None:
            end = time.monotonic() + (expires - time.time()) + results.GRACE
            self._expiring.append((end, id))

    def _forget(self, channel: str) -> None:
        self._pending.pop(channel, None)
        self._changed.append(channel)

    def _listen_to(self, channel: str) -> None:
        """Have the listener subscribe to this channel, once it is woken."""
        self._changed.append(channel)
        with self._lock:
            if self._thread is None:
                # A daemon: published tasks continue without it, so the exit need not wait.
                self._thread = threading.Thread(
                    target=self._listen, name="delay-celery", daemon=True
                )
                self._thread.start()

    def _listen(self) -> None:
        pause = _PAUSES[0]
        while not self._closed.is_set():
            began = time.monotonic()
            try:
                self._follow()
            except (redis.RedisError, OSError) as error:
                if time.monotonic() - began > _PAUSES[1]:
                    # The connection had worked, so the pauses start again at the shortest.
                    pause = _PAUSES[0]
                _log.warning(
                    "results of Celery tasks cannot be heard of, tried again in %.1f s: %s",
                    pause,
                    error,
                )
                self._closed.wait(pause)
                pause = min(pause * 2, _PAUSES[1])
            except Exception:
                _log.exception("the listener for results of Celery tasks begins anew")
                self._closed.wait(_PAUSES[1])

    def _follow(self) -> None:
        with self._client.pubsub() as pubsub:
            self._changed.clear()
            pubsub.subscribe(self._bell, *list(self._pending))
            while not self._closed.is_set():
                message = pubsub.get_message(timeout=_LOOK)
                if message is not None:
                    self._take(pubsub, message)
                changed = {self._changed.popleft() for _ in range(len(self._changed))}
                if fresh := [channel for channel in changed if channel in self._pending]:
                    pubsub.subscribe(*fresh)
                if stale := changed.difference(fresh):
                    pubsub.unsubscribe(*stale)
                self._give_up_expired()

    def _take(self, pubsub: Any, message: Mapping[str, Any]) -> None:
        channel = message["channel"].decode()
        if channel == self._bell:
            return
        data = message["data"] if message["type"] == "message" else None
        if message["type"] == "subscribe":
            data = self._client.get(channel)
        if data is not None and self._is_over(channel, data):
            pubsub.unsubscribe(channel)

    def _give_up_expired(self) -> None:
        """End the futures of expired tasks that no worker has begun: their messages are lost."""
        while self._expiring:
            heapq.heappush(self._deadlines, self._expiring.popleft())
        while self._deadlines and self._deadlines[0][0] <= time.monotonic():
            _, id = heapq.heappop(self._deadlines)
            channel = self._channel(id)
            handle = self._pending.get(channel)
            if handle is None or handle.future.state != "pending":
                continue
            data = self._client.get(channel)
            if data is not None and not self._is_waiting(data):
                if self._is_over(channel, data):
                    self._changed.append(channel)
                continue
            # In case its message is still in the queue.
            self.recall(id, terminate=False, reason="expired")
            handle.fail(results.expired(handle.future.name))

    def _is_waiting(self, data: bytes) -> bool:
        """Whether no worker has begun the task."""
        return bool(self._results.decode(data)["status"] == states.PENDING)

    def _is_over(self, channel: str, data: bytes) -> bool:
        """Update a task's future from a message; return whether the task is over."""
        handle = self._pending.get(channel)
        if handle is None:
            return True
        try:
            meta = self._results.decode(data)
            # Not by the future's id: to ask for that is to keep the future.
            view = results.view_of(channel, handle.future.name, meta, self._app)
            is_over = _update(handle, meta["status"], view)
        except Exception as error:
            # Not JSON, or not in Celery's form.
            handle.fail(error)
            is_over = True
        if is_over:
            self._pending.pop(channel, None)
        return is_over


def _update(handle: _RemoteTask, status: str, view: TaskView) -> bool:
    """Update a task's future to match the view; return whether the task is over."""
    if view.state == "running":
        handle.start()
    if view.progress is not None:
        # Before the end, so that callbacks see it.
        handle.progress(*view.progress)
    if view.state == "cancelled":
        handle.abandon()
    elif view.error is not None:
        handle.fail(view.error)
    elif view.is_over:
        handle.finish(view.result)
    elif status == states.RETRY:
        handle.again()
    return view.is_over
