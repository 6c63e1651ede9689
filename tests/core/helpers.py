"""What the tests of the native module share."""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from flask_delay import Executor, Future
from flask_delay._native import _scoped_executor
from flask_delay.options import AllOptions, Chosen, follower, submitter
from flask_delay.periodic.job import Jobs

# Far more than anything here takes: it turns a hang into a failure.
DEADLINE = 20.0

LOGGER = logging.getLogger("flask_delay")
ENGINE_LOGGER = logging.getLogger("flask_delay.engine")


def fail(*_: object) -> None:
    raise ValueError("made to fail")


def double(value: Any) -> Any:
    return value * 2


async def double_async(value: Any) -> Any:
    await asyncio.sleep(0)
    return value * 2


class Thing:
    """Something that weak references can watch."""

    def method(self, *args: object, **_named: object) -> tuple[object, ...]:
        return args


def using(executor: Executor, **options: Any) -> Callable[..., Future[Any]]:
    """What submits with these options, as `flask_delay.using` does, to an executor of the test."""
    return submitter(Chosen(cast("AllOptions", options)), Jobs(executor), None)


def submit(
    executor: Executor, fn: Callable[..., Any], /, *args: Any, **options: Any
) -> Future[Any]:
    """Submit `fn(*args)` with these options."""
    return using(executor, **options)(fn, *args)


def then(
    future: Future[Any], fn: Callable[..., Any], *, on: str = "success", **options: Any
) -> Future[Any]:
    """`future.then(task, on=on)`, with the options of such a task."""
    return follower(Chosen(cast("AllOptions", options)), future, None, on=on)(fn)


def make(mode: str = "threads", **options: Any) -> Executor:
    """An executor as a `Delay` has it, with these options instead of its own."""
    given: dict[str, Any] = {
        "max_workers": 2,
        "thread_name_prefix": "modes",
        "scope": contextlib.nullcontext,
        "hidden": (),
        "reject_types": (),
        "reject": fail,
        "log_failures": True,
        "shutdown_timeout": None,
        "result_limit": 2,
        "mode": mode,
    }
    return _scoped_executor(**(given | options))


class Gate:
    """A task that says when it has begun, and stays until it is opened.

    It waits in C: no exception from outside reaches it before that.
    """

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.over = False
        self._opened = threading.Event()

    def __call__(self, result: object = None) -> object:
        self.entered.set()
        assert self._opened.wait(DEADLINE)
        self.over = True
        return result

    def open(self) -> None:
        self._opened.set()


def spin(until: threading.Event | None = None) -> None:
    """Stay in Python code, where an exception from outside arrives, until then or forever."""
    end = time.monotonic() + DEADLINE
    while until is None or not until.is_set():
        assert time.monotonic() < end, "nothing ended it"
        # Not `until.wait()`: an exception from outside could leave its locks in disorder.
        time.sleep(0.001)


class Peak:
    """Counts how many are inside at once, and how many there have been."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = self.most = self.total = 0

    def __enter__(self) -> None:
        with self.lock:
            self.inside += 1
            self.total += 1
            self.most = max(self.most, self.inside)

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.inside -= 1


async def as_coroutine(future: Future[Any]) -> Any:
    return await future


def _at_rest(thread: threading.Thread) -> bool:
    try:
        stat = Path(f"/proc/self/task/{thread.native_id}/stat").read_text()
    except OSError:
        # It is over.
        return True
    return stat.rpartition(")")[2].split()[0] == "S"


def wait_until_at_rest(*threads: threading.Thread) -> None:
    """Return when each of them sleeps or is over; only the operating system knows."""
    if not Path("/proc/self/task").exists():
        time.sleep(0.2)
        return
    end, seen = time.monotonic() + DEADLINE, 0
    # Several times in a row, lest one only waited for the interpreter lock.
    while seen < 5:
        assert time.monotonic() < end, "a thread does not come to rest"
        seen = seen + 1 if all(map(_at_rest, threads)) else 0
        time.sleep(0.005)


@contextmanager
def started(*functions: Callable[[], object]) -> Iterator[list[threading.Thread]]:
    """Each of them in a thread of its own: at rest when the block begins, over when it ends."""
    threads = [threading.Thread(target=function, daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    wait_until_at_rest(*threads)
    yield threads
    for thread in threads:
        thread.join(DEADLINE)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"


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
    before = LOGGER.level
    LOGGER.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        LOGGER.setLevel(before)
