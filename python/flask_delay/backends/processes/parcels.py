"""What goes from one process to another: calls, results and exceptions, as bytes."""

import importlib.util
import inspect
import pickle
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import partial, reduce
from io import BytesIO
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from flask import Flask
from werkzeug.local import LocalProxy

from flask_delay import context
from flask_delay._native import CurrentTask

try:
    import cloudpickle
except ImportError as error:
    raise ImportError(
        'backend="processes" needs cloudpickle, which is not installed:'
        " pip install 'flask-delay[processes]'"
    ) from error


_SHOWN = 100
_OWN = f"{__name__.partition('.')[0]}."
# What is shown of a traceback, from both its ends, and of an exception's words.
_LONGEST = 100_000
_MAIN = "__main__"
_CODE = (FunctionType, type)
# What means another object wherever it is used.
_STAND_INS = (LocalProxy, CurrentTask)
# Where they are looked for first, so that no module of the user's needs to be imported for them.
_HOMES = ("flask", "flask_delay")


class RemoteTraceback(Exception):  # noqa: N818 (never raised, only shown)
    """The traceback in the worker process: the `__cause__` of what a task there has raised."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"in the worker process:\n{self.text}"


class Parcels:
    """Packs and unpacks in one of the two processes.

    By name goes what the other process can import, by value the rest: closures and lambdas. What
    each process has of its own goes by name, too, and means that of the process where it
    arrives: the app, its extensions, the proxies of the current app, `g` and task.
    """

    def __init__(self, main: str | None, *, is_worker: bool) -> None:
        self.main = main
        """What the server's `__main__` is called in a worker process, if that has it as well."""
        self.app: Flask | None = None
        """The one of this process."""
        # How the other process calls a module, and what that is here.
        self._aliases: dict[str, str] = {}
        if main is not None:
            self._aliases = {_MAIN: main} if is_worker else {main: _MAIN}
        self._is_worker = is_worker
        # Where those are that were looked for, by their ids.
        self._places: dict[int, tuple[str, str]] = {}

    # --- Calls ----------------------------------------------------------------------

    def pack_call(
        self, name: str, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> bytes:
        """A call as bytes; TypeError that says which argument of the task cannot be."""
        try:
            return self._dumps((fn, args, kwargs))
        except Exception as error:
            for what, value in [("function", fn), *_named(args, kwargs)]:
                reason = self._refusal(value)
                if reason is None:
                    continue
                culprit = self._culprit(value)
                raise TypeError(
                    f"the {what} of task {name!r}, {_shown(value)}, cannot be sent to a worker"
                    f" process ({culprit or reason}): pass what the task can make it of there,"
                    f" such as a path or an id"
                ) from reason
            raise TypeError(f"task {name!r} cannot be sent to a worker process: {error}") from error

    def unpack_call(
        self, data: bytes
    ) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        """The call, in the process that runs it."""
        call: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]] = self._loads(data)
        return call

    # --- Results --------------------------------------------------------------------

    def pack_result(self, name: str, value: object) -> bytes:
        """What a task has returned as bytes; TypeError that names the task if it cannot be."""
        try:
            return self._dumps(value)
        except Exception as error:
            raise TypeError(
                f"task {name!r} returned {_shown(value)}, which cannot be sent back from its"
                f" worker process ({error}): return what can be pickled"
            ) from error

    def unpack_result(self, name: str, data: bytes) -> object:
        """What a task has returned; TypeError that names the task if it cannot be made here."""
        try:
            return self._loads(data)
        except Exception as error:
            raise TypeError(
                f"what task {name!r} returned cannot be made in this process: {error}"
            ) from error

    # --- Exceptions -----------------------------------------------------------------

    def pack_exception(self, exception: BaseException) -> tuple[tuple[str, str], bytes]:
        """An exception in words with its traceback; and as bytes, none if it cannot be."""
        place = exception.__traceback__
        # Not what is ours.
        while place is not None and place.tb_frame.f_globals.get("__name__", "").startswith(_OWN):
            place = place.tb_next
        shown = place or exception.__traceback__
        text = "".join(traceback.format_exception(type(exception), exception, shown)).rstrip()
        words = "".join(traceback.format_exception_only(exception)).strip()
        try:
            data = self._dumps(exception)
            # Many can be pickled and not be made again.
            self._loads(data)
        except Exception:
            data = b""
        return (_cut(words), _cut(text)), data

    def unpack_exception(self, text: tuple[str, str], data: bytes) -> BaseException:
        """The exception, with the traceback of the other process as its cause.

        A RuntimeError with its words, if it cannot be made here.
        """
        words, shown = text
        exception: object = None
        if data:
            try:
                exception = self._loads(data)
            except Exception:
                exception = None
        if not isinstance(exception, BaseException):
            exception = RuntimeError(f"{words} (an exception that cannot be pickled)")
        exception.__cause__ = RemoteTraceback(shown)
        return exception

    # --- Names ----------------------------------------------------------------------

    def _dumps(self, value: object) -> bytes:
        file = BytesIO()
        _Pickler(file, self).dump(value)
        return file.getvalue()

    def _loads(self, data: bytes) -> Any:
        return _Unpickler(BytesIO(data), self).load()

    def reference(self, obj: Any) -> tuple[Any, ...] | None:
        """How the object is made there by its name, as `__reduce__` says it, if it goes so.

        Raises TypeError for what means nothing there.
        """
        # Not isinstance, which a proxy answers for the object behind it.
        kind = type(obj)
        if issubclass(kind, _CODE):
            return self._reference_code(obj)
        if issubclass(kind, ModuleType):
            is_main = self.main is not None and sys.modules.get(self._main_here) is obj
            return (_find, (self.main, "", False)) if is_main else None
        if issubclass(kind, Flask):
            if self.app is None or obj is self.app:
                return _find_app, ()
            raise TypeError(
                f"{obj!r} is not the app {self.app.name!r} that the worker processes of this"
                f" Delay load"
            )
        # That is what makes an extension.
        if not issubclass(kind, _STAND_INS) and not hasattr(kind, "init_app"):
            if issubclass(kind, context.reject_types):
                context.reject(obj)
            return None
        for key, value in list(self.app.extensions.items()) if self.app is not None else ():
            if value is obj or getattr(value, "owner", None) is obj:
                return _find_extension, (key, value is not obj)
        place = self._place(obj)
        if place is not None:
            return _find, (*place, False)
        if issubclass(kind, LocalProxy):
            context.reject(obj)
        return None

    def _reference_code(self, obj: Any) -> tuple[Any, ...] | None:
        """How a function or a class is found, if that takes more than pickle knows."""
        module = obj.__module__
        # `task` has put something else into the function's place.
        found = _look(module, obj.__qualname__)
        is_wrapped = found is not obj and getattr(found, "__wrapped__", None) is obj
        if module == _MAIN and not self._is_worker:
            if self.main is not None and (found is obj or is_wrapped):
                return _find, (self.main, obj.__qualname__, is_wrapped)
        elif is_wrapped:
            return _find, (module, obj.__qualname__, True)
        return None

    def _place(self, obj: object) -> tuple[str, str] | None:
        """A module that has the object as a global, as it is called there, and its name."""
        place = self._places.get(id(obj))
        if place is None or _look(*place) is not obj:
            found = (
                (module, name)
                for module in (*_HOMES, *list(sys.modules))
                if self._is_shared(module)
                for name, value in list(vars(sys.modules[module]).items())
                if value is obj
            )
            place = next(found, None)
            if place is None:
                return None
            self._places[id(obj)] = place
        module, name = place
        return (self.main or module if module == _MAIN else module), name

    def _is_shared(self, module: str) -> bool:
        """Whether another process can import it."""
        if module == _MAIN:
            return self.main is not None and not self._is_worker
        found = sys.modules.get(module)
        return isinstance(found, ModuleType) and found.__spec__ is not None

    @property
    def _main_here(self) -> str | None:
        return self.main if self._is_worker else _MAIN

    def translate(self, module: str) -> str:
        """What a module is called here that the other process calls so."""
        return self._aliases.get(module, module)

    def find(self, module: str, qualname: str, is_wrapped: bool) -> Any:
        """What this process means by names of the other one."""
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
        """The app of this process."""
        if self.app is None:
            raise LookupError("this process has no app")
        return self.app

    def find_extension(self, key: str, is_owner: bool) -> Any:
        """What this process's app has for an extension of the other one's."""
        found = self.find_app().extensions.get(key)
        if found is None:
            raise LookupError(
                f"the app that a worker process loads has no extension {key!r}; what it loads is"
                f" what the setting DELAY_APP, or that of this Delay's name, says"
            )
        return found.owner if is_owner else found

    # --- Words ----------------------------------------------------------------------

    def _refusal(self, value: object) -> Exception | None:
        try:
            self._dumps(value)
        except Exception as reason:
            return reason
        return None

    def _culprit(self, value: Any, depth: int = 5) -> str | None:
        """Which variable of a function cannot be sent, and why not."""
        while isinstance(value, partial):
            value = value.func
        if not inspect.isfunction(value) or depth == 0:
            return None
        try:
            found = inspect.getclosurevars(value)
        except (ValueError, TypeError):
            return None
        for name, held in [*found.nonlocals.items(), *found.globals.items()]:
            reason = self._refusal(held)
            if reason is not None:
                inner = self._culprit(held, depth - 1)
                return f"its variable {name!r}, {_shown(held)}: {inner or reason}"
        return None


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def __init__(self, file: BytesIO, parcels: Parcels) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._parcels = parcels

    def reducer_override(self, obj: Any) -> Any:
        reference = self._parcels.reference(obj)
        return super().reducer_override(obj) if reference is None else reference


class _Unpickler(pickle.Unpickler):
    """For what our own processes send each other."""

    def __init__(self, file: BytesIO, parcels: Parcels) -> None:
        super().__init__(file)
        self._parcels = parcels

    def find_class(self, module: str, name: str, /) -> Any:
        if module == __name__ and name in _MARKS:
            return getattr(self._parcels, _MARKS[name])
        return super().find_class(self._parcels.translate(module), name)


def _find(*_: Any) -> Any:
    """Stands for `Parcels.find` of whoever unpickles it, as the next ones for theirs."""
    raise pickle.UnpicklingError("only a process of flask_delay's can say what is meant")


def _find_app(*_: Any) -> Any:
    _find()


def _find_extension(*_: Any) -> Any:
    _find()


_MARKS = {"_find": "find", "_find_app": "find_app", "_find_extension": "find_extension"}


def _look(module: str | None, qualname: str) -> Any:
    try:
        return reduce(getattr, qualname.split("."), sys.modules[module or ""])
    except (KeyError, AttributeError):
        return None


def main_module(app: str) -> str | None:
    """What `__main__` is called elsewhere, if it is the module that `app` is in.

    `app` is written as FLASK_APP. Functions of that module need not be carried by value then.
    """
    name = app.partition(":")[0].strip()
    main = getattr(sys.modules.get(_MAIN), "__file__", None)
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
    folders = []
    folder = file.parent
    while (folder / "__init__.py").exists():
        folders.insert(0, folder.name)
        folder = folder.parent
    return ".".join([*folders, file.stem])


def _named(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    yield from ((f"argument {place}", value) for place, value in enumerate(args, 1))
    yield from ((f"argument {name!r}", value) for name, value in kwargs.items())


def _cut(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    half = _LONGEST // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters are left out ...\n{text[-half:]}"


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except Exception:
        text = f"<{type(value).__qualname__}>"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
