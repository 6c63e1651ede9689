"""The settings of a `Delay` for this backend. Needs no Celery."""

from dataclasses import dataclass

from flask_delay import validators
from flask_delay.config import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The Celery app for the tasks of a `Delay`, and the behaviour of a submit without a broker."""

    celery_app: str | None = setting(
        None,
        validators.optional(validators.import_path),
        'where a Celery app is, as "module:name", or None to make one',
        "The app whose tasks those of the backend are; by default one with the settings"
        " `CELERY_*`.",
    )
    celery_broker_url: str | None = setting(
        None,
        validators.optional(validators.text),
        'a URL such as "redis://localhost:6379/0", or None',
        "Where the Celery app that is made publishes; by default as `CELERY_BROKER_URL` says.",
        # It may contain a password.
        shown=False,
    )
    celery_result_backend: str | None = setting(
        None,
        validators.optional(validators.text),
        'the URL of a Redis, such as "redis://localhost:6379/1", or None',
        "Where that app has its results; by default as `CELERY_RESULT_BACKEND` says, or with"
        " the broker, if that is Redis.",
        shown=False,
    )
    celery_when_down: str = setting(
        "raise",
        validators.one_of("raise", "buffer"),
        '"raise" or "buffer"',
        "What a submit does when the broker cannot be reached: it raises BrokerUnavailable; or"
        " keeps the task in memory until it can, up to 1000 of them.",
    )
