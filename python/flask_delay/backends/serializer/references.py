"""Objects that are sent by name and stand for the receiving process's own object."""

import importlib
import pickle
import sys
from functools import reduce
from types import FunctionType, ModuleType
from typing import Any

from flask import Flask
from werkzeug.local import LocalProxy

from flask_delay import context, registry
from flask_delay._native import CurrentTask
from flask_delay.state import State

_CODE = (FunctionType, type)
# Objects that stand for another one wherever they are used.
_STAND_INS = (LocalProxy, CurrentTask)
# The modules to search first, so that no module of the user's needs to be imported for them.
_HOMES = ("flask", "flask_delay")

# How to make an object there, in the form of `__reduce__`.
_Reference = tuple[Any, ...]


class Names:
    """The objects that both processes know by the same name.

    These are the app, its extensions, the proxies of the current app, `g` and task, and the
    program, which is `__main__` in the server alone.
    """

    def __init__(self, main: str | None, *, is_worker: bool) -> None:
        self.main = main
        """What the server's `__main__` is called in a worker process, if that has it as well."""
        self.app: Flask | None = None
        """The one of this process."""
        # The other process's name for a module, and its name here.
        self._aliases: dict[str, str] = {}
        if main is not None:
            self._aliases = {registry.MAIN: main} if is_worker else {main: registry.MAIN}
        self._is_worker = is_worker
        # The places of objects that were searched for, by their ids.
        self._places: dict[int, tuple[str, str]] = {}

    # --- Of an object -----------------------------------------------------------------

    def reference(self, obj: Any) -> _Reference | None:
        """The reference by which the other process finds the object, or None to send it by value.

        Raises TypeError for an object without a meaning there.
        """
        # Not isinstance, which a proxy answers for the object behind it.
        kind = type(obj)
        if issubclass(kind, _CODE):
            return self._reference_code(obj)
        if issubclass(kind, ModuleType):
            return self._reference_module(obj)
        if issubclass(kind, Flask):
            return self._reference_app(obj)
        # An object with `init_app` is an extension.
        if issubclass(kind, _STAND_INS) or hasattr(kind, "init_app"):
            return self._reference_own(obj)
        if issubclass(kind, context.reject_types):
            context.reject(obj)
        return None

    def _reference_code(self, obj: Any) -> _Reference | None:
        """The reference of a function or class, if pickle's own would not do."""
        module = obj.__module__
        # `task` has replaced the function by another object.
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
        """The module and name of a global variable that holds the object."""
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
        """Whether the other process can import the module."""
        if module == registry.MAIN:
            return self.main is not None and not self._is_worker
        found = sys.modules.get(module)
        return isinstance(found, ModuleType) and found.__spec__ is not None

    # --- Of a name --------------------------------------------------------------------

    @property
    def has_aliases(self) -> bool:
        """Whether the other process has another name for a module."""
        return bool(self._aliases)

    def translate(self, module: str) -> str:
        """This process's name for a module, by the other process's name."""
        return self._aliases.get(module, module)

    def find(self, module: str, qualname: str, is_wrapped: bool) -> Any:
        """This process's object of this name; the module if `qualname` is empty."""
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
        """The app's object for an extension, or the `Delay` that owns that object."""
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
