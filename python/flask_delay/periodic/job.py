"""Periodic jobs: functions that run repeatedly, once on a machine with many processes."""

import contextvars
import hashlib
import inspect
import os
import re
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
    JournalUnavailable,
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
# Missed ticks are logged if they span this many nanoseconds.
_LONG = 10 * 10**9
# Seconds between two attempts to make up for a missed tick.
_AGAIN = 1.0

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
"""A function and its arguments."""


class Plan(NamedTuple):
    """The schedule of a job, and its options."""

    rhythm: _Rhythm
    text: str
    overlap: bool
    key: object
    expires: float | None = None
    by_message: bool = False
    """Whether a run is a message to somebody else, which may be lost."""
    durable: bool = False
    """Whether each run is a durable task."""
    makes_up: bool = False
    """Whether the newest tick at which no process was there is made up for."""
    lead: "Callable[[Description], leader.Lead] | None" = None
    """What makes the lead of the job; None for the usual one."""

    def patience(self) -> float:
        """The seconds that a run may wait for its start, unless an option sets them."""
        now = time.time_ns()
        left = ((self.rhythm.after(now) or now) - now) / 1e9
        return self.expires or max(left, _SHORTEST_PATIENCE)


class Description(NamedTuple):
    """What the lead of a job may have to know."""

    id: str
    name: str
    plan: Plan
    call: Call


class _Seldom:
    """Reports the 1st, 10th, 100th ... occurrence of a repeated event."""

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
    """A function that runs repeatedly: the result of `using(every=...).delay(fn)`.

    Each run is a task of its own, as by `delay`, but with an empty context. Every method may be
    called from any thread.
    """

    def __init__(
        self,
        jobs: "Jobs",
        plan: Plan,
        submit: Callable[..., Future[Any]],
        id: str,
        call: Call,
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
        self._failures, self._misses, self._debts = _Seldom(), _Seldom(), _Seldom()
        # A shell or a migration may end at any time, and may have other code.
        self._active = jobs.active and not role.loads_for_a_command()
        self._lead = jobs.lead(Description(self.id, str(self), plan, call))
        # A process that only starts and watches others may be root, while they are not.
        if self._active and (os.geteuid() != 0 or not role.is_bystander()):
            self._lead.prepare()
            if self._lead.paused:
                _log.warning("job %s is paused: it does not run before its resume()", self)
        self._reset()
        this = weakref.ref(self)

        def tick(at: int) -> None:
            job = this()
            if job is not None:
                job._tick(at)  # noqa: SLF001

        def make_up(_: int) -> None:
            job = this()
            if job is not None:
                job._pay()  # noqa: SLF001

        self._ticker = _Ticker(jobs.executor, plan.rhythm, tick)
        self._second = _Ticker(jobs.executor, _Rhythm(every=_AGAIN), make_up)
        # The timer keeps the tickers alive, and not the job.
        for ticker in (self._ticker, self._second):
            weakref.finalize(self, ticker.stop).atexit = False
        if self._active:
            self._start()

    def __str__(self) -> str:
        return f"{self.name} ({self.schedule})"

    def __repr__(self) -> str:
        state = "cancelled" if self._cancelled else f"next run {self.next_run}"
        return f"<Job {self}: {state}>"

    @property
    def next_run(self) -> datetime | None:
        """The time of the next run (UTC, aware), here or in another process; None if never.

        None too while the job is paused.
        """
        if self._cancelled or self.paused:
            return None
        now = time.time_ns()
        # The ticker is late for a moment at each tick, and always in a process without one.
        due = self._ticker.next or 0
        due = due if due > now else self._plan.rhythm.after(now) or 0
        return datetime.fromtimestamp(due / 1e9, UTC) if due else None

    @property
    def last(self) -> Future[Any] | None:
        """The future of the newest run in this process; None if there was none.

        With `durable=True`, that of the newest run in any process.
        """
        return self._lead.newest() or self._last

    @property
    def last_tick(self) -> datetime | None:
        """The newest tick (UTC, aware) that was run or left out, in any process.

        None if there was none, and if that cannot be read.
        """
        last = self._lead.standing().last
        return datetime.fromtimestamp(last / 1e9, UTC) if last else None

    @property
    def left_out(self) -> int:
        """How many ticks in a row were left out, since the last run goes on in some process."""
        return self._lead.standing().left_out

    @property
    def durable(self) -> bool:
        """Whether each run is a durable task."""
        return self._plan.durable

    @property
    def cancelled(self) -> bool:
        """Whether the job was cancelled."""
        return self._cancelled

    @property
    def paused(self) -> bool:
        """Whether the job is paused; False if that cannot be read."""
        return self._lead.paused

    def run_now(self) -> Future[Any]:
        """Run the job once more, in this process and at once; return the future of that run.

        With `durable=True` it is a durable task, which any process runs. Its ticks do not change.
        Works while the job is paused, and in processes where jobs do not run by themselves. Raises
        DuplicateTask while the last run continues, in any process, unless runs may overlap;
        RuntimeError if the job was cancelled and after `shutdown`; OSError if its file cannot be
        written, JournalUnavailable if the journal cannot; otherwise as `delay`.
        """
        if self._cancelled:
            raise RuntimeError(f"job {self} was cancelled: make it anew by its delay()")
        self._give_up_lost()
        answer = self._lead.take(None, lambda _: False, alone=not self._plan.overlap)
        if not answer.runs:
            raise DuplicateTask(f"the last run of job {self} {_going_on(answer)}")
        return self._begun(answer)

    def pause(self) -> None:
        """Stop running the job on its ticks until `resume`, in all processes of the machine.

        The job's file, or the journal, stores this, so it survives the processes. Where each
        process runs its own jobs, it applies to this process. A run that has started is not
        stopped. Raises OSError if the file cannot be written, JournalUnavailable if the journal
        cannot.
        """
        self._lead.pause(True)

    def resume(self) -> None:
        """Run the job again from its next tick on, after `pause`. Raises as `pause`."""
        self._lead.pause(False)

    def cancel(self) -> bool:
        """Stop running the job in this process; False if it was cancelled before.

        A run that has started is not stopped, see `last`. Other processes that have the job
        continue to run it, until it is cancelled there too.
        """
        if self._cancelled:
            return False
        self._cancelled = True
        self._stop()
        self._jobs.forget(self)
        return True

    def _restart(self) -> None:
        """Continue in a process that was forked from the one with the job."""
        self._inherited = True
        self._reset()
        self._lead.forget_parent()
        if self._active and not self._cancelled and not self._ticker.over:
            self._start()

    def _reset(self) -> None:
        self._last: Future[Any] | None = None
        self._lost_at: float | None = None
        self._since = time.time_ns()
        # The time until which a tick may have been missed, in nanoseconds since 1970.
        self._owed: int | None = self._since if self._plan.makes_up else None

    def _start(self) -> None:
        self._ticker.start()
        if self._owed is not None:
            self._second.start()

    def _stop(self) -> None:
        self._ticker.stop()
        self._second.stop()

    def _tick(self, at: int) -> None:
        """Run the job, if this process is the one to do it. Called on a worker, at each tick.

        `at` is in nanoseconds since 1970.
        """
        if self._cancelled or not self._is_ours():
            return
        if role.is_starting():
            # The process may come to watch another one, which then has the job.
            self._owe(at)
            return
        self._pay()
        try:
            self._give_up_lost()
            answer = self._lead.take(
                at,
                lambda last: self._plan.rhythm.has_come(at, last, time.time_ns()),
                alone=not self._plan.overlap,
            )
            if answer.runs:
                self._begun(answer)
        except Exception as error:
            self._owe(at)
            self._fail(error, self._failures)
        else:
            self._failures.reset()
            self._tell(at, answer)

    def _fail(self, error: Exception, failures: _Seldom) -> None:
        """Log why the job did not run."""
        if isinstance(error, OSError | JournalUnavailable):
            if failures.again():
                _log.error("job %s cannot be run: %s", self, error)
        elif not self._ticker.over and failures.again():
            _log.error("job %s could not be run", self, exc_info=error)

    def _owe(self, at: int) -> None:
        """Make up for this tick as soon as that is possible, or for a later one."""
        if self._plan.makes_up and not self._ticker.over and not self._cancelled:
            self._owed = at
            self._second.start()

    def _pay(self) -> None:
        """Make up for a tick that was missed, if there is one. Called on a worker."""
        owed = self._owed
        if owed is None or self._cancelled or not self._is_ours() or role.is_starting():
            return
        try:
            answer = self._lead.make_up(owed)
        except Exception as error:
            self._fail(error, self._debts)
            return
        self._debts.reset()
        # Another thread may have noted a later one meanwhile.
        if self._owed == owed:
            self._owed = None
            self._second.stop()
        if answer.runs:
            run = self._begun(answer)
            _log.warning(
                "job %s missed its last tick, since no process was there for it, and runs now: task"
                " %s",
                self,
                run.id,
            )

    def _is_ours(self) -> bool:
        if role.is_bystander() or (self._inherited and role.is_child()):
            # This process will never run the job, unless it is forked.
            self._stop()
            return False
        return not _ending.is_set()

    def _begun(self, answer: leader.Answer) -> Future[Any]:
        """The run for a tick that this process has taken."""
        if answer.run is None:
            return self._run()
        run: Future[Any] = answer.run
        self._last = run
        return run

    def _run(self) -> Future[Any]:
        function, args, kwargs = self._call
        try:
            # An empty context, as at a tick.
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
        """Cancel a run that was sent, but did not start within its time."""
        last, lost_at = self._last, self._lost_at
        if last is None or lost_at is None or time.monotonic() < lost_at:
            return
        self._lost_at = None
        # A started run is late, or waits for a retry, as far as this process can tell.
        if last.attempts == 0 and last.state == "pending" and last.cancel():
            _log.warning(
                "job %s: its last run was not begun by any worker in time, and is given up", self
            )

    def _tell(self, at: int, answer: leader.Answer) -> None:
        """Log the reason why the job did not run."""
        if answer.unreadable:
            _log.warning("job %s: the note in its file cannot be read, and begins anew", self)
        if answer.left_out and _is_to_be_said(answer.left_out):
            # The process that sees the tick first logs this, since the one with the run may hang.
            _log.warning(
                "job %s is left out, since its last run %s (so far %d in a row; the option"
                " 'timeout' ends a run that hangs)",
                self,
                _going_on(answer),
                answer.left_out,
            )
        if not answer.runs:
            return
        missed = None if answer.last is None else self._plan.rhythm.after(answer.last)
        # Before any process had the job, no tick was missed.
        if missed is None or missed < self._since or at - missed < _LONG:
            self._misses.reset()
        elif self._misses.again():
            _log.warning(
                "job %s did not run at %s: no process was free to, or the machine slept",
                self,
                datetime.fromtimestamp(missed / 1e9, UTC).isoformat(" ", "seconds"),
            )


def _going_on(answer: leader.Answer) -> str:
    return "has not ended" if answer.by is None else f"goes on in process {answer.by}"


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
        journal: Callable[[Description], leader.Lead] | None = None,
    ) -> None:
        """Make an empty collection.

        `folder` has the files by which the processes of a machine agree on the process that runs a
        job; without a folder each process runs its own jobs. `owner` names the owner of the jobs in
        a shared folder; `remedy` is the advice in the error if the folder cannot be written. Jobs
        never run by themselves unless `active`. `check` raises for an argument that a job may not
        have. With `journal`, which makes the lead of a job, the processes agree by that and not by
        files.
        """
        self.executor = executor
        self.active = active
        self.folder = folder if active and journal is None else None
        self._journal = journal if active else None
        self._owner = owner
        self._remedy = remedy
        self._check = check
        # No lock: each access is atomic, and a fork finds nothing half done.
        self._all: dict[str, Job] = {}
        self._cleaned = False
        _everywhere.add(self)

    def lead(self, job: Description) -> leader.Lead:
        """The object that decides whether a job runs in this process."""
        make = job.plan.lead or self._journal
        if make is not None:
            return make(job)
        if self.folder is None:
            return leader.Lead()
        return leader.lead(self.folder, job.id, job.name, self._remedy)

    def start(
        self,
        plan: Plan,
        submit: Callable[..., Future[Any]],
        function: Callable[..., Any],
        /,
        *args: Any,
        **kwargs: Any,
    ) -> Job:
        """Make a job of `function(*args, **kwargs)`, or return the same job if it exists.

        At each tick `submit` is called with it, on a worker of the executor.

        Raises TypeError for an object that is not a function, and for an argument that would not
        outlive its request; ValueError if the job cannot be told from others; RuntimeError after
        shutdown; OSError if its file cannot be written; or as what makes its lead.
        """
        _check_function(function, "job")
        for value in (*args, *kwargs.values()):
            self._check(value)
        call = (function, args, kwargs)
        identity = f"{self._owner}{_identity(plan.key, call)} {plan.text}"
        # A job's file or page must not reveal its arguments.
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
        """The jobs that were not cancelled."""
        return list(self._all.values())

    def forget(self, job: Job) -> None:
        """Remove a cancelled job."""
        if self._all.get(job.id) is job:
            del self._all[job.id]

    def cancel(self) -> None:
        """Cancel all of them."""
        for job in self.all():
            job.cancel()

    def _clean(self) -> None:
        # Only in a process that serves: a shell may run as another user.
        if self.folder is not None and not self._cleaned and not role.is_bystander():
            self._cleaned = True
            leader.clean(self.folder)


_everywhere: weakref.WeakSet[Jobs] = weakref.WeakSet()


def _restart() -> None:
    """Continue all jobs in a process that was just forked."""
    for jobs in list(_everywhere):
        for job in jobs.all():
            job._restart()  # noqa: SLF001


role.after_fork(_restart)

_ending = threading.Event()


def end() -> None:
    """Leave all ticks to other processes: this process ends, but may wait long for its tasks."""
    _ending.set()


# Called before the native module's hook, registered earlier, waits for the tasks.
before_threads_end(end)


# An address differs in another process.
_ADDRESS = re.compile(r" at 0x[0-9a-f]+", re.IGNORECASE)


def _identity(key: object, call: Call) -> str:
    """The identity of the job, the same in every process that has it."""
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
        # Without the value itself, which may be a secret.
        raise ValueError(
            f"the job {name_of(function)} would have another name in each process, and run in"
            f" each of them ({', '.join(wrong)}): give it the option 'key', a string that says"
            f" which one it is"
        )
    return text


def _is_unordered(value: object) -> bool:
    """Whether the value contains a set, whose `repr` has another order in each process."""
    if isinstance(value, set | frozenset):
        return len(value) > 1
    if isinstance(value, dict):
        return any(map(_is_unordered, [*value, *value.values()]))
    return isinstance(value, list | tuple) and any(map(_is_unordered, value))
