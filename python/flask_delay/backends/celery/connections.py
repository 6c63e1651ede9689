"""Connections of a process to a Celery app's broker and results, which say at once if it is down.

Celery's own would try for ever, and redis-py for seconds, while a request waits.
"""

from typing import Any

import redis
from celery import Celery
from kombu.transport import redis as kombus
from redis.backoff import NoBackoff
from redis.retry import Retry

# Seconds. A broker that is there answers in a thousandth of that. Each is tried twice.
_CONNECT = 0.5
_ANSWER = 1.0
ONCE_MORE = {"max_retries": 1, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.1}
"""How kombu tries: again, since a connection may be one to a server that was there before."""


def _once_more() -> Retry:
    return Retry(NoBackoff(), 1)


class _Connection(redis.Connection):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["retry"] = _once_more()
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]


class _SSLConnection(redis.SSLConnection):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["retry"] = _once_more()
        super().__init__(*args, **kwargs)


class _Channel(kombus.Channel):
    connection_class = _Connection
    connection_class_ssl = _SSLConnection


class _Transport(kombus.Transport):
    Channel = _Channel


def to_broker(celery: Celery) -> Any:
    """A connection to the broker, of kombu's, which is not open yet."""
    is_redis = celery.connection_for_write().transport_cls in {"redis", "rediss"}
    limits: dict[str, Any] = dict(ONCE_MORE)
    if is_redis:
        limits |= {"socket_connect_timeout": _CONNECT, "socket_timeout": _ANSWER}
    connection = celery.connection_for_write(connect_timeout=_CONNECT, transport_options=limits)
    if is_redis:
        connection.transport_cls = _Transport
    return connection


def to_results(client: Any) -> Any:
    """A client of the Redis that `client` is one of."""
    pool = client.connection_pool
    if type(pool) is not redis.ConnectionPool:
        # Of Sentinel's, whose connections belong to it.
        return client
    options = {
        **pool.connection_kwargs,
        "retry": _once_more(),
        "socket_connect_timeout": _CONNECT,
        "socket_timeout": _ANSWER,
    }
    return redis.Redis(
        connection_pool=redis.ConnectionPool(connection_class=pool.connection_class, **options)
    )
