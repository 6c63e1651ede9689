"""`backend="celery"`: tasks that run in Celery workers."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from flask_delay.backends.celery.settings import Settings

if TYPE_CHECKING:
    from flask_delay.backends.celery.backend import Backend, celery_app, check

__all__ = ["Backend", "Settings", "celery_app", "check"]


def __getattr__(name: str) -> Any:
    # Imported late: an app that only has a setting of this backend need not have Celery.
    if name in __all__:
        return getattr(import_module(f"{__name__}.backend"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
