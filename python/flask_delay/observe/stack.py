"""Where the code of a task is at this moment: files, lines and functions, and no values."""

import traceback
from types import FrameType
from typing import Any

from flask_delay import aio
from flask_delay._native import Future
from flask_delay.servers import cpython


def stack_of(future: Future[Any]) -> list[str]:
    """The frames of a task that runs in this process, outermost first; none if it does not."""
    thread = future._thread()  # noqa: SLF001
    if thread is None:
        return _formatted(_frames_of_coroutine(future))
    frames = [frame for frame, _ in cpython.stack_of(thread)][::-1]
    # Another task may run there by now.
    return _formatted(frames) if future._thread() == thread else []  # noqa: SLF001


def stack_of_thread(thread: int | None, *, above: str) -> list[str]:
    """The frames of a thread, outermost first; only those above the last one of that package."""
    found = list(cpython.stack_of(thread or 0))
    own = (place for place, (_, (module, _)) in enumerate(found) if module.startswith(above))
    return _formatted([frame for frame, _ in found[: next(own, len(found))]][::-1])


def _frames_of_coroutine(future: Future[Any]) -> list[FrameType]:
    running = list(aio._runners.items())  # noqa: SLF001
    task = next((task for task, its in running if its is future), None)
    awaited: Any = None if task is None else task.get_coro()
    frames = []
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if frame is not None:
            frames.append(frame)
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    # The outermost one is ours.
    return frames[1:]


def _formatted(frames: list[FrameType]) -> list[str]:
    found = traceback.StackSummary.extract((it, it.f_lineno) for it in frames)
    return [text.rstrip() for text in found.format()]
