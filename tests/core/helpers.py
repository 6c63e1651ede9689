"""What the tests of the native module share."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flask_delay import Executor, Future

# Far more than anything here takes: it turns a hang into a failure.
DEADLINE = 20.0

LOGGER = logging.getLogger("flask_delay")
ENGINE_LOGGER = logging.getLogger("flask_delay.engine")


def fail(*_: object) -> None:
    raise ValueError("made to fail")


class Thing:
    """Something that weak references can watch."""

    def method(self, *args: object) -> tuple[object, ...]:
        return args


@contextmanager
def occupied(executor: Executor, workers: int = 1) -> Iterator[list[Future[None]]]:
    """That many workers are inside a task until the block ends: more tasks stay queued."""
    release, entered = threading.Event(), threading.Semaphore(0)

    def hold() -> None:
        entered.release()
        assert release.wait(DEADLINE)

    holders = [executor.submit(hold) for _ in range(workers)]
    try:
        for _ in holders:
            assert entered.acquire(timeout=DEADLINE)
        yield holders
    finally:
        release.set()
    for holder in holders:
        holder.result(DEADLINE)


def together(*functions: Callable[[], Any]) -> list[Any]:
    """Call all of them at once, each in a thread of its own; what they returned."""
    barrier = threading.Barrier(len(functions))
    results: list[Any] = [None] * len(functions)
    errors: list[BaseException] = []

    def run(place: int) -> None:
        try:
            barrier.wait(DEADLINE)
            results[place] = functions[place]()
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=run, args=(place,), daemon=True) for place in range(len(functions))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    if errors:
        raise errors[0]
    return results


def native_threads() -> dict[int, str]:
    """The operating system's threads of this process: id and name."""
    found = {}
    for task in Path("/proc/self/task").iterdir():
        try:
            found[int(task.name)] = (task / "comm").read_text().strip()
        except OSError:
            # It ended meanwhile.
            continue
    return found


@contextmanager
def unlogged() -> Iterator[None]:
    """Failures go unlogged: a record keeps its exception, the test runner keeps the record."""
    LOGGER.disabled = True
    try:
        yield
    finally:
        LOGGER.disabled = False
