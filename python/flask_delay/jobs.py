"""Jobs: functions that run again and again, on a machine with many processes once."""

import inspect
import os
import re
import sys
import threading
import time
import weakref
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from flask_delay import leader, supervision
from flask_delay._native import Executor, Future, _Rhythm, _Ticker
from flask_delay.logs import log as _log


class Plan(NamedTuple):
    """When a job runs, and what it goes by: its options."""

    rhythm: _Rhythm
    text: str
    overlap: bool
    key: object


class Job:
    """A function that runs again and again: what `using(every=...).delay(fn)` returns.

    Each run is a task of its own, as by `delay`, but with an empty context. Every method
    may be called from any thread.
    """

    def __init__(
        self,
        jobs: "Jobs",
        plan: Plan,
        submit: Callable[..., Future[Any]],
        name: str,
        call: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]],
    ) -> None:
        """As `Jobs.start`, which makes it."""
        self.name = name
        """What it is called in the log and in its file: the function, its arguments, when."""
        self._jobs = jobs
        self._plan = plan
        self._submit = submit
        self._call = call
        self._cancelled = False
        self._inherited = False
        # A shell or a migration ends when its user likes, and may have another code.
        self._active = jobs.active and not supervision.loads_for_a_command()
        # None where there is nothing to agree on.
        self._lead: leader.Lead | None = None
        if jobs.folder is not None and self._active:
            self._lead = leader.lead(jobs.folder, name)
        self._reset()
        this = weakref.ref(self)

        def tick(at: int) -> None:
            job = this()
            if job is not None:
                job._tick(at)  # noqa: SLF001

        self._ticker = _Ticker(jobs.executor, plan.rhythm, tick)
        # The timer keeps the ticker, and not the job.
        weakref.finalize(self, self._ticker.stop).atexit = False
        if self._active:
            self._ticker.start()

    def __repr__(self) -> str:
        state = "cancelled" if self._cancelled else f"next run {self.next_run}"
        return f"<Job {self.name}: {state}>"

    @property
    def next_run(self) -> datetime | None:
        """When it runs next (UTC, aware), here or in another process; None if never."""
        if self._cancelled:
            return None
        now = time.time_ns()
        # The ticker is behind for a moment at each tick, and always where there is none.
        due = self._ticker.next or 0
        due = due if due > now else self._plan.rhythm.after(now) or 0
        return datetime.fromtimestamp(due / 1e9, UTC) if due else None

    @property
    def last(self) -> Future[Any] | None:
        """The future of its newest run in this process; None if there was none."""
        return self._last

    @property
    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._cancelled

    def cancel(self) -> bool:
        """Have it not run any more in this process; False if it was cancelled before.

        A run that goes on is not stopped, see `last`. After that, other processes that have
        the job run it, until it is cancelled there too.
        """
        if self._cancelled:
            return False
        self._cancelled = True
        self._ticker.stop()
        self._jobs.forget(self)
        self._leave()
        return True

    def _leave(self) -> None:
        """Leave the job to other processes, as soon as no run of it goes on here."""
        if self._lead is None:
            return
        let_go, last = self._lead.let_go, self._last
        if last is None or self._plan.overlap:
            let_go()
        else:
            last.add_done_callback(lambda _: let_go())

    def _restart(self) -> None:
        """Go on in a process that was forked from the one that had it."""
        self._inherited = True
        self._reset()
        if self._lead is not None:
            self._lead.forget_parent()
        if self._active and not self._cancelled and not self._ticker.over:
            self._ticker.start()

    def _reset(self) -> None:
        # One that another thread held when the process was forked is held for ever.
        self._turn = threading.Lock()
        self._last: Future[Any] | None = None
        self._told = False

    def _tick(self, at: int) -> None:
        """Run, if it is for this process to do. Called on a worker, at each tick.

        `at` is in nanoseconds since 1970.
        """
        # If another thread is about to run it, this tick is one too many.
        if not self._turn.acquire(blocking=False):
            return
        try:
            if not self._cancelled and self._is_ours(at):
                self._run()
        except Exception:
            if not self._ticker.over:
                _log.exception("job %s could not be run", self.name)
        finally:
            if self._cancelled or _ending.is_set():
                # By somebody who came before the lock was taken.
                self._leave()
            self._turn.release()

    def _is_ours(self, at: int) -> bool:
        if (
            supervision.watches_only()
            or supervision.works_for_another()
            or (self._inherited and _is_child())
        ):
            # It is never to be asked again, unless it is forked.
            self._ticker.stop()
            if self._lead is not None:
                self._lead.let_go()
            return False
        if _ending.is_set():
            return False
        if self._lead is None:
            return True
        now = time.time_ns()
        return self._lead.take(at, lambda last: self._plan.rhythm.has_come(at, last, now))

    def _run(self) -> None:
        if self._last is not None and not self._last.done() and not self._plan.overlap:
            if not self._told:
                self._told = True
                _log.warning(
                    "job %s is left out while its last run, task %s, goes on",
                    self.name,
                    self._last.id,
                )
            return
        self._told = False
        function, args, kwargs = self._call
        self._last = self._submit(function, *args, **kwargs)


def _is_child() -> bool:
    """Whether `multiprocessing` has made this process, to do something else."""
    module = sys.modules.get("multiprocessing.process")
    return module is not None and module.parent_process() is not None


class Jobs:
    """The jobs of one executor. May be used from any thread."""

    def __init__(
        self,
        executor: Executor,
        *,
        folder: Path | None = None,
        active: bool = True,
        check: Callable[[object], object] = lambda _: None,
    ) -> None:
        """Have none yet.

        In `folder` are the files by which the processes of a machine agree on who runs a job;
        without one each process does. Jobs that are not `active` never run by themselves.
        `check` raises for an argument that a job may not have.
        """
        self.executor = executor
        self.folder = folder
        self.active = active
        self._check = check
        # No lock: each access is one step, and a fork finds nothing half done.
        self._all: dict[str, Job] = {}
        _everywhere.add(self)

    def start(
        self,
        plan: Plan,
        submit: Callable[..., Future[Any]],
        function: Callable[..., Any],
        /,
        *args: Any,
        **kwargs: Any,
    ) -> Job:
        """Make a job of `function(*args, **kwargs)`; the one that is there, if it is the same.

        At each tick it is given to `submit`, on a worker of the executor.

        Raises TypeError for what is no function, and for an argument that would not outlive
        its request; ValueError if the job cannot be told from others; RuntimeError after
        shutdown; OSError if its file cannot be written.
        """
        if not callable(function):
            raise TypeError(f"the job must be callable, got {function!r}")
        if inspect.isasyncgenfunction(function):
            raise TypeError(f"{function!r} is an async generator function: nobody would iterate")
        for value in (*args, *kwargs.values()):
            self._check(value)
        call = (function, args, kwargs)
        name = f"{_identity(plan.key, call)} {plan.text}"
        found = self._all.get(name)
        if found is None:
            job = Job(self, plan, submit, name, call)
            found = self._all.setdefault(name, job)
        if found._call != call:
            raise ValueError(
                f"there is a job {name} of another function or with other arguments; give one of"
                f" them the option 'key' with a value of its own"
            )
        return found

    def all(self) -> list[Job]:
        """Those that were not cancelled."""
        return list(self._all.values())

    def forget(self, job: Job) -> None:
        """A job was cancelled."""
        if self._all.get(job.name) is job:
            del self._all[job.name]

    def cancel(self) -> None:
        """Cancel all of them."""
        for job in self.all():
            job.cancel()


_everywhere: weakref.WeakSet[Jobs] = weakref.WeakSet()


def restart() -> None:
    """Go on with all jobs in a process that was just forked."""
    for jobs in list(_everywhere):
        for job in jobs.all():
            job._restart()  # noqa: SLF001


os.register_at_fork(after_in_child=restart)

_ending = threading.Event()


def end() -> None:
    """Leave all jobs to other processes: this one ends, but may wait for tasks for long."""
    _ending.set()
    for jobs in list(_everywhere):
        for job in jobs.all():
            job._leave()  # noqa: SLF001


# Before the native module's hook, which is registered already, waits for the tasks.
threading._register_atexit(end)  # type: ignore[attr-defined]  # noqa: SLF001


# An address, which in another process is another one.
_ADDRESS = re.compile(r" at 0x[0-9a-f]+", re.IGNORECASE)


def _identity(key: object, call: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]) -> str:
    """What the job is called in every process that has it."""
    function, args, kwargs = call
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if module == "__mp_main__":
        # What multiprocessing calls it in the processes that it starts anew.
        module = "__main__"
    owner = getattr(function, "__self__", None)
    distinguishes: object = (args, kwargs)
    if key is not None:
        distinguishes = key(*args, **kwargs) if callable(key) else key
        distinct = repr(distinguishes)
        known = f"{module}.{name}" if name else type(function).__qualname__
        text = f"{known}[{distinct}]"
    else:
        plain = name and (owner is None or inspect.ismodule(owner))
        known = f"{module}.{name}" if plain else repr(function)
        named = [f"{name}={value!r}" for name, value in kwargs.items()]
        text = f"{known}({', '.join([*map(repr, args), *named])})"
    if _ADDRESS.search(text) or _is_unordered(distinguishes):
        raise ValueError(
            f"the job {text} would have another name in each process, and run in each of them:"
            f" give it the option 'key', a string that says which one it is"
        )
    return text


def _is_unordered(value: object) -> bool:
    """Whether it has a set in it, which `repr` shows in another order in each process."""
    if isinstance(value, set | frozenset):
        return len(value) > 1
    if isinstance(value, dict):
        return any(map(_is_unordered, [*value, *value.values()]))
    return isinstance(value, list | tuple) and any(map(_is_unordered, value))
