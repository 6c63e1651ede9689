"""The installed backends: entry points of the group `flask_delay.backends`, by their names.

An entry point names a module with a class `Backend`, see `base`. A backend with settings has a
dataclass `Settings` too, see `config`. No entry point is looked up, and no module imported, before
a name or a setting needs it.
"""

import warnings
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Any

GROUP = "flask_delay.backends"
THREADS = "threads"
"""The one that is built in: threads of this process."""

# Caches of entry points and used names. Both only grow and each access is atomic, so they need no
# lock.
_found: dict[str, EntryPoint] = {}
_used: set[str] = set()


def names() -> list[str]:
    """The names of all installed backends: `THREADS`, then the others by the alphabet.

    A wheel's metadata has entry points in any order.
    """
    for entry in entry_points(group=GROUP):
        _found.setdefault(entry.name, entry)
    return [THREADS, *sorted(_found)]


def is_known(name: str) -> bool:
    """Whether there is a backend of this name."""
    return name == THREADS or name in _found or name in names()


def read(value: object) -> str:
    """Validate the name of a backend. Raises TypeError or ValueError for anything else."""
    if not isinstance(value, str):
        raise TypeError
    if not is_known(value):
        raise ValueError
    return value


def listed() -> str:
    """All names, as an error message shows them."""
    *most, last = (f'"{name}"' for name in names())
    return f"{', '.join(most)} or {last}" if most else last


def module(name: str) -> Any:
    """The module of the backend of this name.

    Raises LookupError if there is none, ImportError if its entry point cannot be loaded.
    """
    if not is_known(name):
        raise LookupError(f"there is no backend {name!r}, but {listed()}")
    entry = _found[name]
    try:
        return entry.load()
    except Exception as error:
        raise _unusable(name, error) from error


def kind(name: str) -> Any:
    """The class `Backend` of this module. Raises as `module`, and the errors of that class."""
    try:
        found = module(name).Backend
    except AttributeError as error:
        raise _unusable(name, error) from error
    _used.add(name)
    return found


def is_used(name: str) -> bool:
    """Whether this process has asked for the class `Backend` of that name."""
    return name in _used


def used() -> list[str]:
    """The names for which `is_used` is true."""
    return list(_used)


def settings() -> Iterator[type]:
    """The classes `Settings` of the backends that have one; warns about those that fail to load."""
    for name in names()[1:]:
        try:
            kind = getattr(module(name), "Settings", None)
        except ImportError as error:
            # Attributed to this line, so that it is shown once, however often settings are read.
            warnings.warn(str(error), stacklevel=1)
            continue
        if kind is not None:
            yield kind


def _unusable(name: str, error: Exception) -> ImportError:
    entry = _found[name]
    where = f", of {entry.dist.name}" if entry.dist is not None else ""
    return ImportError(
        f"the backend {name!r} cannot be loaded (entry point {entry.value!r}{where}): {error}"
    )
