"""Classes by their names, as messages carry them.

Nothing is imported because a message names it, and nothing but a class is ever found: names are
looked up in what is imported already, in dictionaries alone, so that no code runs.
"""

import sys
from typing import Any

from flask import Flask


def module_of(thing: Any, app: Flask) -> str:
    """Where `thing` is defined, as every process calls it.

    A process that starts the app as a script has it in `__main__`, and a worker by its name.
    """
    module: str = thing.__module__
    return app.name if module == "__main__" else module


def path_of(kind: type, app: Flask) -> str:
    """What a class is called in messages."""
    return f"{module_of(kind, app)}:{kind.__qualname__}"


def exception_class(path: str, app: Flask) -> type[Exception] | None:
    """The exception class of this path; None if this process does not have it.

    Nor is one that ends more than a task, such as SystemExit, ever found.
    """
    module, _, names = path.partition(":")
    is_script = module == app.name and app.import_name == "__main__"
    found: Any = sys.modules.get("__main__" if is_script else module)
    for name in names.split("."):
        # A module's own `__getattr__` may import.
        found = getattr(found, "__dict__", {}).get(name)
    return found if isinstance(found, type) and issubclass(found, Exception) else None
