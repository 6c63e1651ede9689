"""Jobs: functions that run again and again, on a machine with many processes once."""

import contextvars
import hashlib
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

from flask_delay._native import (
    DuplicateTask,
    Executor,
    Future,
    _check_function,
    _Rhythm,
    _Ticker,
)
from flask_delay.logs import log as _log
from flask_delay.periodic import leader
from flask_delay.registry import name_of, qualname_of
from flask_delay.servers import role
from flask_delay.servers.cpython import before_threads_end

# Seconds.
_SHORTEST_PATIENCE = 60.0
_GRACE = 60.0
# Nanoseconds by which ticks must have been missed for that to be said.
_LONG = 10 * 10**9


class Plan(NamedTuple):
    """When a job runs, and what it goes by: its options."""

    rhythm: _Rhythm
    text: str
    overlap: bool
    key: object
    expires: float | None = None
    by_message: bool = False
    """Whether a run is a message to somebody else, which may be lost."""

    def patience(self) -> float:
        """For how many seconds a run may wait for its start, unless that is an option."""
        now = time.time_ns()
        left = ((self.rhythm.after(now) or now) - now) / 1e9
        return self.expires or max(left, _SHORTEST_PATIENCE)


class _Seldom:
    """Says of what happens again and again when to say so: the 1st, 10th, 100th ... time."""

    def __init__(self) -> None:
        self._count = 0

    def again(self) -> bool:
        self._count += 1
        return _is_to_be_said(self._count)

    def reset(self) -> None:
        self._count = 0


def _is_to_be_said(count: int) -> bool:
    return str(count).rstrip("0") == "1"


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
        id: str,
        call: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]],
    ) -> None:
        """As `Jobs.start`, which makes it."""
        self.name = name_of(call[0])
        """What it is called in the log: the function, with its module."""
        self.schedule = plan.text
        """When it runs: "every 60 s", or the line of the crontab and the time zone."""
        self.id = id
        """Which one it is, in all processes that have it; goes by its arguments too."""
        self._jobs = jobs
        self._plan = plan
        self._submit = submit
        self._call = call
        self._cancelled = False
        self._inherited = False
        self._failures, self._misses = _Seldom(), _Seldom()
        # A shell or a migration ends when its user likes, and may have another code.
        self._active = jobs.active and not role.loads_for_a_command()
        self._lead = jobs.lead(self.id, str(self))
        # Who starts and watches others may be root, and they not.
        if self._active and (os.geteuid() != 0 or not _is_bystander()):
            self._lead.prepare()
            if self._lead.paused:
                _log.warning("job %s is paused: it does not run before its resume()", self)
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

    def __str__(self) -> str:
        return f"{self.name} ({self.schedule})"

    def __repr__(self) -> str:
        state = "cancelled" if self._cancelled else f"next run {self.next_run}"
        return f"<Job {self}: {state}>"

    @property
    def next_run(self) -> datetime | None:
        """When it runs next (UTC, aware), here or in another process; None if never.

        None too while it is paused.
        """
        if self._cancelled or self.paused:
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

    @property
    def paused(self) -> bool:
        """Whether it is paused; False if its file cannot be read."""
        return self._lead.paused

    def run_now(self) -> Future[Any]:
        """Run it once more, in this process and at once; returns the future of that run.

        Its ticks stay as they are. It runs too while it is paused, and where jobs do not run
        by themselves. Raises DuplicateTask while its last run goes on, in whichever process,
        unless runs may overlap; RuntimeError if it was cancelled and after `shutdown`; OSError
        if its file cannot be written; and as `delay`.
        """
        if self._cancelled:
            raise RuntimeError(f"job {self} was cancelled: make it anew by its delay()")
        self._give_up_lost()
        answer = self._lead.take(None, lambda _: False, alone=not self._plan.overlap)
        if not answer.runs:
            raise DuplicateTask(f"the last run of job {self} goes on in process {answer.by}")
        return self._run()

    def pause(self) -> None:
        """Have it not run by itself until `resume`, in no process of the machine.

        That outlasts the processes: it is in the job's file. Where each process runs its own
        jobs, it is for this one. A run that goes on is not stopped. Raises OSError if the
        file cannot be written.
        """
        self._lead.pause(True)

    def resume(self) -> None:
        """Have it run again, from its next tick on, after `pause`. Raises as that."""
        self._lead.pause(False)

    def cancel(self) -> bool:
        """Have it not run any more in this process; False if it was cancelled before.

        A run that goes on is not stopped, see `last`. Other processes that have the job run
        it after that, until it is cancelled there too.
        """
        if self._cancelled:
            return False
        self._cancelled = True
        self._ticker.stop()
        self._jobs.forget(self)
        return True

    def _restart(self) -> None:
        """Go on in a process that was forked from the one that had it."""
        self._inherited = True
        self._reset()
        self._lead.forget_parent()
        if self._active and not self._cancelled and not self._ticker.over:
            self._ticker.start()

    def _reset(self) -> None:
        self._last: Future[Any] | None = None
        self._lost_at: float | None = None
        self._since = time.time_ns()

    def _tick(self, at: int) -> None:
        """Run, if it is for this process to do. Called on a worker, at each tick.

        `at` is in nanoseconds since 1970.
        """
        if self._cancelled or not self._is_ours():
            return
        try:
            self._give_up_lost()
            answer = self._lead.take(
                at,
                lambda last: self._plan.rhythm.has_come(at, last, time.time_ns()),
                alone=not self._plan.overlap,
            )
            if answer.runs:
                self._run()
        except OSError as error:
            if self._failures.again():
                _log.error("job %s cannot be run: %s", self, error)
        except Exception:
            if not self._ticker.over and self._failures.again():
                _log.exception("job %s could not be run", self)
        else:
            self._failures.reset()
            self._tell(at, answer)

    def _is_ours(self) -> bool:
        if _is_bystander() or (self._inherited and _is_child()):
            # It is never to be asked again, unless it is forked.
            self._ticker.stop()
            return False
        return not _ending.is_set()

    def _run(self) -> Future[Any]:
        function, args, kwargs = self._call
        try:
            # As at a tick, where there is no context to be carried.
            run = contextvars.Context().run(self._submit, function, *args, **kwargs)
        except BaseException:
            if not self._plan.overlap:
                self._lead.end()
            raise
        self._last = run
        if self._plan.by_message:
            self._lost_at = time.monotonic() + self._plan.patience() + _GRACE
        if not self._plan.overlap:
            self._lead.hold(run)
        return run

    def _give_up_lost(self) -> None:
        """Cancel a run that was sent, and that nobody has begun in the time it had."""
        last, lost_at = self._last, self._lost_at
        if last is None or lost_at is None or time.monotonic() < lost_at:
            return
        self._lost_at = None
        # What has begun is at most late, for all that is known here, or waits to be retried.
        if last.attempts == 0 and last.state == "pending" and last.cancel():
            _log.warning(
                "job %s: its last run was not begun by any worker in time, and is given up", self
            )

    def _tell(self, at: int, answer: leader.Answer) -> None:
        """Say what has kept it from running."""
        if answer.unreadable:
            _log.warning("job %s: the note in its file cannot be read, and begins anew", self)
        if answer.left_out and _is_to_be_said(answer.left_out):
            # Whichever process sees the tick first says so, since the one of the run may hang.
            _log.warning(
                "job %s is left out, since its last run goes on in process %s (so far %d in a"
                " row; the option 'timeout' ends a run that hangs)",
                self,
                answer.by,
                answer.left_out,
            )
        if not answer.runs:
            return
        missed = None if answer.last is None else self._plan.rhythm.after(answer.last)
        # Where nobody had the job, nobody has missed a tick.
        if missed is None or missed < self._since or at - missed < _LONG:
            self._misses.reset()
        elif self._misses.again():
            _log.warning(
                "job %s did not run at %s: no process was free to, or the machine slept",
                self,
                datetime.fromtimestamp(missed / 1e9, UTC).isoformat(" ", "seconds"),
            )


def _is_bystander() -> bool:
    """Whether this process leaves jobs to others."""
    return role.watches_only() or role.works_for() is not None


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
        owner: str = "",
        remedy: str = "",
        active: bool = True,
        check: Callable[[object], object] = lambda _: None,
    ) -> None:
        """Have none yet.

        In `folder` are the files by which the processes of a machine agree on who runs a job;
        without one each process does. `owner` says whose jobs they are, in a folder that is not
        theirs alone, and `remedy` what to do if it cannot be written. Jobs that are not `active`
        never run by themselves. `check` raises for an argument that a job may not have.
        """
        self.executor = executor
        self.active = active
        self.folder = folder if active else None
        self._owner = owner
        self._remedy = remedy
        self._check = check
        # No lock: each access is one step, and a fork finds nothing half done.
        self._all: dict[str, Job] = {}
        self._cleaned = False
        _everywhere.add(self)

    def lead(self, id: str, name: str) -> leader.Lead:
        """What decides whether a job runs in this process."""
        if self.folder is None:
            return leader.Lead()
        return leader.lead(self.folder, id, name, self._remedy)

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
        _check_function(function, "job")
        for value in (*args, *kwargs.values()):
            self._check(value)
        call = (function, args, kwargs)
        identity = f"{self._owner}{_identity(plan.key, call)} {plan.text}"
        # Nobody is to read a job's arguments off its file, or off a page.
        id = hashlib.sha256(identity.encode(errors="surrogatepass")).hexdigest()[:32]
        found = self._all.get(id)
        if found is None:
            job = Job(self, plan, submit, id, call)
            found = self._all.setdefault(id, job)
            self._clean()
        if found._call != call:
            raise ValueError(
                f"there is a job {found} of another function or with other arguments that look the"
                f" same; give one of them the option 'key' with a value of its own"
            )
        return found

    def find(self, name: str) -> Job:
        """The job of this id, `key` or name. See `Delay.job`."""
        if not isinstance(name, str):
            raise TypeError(f"the name of a job must be a string, got {name!r}")
        jobs = self.all()
        ways: list[Callable[[Job], bool]] = [
            lambda job: job.id == name,
            lambda job: job._plan.key == name,  # noqa: SLF001
            lambda job: job.name == name,
            lambda job: job.name.endswith(f".{name}"),
        ]
        for is_it in ways:
            found = [job for job in jobs if is_it(job)]
            if len(found) == 1:
                return found[0]
            if found:
                them = ", ".join(f"{job.id} is {job}" for job in found)
                raise LookupError(f"{len(found)} jobs are called {name!r}; ask by id: {them}")
        known = ", ".join(sorted({job.name for job in jobs})) or "none"
        raise LookupError(f"there is no job {name!r} in this process; those it has: {known}")

    def all(self) -> list[Job]:
        """Those that were not cancelled."""
        return list(self._all.values())

    def forget(self, job: Job) -> None:
        """A job was cancelled."""
        if self._all.get(job.id) is job:
            del self._all[job.id]

    def cancel(self) -> None:
        """Cancel all of them."""
        for job in self.all():
            job.cancel()

    def _clean(self) -> None:
        # Only in a process that serves: a shell may run as another user.
        if self.folder is not None and not self._cleaned and not _is_bystander():
            self._cleaned = True
            leader.clean(self.folder)


_everywhere: weakref.WeakSet[Jobs] = weakref.WeakSet()


def restart() -> None:
    """Go on with all jobs in a process that was just forked."""
    for jobs in list(_everywhere):
        for job in jobs.all():
            job._restart()  # noqa: SLF001


os.register_at_fork(after_in_child=restart)

_ending = threading.Event()


def end() -> None:
    """Leave all ticks to other processes: this one ends, but may wait for tasks for long."""
    _ending.set()


# Before the native module's hook, which is registered already, waits for the tasks.
before_threads_end(end)


# An address, which in another process is another one.
_ADDRESS = re.compile(r" at 0x[0-9a-f]+", re.IGNORECASE)


def _identity(key: object, call: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]) -> str:
    """What tells the job from others, and is the same in every process that has it."""
    function, args, kwargs = call
    has_name = qualname_of(function) is not None
    if key is not None:
        distinct = key(*args, **kwargs) if callable(key) else key
        parts: dict[str, object] = {"'key'": distinct}
        known = name_of(function) if has_name else type(function).__qualname__
        text = f"{known}[{distinct!r}]"
    else:
        owner = getattr(function, "__self__", None)
        plain = has_name and (owner is None or inspect.ismodule(owner))
        known = name_of(function) if plain else repr(function)
        parts = {f"argument {place}": value for place, value in enumerate(args, 1)}
        parts |= {f"argument {name!r}": value for name, value in kwargs.items()}
        named = [f"{name}={value!r}" for name, value in kwargs.items()]
        text = f"{known}({', '.join([*map(repr, args), *named])})"
    wrong = [
        f"the {part}, a {type(value).__name__}"
        for part, value in parts.items()
        if _ADDRESS.search(repr(value)) or _is_unordered(value)
    ]
    if _ADDRESS.search(known):
        wrong.append("the function")
    if wrong:
        # Without what it is: a value may be a secret.
        raise ValueError(
            f"the job {name_of(function)} would have another name in each process, and run in"
            f" each of them ({', '.join(wrong)}): give it the option 'key', a string that says"
            f" which one it is"
        )
    return text


def _is_unordered(value: object) -> bool:
    """Whether it has a set in it, which `repr` shows in another order in each process."""
    if isinstance(value, set | frozenset):
        return len(value) > 1
    if isinstance(value, dict):
        return any(map(_is_unordered, [*value, *value.values()]))
    return isinstance(value, list | tuple) and any(map(_is_unordered, value))
