"""The private parts of CPython that the Python half needs."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType


def before_threads_end(fn: Callable[[], object]) -> None:
    """Call `fn` when the interpreter begins to exit, before it waits for threads.

    The function registered last is called first. Raises RuntimeError if the exit has begun already.
    """
    threading._register_atexit(fn)  # type: ignore[attr-defined]  # noqa: SLF001


def is_waiting_for_threads(frame: FrameType | None) -> bool:
    """Whether the main thread, whose frame this is, waits for threads at exit."""
    # An exception there would cut the wait short. Only the stack shows that the wait is not over.
    return any(name == ("threading", "_shutdown") for _, name in stack(frame))


def main_stack() -> Iterator[tuple[FrameType, tuple[str, str]]]:
    """The stack of the main thread; may be called from any thread."""
    return stack_of(threading.main_thread().ident or 0)


def stack_of(thread: int) -> Iterator[tuple[FrameType, tuple[str, str]]]:
    """The stack of the thread with this ident; empty if there is none."""
    return stack(sys._current_frames().get(thread))  # noqa: SLF001


def stack(frame: FrameType | None) -> Iterator[tuple[FrameType, tuple[str, str]]]:
    """This frame and its callers, each with the names of its module and function."""
    while frame is not None:
        yield frame, (frame.f_globals.get("__name__", ""), frame.f_code.co_name)
        frame = frame.f_back


def interpreter_options() -> list[str]:
    """The options of this process's interpreter, to start another one with."""
    options: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # noqa: SLF001
    # The function above includes only some of these. A repeated option does no harm.
    for name, value in sys._xoptions.items():  # noqa: SLF001
        options += ["-X", name if value is True else f"{name}={value}"]
    return options
