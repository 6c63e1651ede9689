"""Connections to a Celery app's broker and results, which report at once if these are down.

Celery's own connections would retry forever, and redis-py for seconds, while a request waits.
"""

from typing import Any

import redis
from celery import Celery
from kombu.transport import redis as kombus
from redis.backoff import NoBackoff
from redis.retry import Retry

# Seconds. A reachable broker answers in a thousandth of that. Each connection is tried twice.
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
    """An unopened connection of kombu to the broker."""
    is_redis = celery.connection_for_write().transport_cls in {"redis", "rediss"}
    limits: dict[str, Any] = dict(ONCE_MORE)
    if is_redis:
        limits |= {"socket_connect_timeout": _CONNECT, "socket_timeout": _ANSWER}
    connection = celery.connection_for_write(connect_timeout=_CONNECT, transport_options=limits)
    if is_redis:
        connection.transport_cls = _Transport
    return connection


def to_results(client: Any) -> Any:
    """A client for the Redis server of `client`."""
    pool = client.connection_pool
    if type(pool) is not redis.ConnectionPool:
        # Sentinel manages its own connections.
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
