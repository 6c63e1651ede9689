"""Celery's settings: the app that is made with them, and settings that do not affect tasks.

Tasks are sent without Celery's `apply_async`: as JSON, over connections that report at once when a
broker is down. Settings that lose their effect by this are reported.
"""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from celery import Celery
from celery.app.defaults import DEFAULTS
from flask import Flask
from kombu.serialization import prepare_accept_content

from flask_delay.backends.celery.settings import Settings

PREFIX = "CELERY_"

_accepted: Any = prepare_accept_content
_JSON = "application/json"
_PICKLE = "application/x-python-serialize"

_OURS = "Flask-Delay's own connections are for {}, so that a task is refused within two seconds"
_DECIDED = "tasks of Flask-Delay run at least once, and their futures need results"
_PRIORITY = "say `priority` in @task or using"
# Settings with a fixed value for tasks of Flask-Delay, and the reason; no value counts as that.
_FIXED: Mapping[str, tuple[object, str]] = {
    "task_serializer": ("json", "messages are JSON"),
    "task_protocol": (2, "messages are of version 2"),
    "task_publish_retry": (True, _OURS.format("publishing")),
    "task_publish_retry_policy": (None, _OURS.format("publishing")),
    "task_acks_late": (True, _DECIDED),
    "task_reject_on_worker_lost": (True, _DECIDED),
    "task_retry_on_worker_lost": (False, "a task whose worker is lost is run again anyway"),
    "task_track_started": (True, _DECIDED),
    "task_ignore_result": (False, _DECIDED),
    "task_store_errors_even_if_ignored": (True, _DECIDED),
    "task_default_priority": (None, _PRIORITY),
    "task_inherit_parent_priority": (False, _PRIORITY),
    "broker_connection_timeout": (None, _OURS.format("publishing")),
    "broker_pool_acquire_timeout": (None, _OURS.format("publishing")),
    "redis_socket_timeout": (None, _OURS.format("results")),
    "redis_socket_connect_timeout": (None, _OURS.format("results")),
    "redis_retry_on_timeout": (None, _OURS.format("results")),
}
# Annotations that only Celery's own way of sending would heed.
_OF_SENDING = frozenset(
    {
        "compression",
        "delivery_mode",
        "exchange",
        "expires",
        "priority",
        "queue",
        "routing_key",
        "serializer",
    }
)


def made(name: str, settings: Settings, app: Flask) -> Celery:
    """Make the Celery app of a `Delay` from its settings; ValueError if the broker is missing."""
    prefix = f"{name.upper()}_{PREFIX}"
    given = dict(app.config.get("CELERY") or {})
    for key, value in app.config.items():
        if key.startswith(PREFIX):
            given[key.removeprefix(PREFIX).lower()] = value
    broker = settings.celery_broker_url or given.get("broker_url")
    if not broker:
        raise ValueError(
            f"the backend 'celery' needs a Celery app: set {prefix}APP to where one is, such as"
            f" 'module:celery', or {prefix}BROKER_URL to make one"
        )
    given["broker_url"] = broker
    if settings.celery_result_backend:
        given["result_backend"] = settings.celery_result_backend
    elif str(broker).startswith(("redis:", "rediss:")):
        given.setdefault("result_backend", broker)
    # Not the current app: that choice is the user's.
    celery = Celery(app.name, set_as_current=False)
    celery.conf.update(given)
    return celery


def require(celery: Celery) -> None:
    """Raise ValueError for settings that prevent tasks, and for `task_always_eager`."""
    conf = celery.conf
    if conf.task_always_eager:
        raise ValueError(
            "Celery's task_always_eager is True, but tasks of Flask-Delay are sent all the same:"
            " for tests set DELAY_MODE to 'immediate'"
        )
    if conf.result_serializer != "json":
        raise ValueError(
            f"Celery's result_serializer is {conf.result_serializer!r}, but results of Flask-Delay"
            f" are JSON and nothing else is read: leave it out"
        )
    for key in ("accept_content", "result_accept_content"):
        accepted = conf[key]
        if accepted is not None and _JSON not in _accepted(accepted):
            raise ValueError(
                f"Celery's {key} is {accepted!r}, but tasks of Flask-Delay are JSON: add 'json'"
            )


def without_effect(celery: Celery) -> Iterator[str]:
    """Settings without effect, and dangerous ones, as sentences without a full stop."""
    conf = celery.conf
    given: Any = conf.without_defaults()
    for key in given:
        if key in _FIXED:
            holds, why = _FIXED[key]
            if given[key] != holds:
                yield f"Celery's {key} has no effect on tasks of Flask-Delay: {why}"
        elif key not in DEFAULTS and (near := difflib.get_close_matches(key, DEFAULTS, 1, 0.8)):
            yield f"{key} is no setting of Celery's: did you mean {near[0]}?"
    for key in sorted(_annotated(conf.task_annotations) & _OF_SENDING):
        yield (
            f"Celery's task_annotations say {key!r}, which has no effect on tasks of Flask-Delay:"
            f" for queues use task_routes, for the rest the options of @task and using"
        )
    if _PICKLE in _accepted(conf.accept_content):
        yield (
            "Celery's accept_content has 'pickle', so anyone who can write to the broker can run"
            " any code in the workers: leave it out"
        )


def _annotated(annotations: Any) -> set[str]:
    """The names that annotations in the form of dicts set for any task."""
    several = annotations if isinstance(annotations, list | tuple) else [annotations]
    values = [value for it in several if isinstance(it, dict) for value in it.values()]
    return {key for value in values if isinstance(value, dict) for key in value}
