"""For tests: the submitted tasks, those that are not done, and a journal of their own.

pytest has fixtures for both, `delayed` and `no_delayed_leaks`; see docs/testing.md. With other test
runners: `with Delayed() as delayed:`.
"""

import contextlib
import os
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, overload

from flask import Flask

from flask_delay import Delay, Executor, Future, options
from flask_delay.observe.signals import task_submitted
from flask_delay.state import states
from flask_delay.tasks import Task


@dataclass(frozen=True, eq=False)
class Call:
    """A task as it was submitted. `call` makes the expected one.

    Two are equal if function, arguments and keyword arguments are; a function that `@task`
    decorates is equal to itself undecorated.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    """What `using(...)` or `@task(...)` was given, once the submit has returned."""
    future: Future[Any] | None = None
    """The future that `delay` returned; None for what a test expects."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Call):
            return NotImplemented
        return (_plain(self.function), self.args, self.kwargs) == (
            _plain(other.function),
            other.args,
            other.kwargs,
        )

    # Arguments need not have a hash.
    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        name = getattr(self.function, "__qualname__", repr(self.function))
        values = [*map(repr, self.args), *(f"{key}={it!r}" for key, it in self.kwargs.items())]
        return f"call({', '.join([name, *values])})"


def call(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Call:
    """The task that `delay(function, *args, **kwargs)` submits, for comparisons."""
    return Call(function, args, kwargs)


class Delayed(Sequence[Call]):
    """Records the tasks submitted to apps of this process, while it is entered.

    A sequence of `Call`, in the order of the submits, and equal to a list of them: `delayed ==
    [call(f, 1)]`. May be used from any thread. Leaving it cancels tasks that still wait for `run`.
    """

    def __init__(self) -> None:
        self._calls: list[Call] = []
        self._apps: list[Flask] = []

    def __enter__(self) -> Self:
        task_submitted.connect(self._add, weak=False)
        options.watchers.append(self._add_options)
        return self

    def __exit__(self, *_: object) -> None:
        options.watchers.remove(self._add_options)
        task_submitted.disconnect(self._add)
        if all(mode == "manual" for app in self._apps for mode, _ in _pools(app)):
            for it in self._calls:
                if it.future is not None:
                    it.future.cancel()

    @property
    def calls(self) -> list[Call]:
        """The tasks so far."""
        return list(self._calls)

    @property
    def last(self) -> Call:
        """The last submitted task. AssertionError if there is none."""
        try:
            return self._calls[-1]
        except IndexError:
            raise AssertionError("no task was submitted") from None

    def clear(self) -> None:
        """Forget the tasks so far; this does not affect the tasks themselves."""
        self._calls.clear()

    def run(self, n: int | None = None) -> int:
        """Run up to `n` waiting tasks (None: all, and tasks that they submit), oldest first.

        Runs them in the calling thread; returns the number of attempts. For pools with `DELAY_MODE
        = "manual"` of apps to which a task was submitted. Raises RuntimeError if those apps have no
        such pool.
        """
        pools = [pool for app in self._apps for mode, pool in _pools(app) if mode == "manual"]
        if self._apps and not pools:
            names = ", ".join(repr(app.name) for app in self._apps)
            raise RuntimeError(
                f'run() is for DELAY_MODE = "manual", which app {names} has not: its tasks are'
                f" run without it, and executor.drain(timeout) waits for them"
            )
        count, found = 0, 1
        # A task of one pool may submit to another.
        while found and count != n:
            found = 0
            for pool in pools:
                found += pool.run_pending(None if n is None else n - count - found)
            count += found
        return count

    def _add(self, app: Flask, future: Future[Any]) -> None:
        called = future._call()
        if called is None:
            return
        function, args, kwargs, _ = called
        if app not in self._apps:
            self._apps.append(app)
        self._calls.append(Call(function, args, kwargs, {}, future))

    def _add_options(
        self, future: Future[Any], given: options.Options, called: options.Called
    ) -> None:
        # Usually the last one, but in immediate mode a task may have submitted others.
        for number in reversed(range(len(self._calls))):
            it = self._calls[number]
            if it.future is future:
                # With `unique` the future may be that of an earlier submit.
                if not it.options:
                    it.options.update(given)
                if not (it.args or it.kwargs):
                    # The future of a durable task has none: the journal has them.
                    self._calls[number] = replace(it, args=called[1], kwargs=called[2])
                return

    @overload
    def __getitem__(self, index: int) -> Call: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Call]: ...

    def __getitem__(self, index: int | slice) -> Call | Sequence[Call]:
        return self._calls[index]

    def __len__(self) -> int:
        return len(self._calls)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return self.calls == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self._calls)


class LeakCheck:
    """Tracks the tasks that are submitted to apps of this process, while it is entered."""

    def __init__(self) -> None:
        # Weak: unfinished tasks keep their futures, and the others are not needed.
        self._futures: set[weakref.ref[Future[Any]]] = set()

    def __enter__(self) -> Self:
        task_submitted.connect(self._add, weak=False)
        return self

    def __exit__(self, *_: object) -> None:
        task_submitted.disconnect(self._add)

    def left(self, grace: float = 0.0) -> str:
        """Wait up to `grace` seconds for all tasks; return the unfinished ones as text, or "".

        Cancels tasks that have not started, so that they do not run in the next test.
        """
        end = time.monotonic() + grace
        # Checked again each time, for tasks may submit others.
        while (left := self._open()) and (rest := end - time.monotonic()) > 0:
            wait(left, rest)
        if not left:
            return ""
        names = ", ".join(sorted(f"{future.name} ({future.state})" for future in left))
        for future in left:
            if future.state == "pending":
                future.cancel()
        are = "task is" if len(left) == 1 else "tasks are"
        return (
            f"{len(left)} {are} not done {grace:g} s after the test: {names}; wait for what a test"
            f" submits, with future.result(timeout) or executor.drain(timeout)"
        )

    def _add(self, _app: Flask, future: Future[Any]) -> None:
        self._futures.add(weakref.ref(future, self._futures.discard))

    def _open(self) -> list[Future[Any]]:
        # A copy first: futures may be freed during the iteration.
        futures = [future for ref in self._futures.copy() if (future := ref()) is not None]
        return [future for future in futures if not future.done()]


@contextlib.contextmanager
def journal(folder: str | os.PathLike[str], *, name: str = "delay") -> Iterator[dict[str, Any]]:
    """The settings of an app whose durable tasks have a journal in this folder.

    `with journal(tmp_path) as settings: app = create_app(settings)`. They are for the `Delay` of
    this name, and for threads, whatever `DELAY_MODE` the other tests have. The file is quick and
    does not outlive a power cut. At the end, each `Delay` with that journal is shut down: its
    running tasks end, and those that wait stay in the file.
    """
    path = Path(folder).resolve() / "journal.db"
    prefix = f"{name.upper()}_"
    try:
        yield {
            f"{prefix}MODE": "threads",
            f"{prefix}JOURNAL": str(path),
            f"{prefix}JOURNAL_SYNC": "never",
        }
    finally:
        for state in states():
            if state.store.path == path:
                state.shutdown(wait=True, cancel_futures=True)


def _pools(app: Flask) -> Iterator[tuple[str, Executor]]:
    """The mode and the pool of each `Delay` of an app."""
    for state in app.extensions.values():
        if isinstance(getattr(state, "owner", None), Delay):
            yield state.config.mode, state.executor


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function below `@task`."""
    return function.__wrapped__ if isinstance(function, Task) else function
