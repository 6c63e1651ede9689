"""Calls, results and exceptions as bytes, to pass from one process to another."""

import inspect
import pickle
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from typing import Any

from flask_delay.backends.serializer import references
from flask_delay.backends.serializer.references import Names

try:
    import cloudpickle
except ImportError as error:
    raise ImportError(
        'backend="processes" needs cloudpickle, which is not installed:'
        " pip install 'flask-delay[processes]'"
    ) from error


_SHOWN = 100
_MARK = references.__name__.encode()
_OWN = f"{__name__.partition('.')[0]}."
# Characters shown of a traceback, from both its ends, and of an exception's message.
_LONGEST = 100_000


class RemoteTraceback(Exception):  # noqa: N818 (never raised, only shown)
    """The traceback in the worker process: the `__cause__` of an exception from a task there."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"in the worker process:\n{self.text}"


class Serializer:
    """Packs and unpacks values in one of the two processes.

    Objects that the other process can import, or has an equivalent of, are sent by name: see
    `Names`. All others, such as closures and lambdas, are sent by value.
    """

    def __init__(self, names: Names) -> None:
        self.names = names
        """What goes by name."""

    # --- Calls ----------------------------------------------------------------------

    def pack_call(
        self, name: str, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> bytes:
        """Pack a call; the TypeError names the argument of the task that cannot be packed."""
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
        """Unpack a call, in the process that runs it."""
        call: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]] = self._loads(data)
        return call

    # --- Results --------------------------------------------------------------------

    def pack_result(self, name: str, value: object) -> bytes:
        """Pack the result of a task; TypeError that names the task if that is impossible."""
        try:
            return self._dumps(value)
        except Exception as error:
            raise TypeError(
                f"task {name!r} returned {_shown(value)}, which cannot be sent back from its"
                f" worker process ({error}): return what can be pickled"
            ) from error

    def unpack_result(self, name: str, data: bytes) -> object:
        """Unpack the result of a task; TypeError that names the task if that is impossible."""
        try:
            return self._loads(data)
        except Exception as error:
            raise TypeError(
                f"what task {name!r} returned cannot be made in this process: {error}"
            ) from error

    # --- Exceptions -----------------------------------------------------------------

    def pack_exception(self, exception: BaseException) -> tuple[tuple[str, str], bytes]:
        """An exception as text with its traceback, and as bytes, empty if it cannot be pickled."""
        place = exception.__traceback__
        # Skip the frames of Flask-Delay.
        while place is not None and place.tb_frame.f_globals.get("__name__", "").startswith(_OWN):
            place = place.tb_next
        shown = place or exception.__traceback__
        text = "".join(traceback.format_exception(type(exception), exception, shown)).rstrip()
        words = "".join(traceback.format_exception_only(exception)).strip()
        try:
            data = self._dumps(exception)
            # Many exceptions can be pickled but not unpickled.
            self._loads(data)
        except Exception:
            data = b""
        return (_cut(words), _cut(text)), data

    def unpack_exception(self, text: tuple[str, str], data: bytes) -> BaseException:
        """The exception, with the traceback of the other process as its cause.

        A RuntimeError with its text, if it cannot be unpickled here.
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

    def _dumps(self, value: object) -> bytes:
        file = BytesIO()
        _Pickler(file, self.names).dump(value)
        return file.getvalue()

    def _loads(self, data: bytes) -> Any:
        # A name to translate stands in the bytes unchanged; without one, plain `pickle` takes a
        # third of the time.
        if not self.names.has_aliases and _MARK not in data:
            return pickle.loads(data)  # noqa: S301 (of a process of ours)
        return _Unpickler(BytesIO(data), self.names).load()

    def _refusal(self, value: object) -> Exception | None:
        try:
            self._dumps(value)
        except Exception as reason:
            return reason
        return None

    def _culprit(self, value: Any, depth: int = 5) -> str | None:
        """The variable of a function that cannot be sent, and the reason."""
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
    def __init__(self, file: BytesIO, names: Names) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._names = names

    def reducer_override(self, obj: Any) -> Any:
        reference = self._names.reference(obj)
        return super().reducer_override(obj) if reference is None else reference


class _Unpickler(pickle.Unpickler):
    """For bytes that Flask-Delay's own processes send each other."""

    def __init__(self, file: BytesIO, names: Names) -> None:
        super().__init__(file)
        self._names = names

    def find_class(self, module: str, name: str, /) -> Any:
        if module == references.__name__ and name in references.MARKS:
            return getattr(self._names, references.MARKS[name])
        return super().find_class(self._names.translate(module), name)


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
