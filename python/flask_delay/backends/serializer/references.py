"""What goes from one process to another by its name, and means that of the process it comes to."""

import importlib.util
import pickle
import sys
from functools import reduce
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from flask import Flask
from werkzeug.local import LocalProxy

from flask_delay import context, registry
from flask_delay._native import CurrentTask
from flask_delay.state import State

_CODE = (FunctionType, type)
# What means another object wherever it is used.
_STAND_INS = (LocalProxy, CurrentTask)
# Where they are looked for first, so that no module of the user's needs to be imported for them.
_HOMES = ("flask", "flask_delay")

# How an object is made there, as `__reduce__` says it.
_Reference = tuple[Any, ...]


class Names:
    """What one of the two processes and the other call the same.

    The app, its extensions, the proxies of the current app, `g` and task; and the program, which
    is `__main__` in the server alone.
    """

    def __init__(self, main: str | None, *, is_worker: bool) -> None:
        self.main = main
        """What the server's `__main__` is called in a worker process, if that has it as well."""
        self.app: Flask | None = None
        """The one of this process."""
        # How the other process calls a module, and what that is here.
        self._aliases: dict[str, str] = {}
        if main is not None:
            self._aliases = {registry.MAIN: main} if is_worker else {main: registry.MAIN}
        self._is_worker = is_worker
        # Where those are that were looked for, by their ids.
        self._places: dict[int, tuple[str, str]] = {}

    # --- Of an object -----------------------------------------------------------------

    def reference(self, obj: Any) -> _Reference | None:
        """How the object is found there by its name, if it goes so.

        Raises TypeError for what means nothing there.
        """
        # Not isinstance, which a proxy answers for the object behind it.
        kind = type(obj)
        if issubclass(kind, _CODE):
            return self._reference_code(obj)
        if issubclass(kind, ModuleType):
            return self._reference_module(obj)
        if issubclass(kind, Flask):
            return self._reference_app(obj)
        # That is what makes an extension.
        if issubclass(kind, _STAND_INS) or hasattr(kind, "init_app"):
            return self._reference_own(obj)
        if issubclass(kind, context.reject_types):
            context.reject(obj)
        return None

    def _reference_code(self, obj: Any) -> _Reference | None:
        """How a function or a class is found, if that takes more than pickle knows."""
        module = obj.__module__
        # `task` has put something else into the function's place.
        found = registry.resolve(module, obj.__qualname__)
        is_wrapped = found is not obj and getattr(found, "__wrapped__", None) is obj
        if module == registry.MAIN and not self._is_worker:
            if self.main is not None and (found is obj or is_wrapped):
                return _find, (self.main, obj.__qualname__, is_wrapped)
        elif is_wrapped:
            return _find, (module, obj.__qualname__, True)
        return None

    def _reference_module(self, module: ModuleType) -> _Reference | None:
        here = self.main if self._is_worker else registry.MAIN
        if self.main is None or here is None or sys.modules.get(here) is not module:
            return None
        return _find, (self.main, "", False)

    def _reference_app(self, app: Flask) -> _Reference:
        if self.app is None or app is self.app:
            return _find_app, ()
        raise TypeError(
            f"{app!r} is not the app {self.app.name!r} that the worker processes of this Delay load"
        )

    def _reference_own(self, obj: Any) -> _Reference | None:
        for key, value in list(self.app.extensions.items()) if self.app is not None else ():
            if value is obj or (isinstance(value, State) and value.owner is obj):
                return _find_extension, (key, value is not obj)
        place = self._place(obj)
        if place is not None:
            module, name = place
            return _find, (self.main if module == registry.MAIN else module, name, False)
        if issubclass(type(obj), LocalProxy):
            context.reject(obj)
        return None

    def _place(self, obj: object) -> tuple[str, str] | None:
        """A module that has the object as a global, and its name there."""
        place = self._places.get(id(obj))
        if place is not None and registry.resolve(*place) is obj:
            return place
        for module in (*_HOMES, *list(sys.modules)):
            if not self._is_shared(module):
                continue
            for name, value in list(vars(sys.modules[module]).items()):
                if value is obj:
                    self._places[id(obj)] = module, name
                    return module, name
        return None

    def _is_shared(self, module: str) -> bool:
        """Whether the other process can import it."""
        if module == registry.MAIN:
            return self.main is not None and not self._is_worker
        found = sys.modules.get(module)
        return isinstance(found, ModuleType) and found.__spec__ is not None

    # --- Of a name --------------------------------------------------------------------

    @property
    def has_aliases(self) -> bool:
        """Whether there is a module that the other process calls otherwise."""
        return bool(self._aliases)

    def translate(self, module: str) -> str:
        """What a module is called here that the other process calls so."""
        return self._aliases.get(module, module)

    def find(self, module: str, qualname: str, is_wrapped: bool) -> Any:
        """What this process has of the name: of a module, if `qualname` is empty."""
        module = self.translate(module)
        found: Any = importlib.import_module(module)
        try:
            found = reduce(getattr, qualname.split("."), found) if qualname else found
        except AttributeError:
            raise AttributeError(
                f"the module {module!r} has no {qualname!r} in this process: what is defined"
                f' under `if __name__ == "__main__"`, or later, is not there for a task'
            ) from None
        return getattr(found, "__wrapped__", found) if is_wrapped else found

    def find_app(self) -> Flask:
        """The app."""
        if self.app is None:
            raise LookupError("this process has no app")
        return self.app

    def find_extension(self, key: str, is_owner: bool) -> Any:
        """What the app has for an extension, or the `Delay` of which it has that."""
        found = self.find_app().extensions.get(key)
        if found is None:
            raise LookupError(
                f"the app that a worker process loads has no extension {key!r}; what it loads is"
                f" what the setting DELAY_APP, or that of this Delay's name, says"
            )
        return found.owner if is_owner else found


def _find(*_: Any) -> Any:
    """Stands in a pickle for `Names.find`; the two below stand for its other methods."""
    raise pickle.UnpicklingError("only a process of flask_delay's can say what is meant")


def _find_app(*_: Any) -> Any:
    _find()


def _find_extension(*_: Any) -> Any:
    _find()


MARKS = {"_find": "find", "_find_app": "find_app", "_find_extension": "find_extension"}
"""The methods that these functions stand for."""


def main_module(app: str) -> str | None:
    """What `__main__` is called elsewhere, if it is the module that `app` is in.

    `app` is written as FLASK_APP. Functions of that module need not be carried by value then.
    """
    name = app.partition(":")[0].strip()
    main = getattr(sys.modules.get(registry.MAIN), "__file__", None)
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
    """As Flask calls the module of a file."""
    folders: list[str] = []
    folder = file.parent
    while (folder / "__init__.py").exists():
        folders.insert(0, folder.name)
        folder = folder.parent
    return ".".join([*folders, file.stem])
