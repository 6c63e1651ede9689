"""The names of functions and classes, and the objects that have these names.

The name of a function is its module and its qualified name: "shop.tasks.tidy". `main` is the name
that other processes use for this process's `__main__` module; "" if they cannot import it.
"""

import importlib.util
import sys
from collections.abc import Callable
from functools import partial, reduce
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

MAIN = "__main__"

decorated: WeakValueDictionary[str, Any] = WeakValueDictionary()
"""What `task` has made of functions, by their names: other processes have them as well."""

named: WeakValueDictionary[str, Any] = WeakValueDictionary()
"""What `task` has made of functions, by other names that it was told to call them."""


def module_of(thing: Any, main: str = MAIN) -> str:
    """The module that defines `thing`."""
    module = getattr(thing, "__module__", None)
    # multiprocessing gives it another name in the processes that it spawns.
    return main if module in {MAIN, "__mp_main__"} else str(module)


def qualname_of(thing: Any) -> str | None:
    """The name of `thing` in its module; None if it has none."""
    name = getattr(thing, "__qualname__", None)
    return name if isinstance(name, str) else None


def name_of(thing: Any, main: str = MAIN) -> str:
    """The name of a function or class; for another callable, the name of its class."""
    if qualname_of(thing) is None:
        thing = type(thing)
    return f"{module_of(thing, main)}.{qualname_of(thing)}"


def task_name(fn: Callable[..., Any]) -> str:
    """The name of a task that runs `fn`, as in `Future.name`."""
    while isinstance(fn, partial):
        fn = fn.func
    return qualname_of(fn) or type(fn).__qualname__


def path_of(kind: type, main: str) -> str:
    """The name of a class, with a ":" between module and qualified name."""
    return f"{module_of(kind, main)}:{kind.__qualname__}"


def resolve(module: str, qualname: str, get: Callable[[Any, str], Any] = getattr) -> Any:
    """The object of this name in a module that is imported already; None if there is none.

    With `get=member` no code runs, so the name may come from an untrusted source.
    """
    try:
        return reduce(get, qualname.split("."), sys.modules[module])
    except (KeyError, AttributeError):
        return None


def resolve_class(path: str, main: str) -> type | None:
    """The class of this path, if this process has imported it. Runs no code."""
    module, _, qualname = path.partition(":")
    # The module that a program is may be imported by its name as well, or instead by a server.
    for place in (MAIN, module) if module == main else (module,):
        found = resolve(place, qualname, member)
        if isinstance(found, type):
            return found
    return None


def member(owner: Any, name: str) -> Any:
    """The value of `name` in the dictionary of `owner`: a module's `__getattr__` may import."""
    return getattr(owner, "__dict__", {}).get(name)


def main_module(app: str) -> str | None:
    """The importable name of `__main__`, if that is the module of `app`; otherwise None.

    `app` is written as FLASK_APP. Functions of that module can then be sent by name.
    """
    name = app.partition(":")[0].strip()
    main = getattr(sys.modules.get(MAIN), "__file__", None)
    if main is None:
        return None
    here = Path(main).resolve()
    if name.endswith(".py"):
        return _module_name(here) if Path(name).resolve() == here else None
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    origin = spec.origin if spec is not None else None
    return name if origin and Path(origin).resolve() == here else None


def _module_name(file: Path) -> str:
    """The name that Flask gives to the module of a file."""
    folders: list[str] = []
    folder = file.parent
    while (folder / "__init__.py").exists():
        folders.insert(0, folder.name)
        folder = folder.parent
    return ".".join([*folders, file.stem])
