"""`backend="celery"`: tasks that run in Celery workers."""

from flask_delay.backends.celery.backend import Backend, celery_app, check

__all__ = ["Backend", "celery_app", "check"]
