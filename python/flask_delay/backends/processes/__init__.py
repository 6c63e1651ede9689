"""`backend="processes"`: tasks that compute, in worker processes of this machine."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from flask_delay.backends.processes.settings import Settings

if TYPE_CHECKING:
    from flask_delay.backends.processes.backend import Backend, problem

__all__ = ["Backend", "Settings", "problem"]


def __getattr__(name: str) -> Any:
    # Imported late: an app that only has a setting of this backend need not have cloudpickle.
    if name in __all__:
        return getattr(import_module(f"{__name__}.backend"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
