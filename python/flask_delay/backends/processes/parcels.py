"""What goes from one process to another: calls, results and exceptions, as bytes."""

import importlib.util
import pickle
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import reduce
from io import BytesIO
from pathlib import Path
from types import FunctionType
from typing import Any

try:
    import cloudpickle
except ImportError as error:
    raise ImportError(
        'backend="processes" needs cloudpickle, which is not installed:'
        " pip install 'flask-delay[processes]'"
    ) from error


_SHOWN = 100
_OWN = f"{__name__.partition('.')[0]}."


class RemoteTraceback(Exception):  # noqa: N818 (never raised, only shown)
    """The traceback in the worker process: the `__cause__` of what a task there has raised."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"in the worker process:\n{self.text}"


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """By name what the other process can import, by value the rest: closures and lambdas."""

    def __init__(self, file: BytesIO, main: str | None) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        # What `__main__` is called where it is not the program.
        self._main = main

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, FunctionType | type):
            module = obj.__module__
            # `task` has put something else into the function's place.
            found = _look(module, obj.__qualname__)
            is_wrapped = found is not obj and getattr(found, "__wrapped__", None) is obj
            if module == "__main__" and self._main and (found is obj or is_wrapped):
                return _find, (self._main, obj.__qualname__, is_wrapped)
            if is_wrapped and module != "__main__":
                return _find, (module, obj.__qualname__, True)
        return super().reducer_override(obj)


def _look(module: str | None, qualname: str) -> Any:
    try:
        return reduce(getattr, qualname.split("."), sys.modules[module or ""])
    except (KeyError, AttributeError):
        return None


def _find(module: str, qualname: str, is_wrapped: bool) -> Any:
    """What another process means by these names; it is called there."""
    found = reduce(getattr, qualname.split("."), importlib.import_module(module))
    return getattr(found, "__wrapped__", found) if is_wrapped else found


def main_module(app: str) -> str | None:
    """What `__main__` is called elsewhere, if it is the module that `app` is in.

    `app` is written as FLASK_APP. Functions of that module need not be carried by value then.
    """
    name = app.partition(":")[0]
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    if path is None or name.endswith(".py"):
        return None
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    origin = spec.origin if spec is not None else None
    return name if origin and Path(origin).resolve() == Path(path).resolve() else None


def _dumps(value: object, main: str | None = None) -> bytes:
    file = BytesIO()
    _Pickler(file, main).dump(value)
    return file.getvalue()


def _named(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    yield from ((f"argument {place}", value) for place, value in enumerate(args, 1))
    yield from ((f"argument {name!r}", value) for name, value in kwargs.items())


def pack_call(
    name: str,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    main: str | None,
) -> bytes:
    """A call as bytes; TypeError that says which argument of the task cannot be."""
    try:
        return _dumps((fn, args, kwargs), main)
    except Exception as error:
        for what, value in [("function", fn), *_named(args, kwargs)]:
            try:
                _dumps(value, main)
            except Exception as reason:
                raise TypeError(
                    f"the {what} of task {name!r}, {_shown(value)}, cannot be sent to a worker"
                    f" process ({reason}): pass what the task can make it of there, such as a"
                    f" path or an id"
                ) from reason
        raise TypeError(f"task {name!r} cannot be sent to a worker process: {error}") from error


def pack_result(name: str, value: object) -> bytes:
    """What a task has returned as bytes; TypeError that names the task if it cannot be."""
    try:
        return _dumps(value)
    except Exception as error:
        raise TypeError(
            f"task {name!r} returned {_shown(value)}, which cannot be sent back from its worker"
            f" process ({error}): return what can be pickled"
        ) from error


def unpack_result(name: str, data: bytes) -> object:
    """What a task has returned; TypeError that names the task if it cannot be made here."""
    try:
        return pickle.loads(data)  # noqa: S301 (of our own child)
    except Exception as error:
        raise TypeError(
            f"what task {name!r} returned cannot be made in this process: {error}"
        ) from error


def unpack_call(data: bytes) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """The call, in the process that runs it."""
    call: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
    call = pickle.loads(data)  # noqa: S301 (of our own parent)
    return call


def pack_exception(exception: BaseException) -> tuple[bytes | None, str, str]:
    """An exception as bytes, or None for one that cannot be; in words; and its traceback."""
    place = exception.__traceback__
    # Not what is ours.
    while place is not None and place.tb_frame.f_globals.get("__name__", "").startswith(_OWN):
        place = place.tb_next
    shown = place or exception.__traceback__
    text = "".join(traceback.format_exception(type(exception), exception, shown)).rstrip()
    words = "".join(traceback.format_exception_only(exception)).strip()
    try:
        data = _dumps(exception)
        # Many can be pickled and not be made again.
        pickle.loads(data)  # noqa: S301 (just made)
    except Exception:
        return None, words, text
    return data, words, text


def unpack_exception(packed: tuple[bytes | None, str, str]) -> BaseException:
    """The exception, with the traceback of the other process as its cause.

    A RuntimeError with its words, if it cannot be made here.
    """
    data, words, text = packed
    exception: object = None
    if data is not None:
        try:
            exception = pickle.loads(data)  # noqa: S301 (of our own child)
        except Exception:
            exception = None
    if not isinstance(exception, BaseException):
        exception = RuntimeError(f"{words} (an exception that cannot be pickled)")
    exception.__cause__ = RemoteTraceback(text)
    return exception


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except Exception:
        text = f"<{type(value).__qualname__}>"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
