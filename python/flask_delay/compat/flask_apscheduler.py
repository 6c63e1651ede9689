"""Flask-APScheduler's interface on the jobs of a `Delay`: change the import, keep the rest.

    from flask_delay.compat.flask_apscheduler import APScheduler

replaces `from flask_apscheduler import APScheduler`. Each run of a "cron" or "interval" job happens
once on a machine, however many processes have the job. docs/migration.md lists what is different,
and what has no counterpart here.
"""

import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from pkgutil import resolve_name
from typing import Any, Literal, NoReturn, TypeVar, cast
from zoneinfo import ZoneInfo

from flask import Flask

from flask_delay import Delay, Future, config, using
from flask_delay import Job as DelayJob
from flask_delay._native import _check_call, _check_function
from flask_delay.compat import crontab
from flask_delay.config import setting
from flask_delay.logs import log as _log
from flask_delay.registry import name_of
from flask_delay.validators import checked, optional, switch, timezone

__all__ = [
    "APScheduler",
    "ConflictingIdError",
    "Job",
    "JobLookupError",
    "SchedulerAlreadyRunningError",
    "SchedulerNotRunningError",
]

_Function = TypeVar("_Function", bound=Callable[..., object])

STOPPED, RUNNING, PAUSED = range(3)

_DEFAULT = "default"
# Seconds by which a "date" job may be late, and a run of a job that may run several times at once.
_DATE_GRACE = 1.0
_OVERLAP_GRACE = 60.0


class JobLookupError(KeyError):
    """There is no job of this id."""

    __str__ = Exception.__str__


class ConflictingIdError(KeyError):
    """There is a job of this id already."""

    __str__ = Exception.__str__


class SchedulerAlreadyRunningError(RuntimeError):
    """The scheduler was started before."""


class SchedulerNotRunningError(RuntimeError):
    """The scheduler was not started, or was shut down."""


# --- Settings -----------------------------------------------------------------------


def _off(value: object) -> bool:
    if switch(value):
        raise ValueError
    return False


def _hosts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(it, str) for it in value):
        raise TypeError
    return tuple(value)


def _zone(value: object) -> str:
    name = timezone(value)
    try:
        ZoneInfo(name)
    except (OSError, LookupError) as error:
        raise ValueError from error
    return name


_ZONE = 'the name of a time zone, such as "Europe/Berlin", or a ZoneInfo'
_JOBS = "a list of dicts, each with the arguments of add_job"


def _definitions(value: object) -> tuple[dict[str, Any], ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(it, dict) for it in value):
        raise TypeError
    return tuple(value)


def _stores(value: object) -> None:
    if value != {_DEFAULT: {"type": "memory"}}:
        raise ValueError


def _workers(value: object) -> int | None:
    if not isinstance(value, dict) or value.keys() != {_DEFAULT}:
        raise ValueError
    options = value[_DEFAULT]
    if not isinstance(options, dict) or options.get("type", options.get("class")) != "threadpool":
        raise ValueError
    if options.keys() - {"type", "class", "max_workers"}:
        raise ValueError
    workers = options.get("max_workers")
    if workers is not None and (type(workers) is not int or workers < 1):
        raise ValueError
    return workers


def _defaults(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict) or value.keys() - _LIMITS:
        raise ValueError
    _limits(value)
    return dict(value)


_PAGE = (
    "the page of Delay.dashboard_blueprint() shows, runs and pauses jobs, for those whom its"
    " `authorize` lets in"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(config.Config):
    """The `SCHEDULER_` keys: those of Flask-APScheduler, and all settings of a `Delay`."""

    jobs: tuple[dict[str, Any], ...] | None = setting(
        None,
        optional(_definitions),
        _JOBS,
        "The jobs that the app begins with.",
    )
    timezone: str | None = setting(
        None,
        optional(_zone),
        f"{_ZONE}, or None for the machine's",
        'Whose clocks "cron" jobs go by, and dates without a time zone.',
    )
    allowed_hosts: tuple[str, ...] | None = setting(
        None,
        optional(_hosts),
        'a list of host names, where "*" is every one, or None for that',
        "Where the scheduler starts.",
    )
    job_defaults: Mapping[str, Any] | None = setting(
        None,
        optional(_defaults),
        "a dict with some of 'coalesce': True, 'max_instances': an integer of at least 1, and"
        " 'misfire_grace_time': a number of seconds above 0, or None",
        "The options of jobs that do not say them.",
    )
    executors: int | None = setting(
        None,
        optional(_workers),
        '{"default": {"type": "threadpool", "max_workers": 10}}: jobs run on one pool of threads;'
        ' give what needs processes to a Delay, with @task(backend="processes")',
        "How many jobs may run at once; as `MAX_WORKERS`.",
    )
    jobstores: None = setting(
        None,
        optional(_stores),
        '{"default": {"type": "memory"}}, or left out: jobs are made when the app starts. For one'
        " that makes up for what it missed: Delay.using(cron=..., durable=True, missed='run')",
        "Changes nothing.",
    )
    api_enabled: bool = setting(
        False, _off, f"false or left out: {_PAGE}", "Changes nothing: there is no such API."
    )
    views_enabled: bool = setting(
        False, _off, f"false or left out: {_PAGE}", "Changes nothing: there is no such API."
    )
    api_prefix: object = setting(None, lambda _: None, "anything", "Changes nothing.")
    endpoint_prefix: object = setting(None, lambda _: None, "anything", "Changes nothing.")
    auth: object = setting(
        None,
        optional(lambda _: _refuse_auth()),
        f"None or left out: {_PAGE}",
        "Changes nothing: there is no such API.",
    )

    def __post_init__(self) -> None:
        """Let `SCHEDULER_EXECUTORS` say what `SCHEDULER_MAX_WORKERS` does not."""
        if self.executors is None:
            return
        if self.max_workers not in {None, self.executors}:
            raise ValueError(
                f"SCHEDULER_MAX_WORKERS is {self.max_workers}, but SCHEDULER_EXECUTORS says"
                f" {self.executors}: leave one of them out"
            )
        object.__setattr__(self, "max_workers", self.executors)


def _refuse_auth() -> NoReturn:
    raise ValueError


class _Pool(Delay):
    """The `Delay` below an `APScheduler`."""

    _kind = Settings

    def __init__(self) -> None:
        super().__init__(name="flask_apscheduler")
        self.prefix = "SCHEDULER_"

    def settings(self, app: Flask) -> Settings:
        return cast("Settings", self._state_of(app).config)


# --- What a job is given ------------------------------------------------------------

_TRIGGERS = {
    "date": {"run_date", "timezone"},
    "interval": {*crontab.UNITS, "start_date", "end_date", "timezone", "jitter"},
    "cron": {*crontab.FIELDS, "start_date", "end_date", "timezone", "jitter"},
}
_LIMITS = {"coalesce", "max_instances", "misfire_grace_time"}
# What a job of each trigger has.
_SHARED = ("trigger", "args", "kwargs", "name")
_NO_COUNTERPART = {
    "jitter": "runs start at their time; let the function wait, or give it a `rate`",
    "end_date": "call remove_job() at that time, by a job with the trigger 'date'",
    "next_run_time": "run_job() runs a job at once, pause_job() keeps it from running",
}


def _limits(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a `Delay` for those of a job that say how its runs are started."""
    if given.get("coalesce", True) is not True:
        raise ValueError(
            f"'coalesce' is {given['coalesce']!r}, but runs that were missed are always one: leave"
            f" it out"
        )
    most = given.get("max_instances", 1)
    if type(most) is not int or most < 1:
        raise ValueError(f"'max_instances' is {most!r}, but must be an integer of at least 1")
    options: dict[str, Any] = {"overlap": True, "limit": most} if most > 1 else {}
    grace = given.get("misfire_grace_time", _OVERLAP_GRACE if most > 1 else None)
    if grace is not None:
        if isinstance(grace, bool) or not isinstance(grace, int | float) or not grace > 0:
            raise ValueError(
                f"'misfire_grace_time' is {grace!r}, but must be a number of seconds above 0, or"
                f" None"
            )
        options["expires"] = grace
    return options


def _date(value: object) -> datetime:
    found = datetime.fromisoformat(value) if isinstance(value, str) else value
    if not isinstance(found, datetime):
        raise TypeError
    return found


def _moment(name: str, value: object, zone: tzinfo) -> datetime:
    """The moment that a date of APScheduler stands for."""
    found = checked(_date, value, repr(name), 'a datetime, or a string as "2026-12-24 18:00:00"')
    return found if found.utcoffset() is not None else found.replace(tzinfo=zone)


class Job:
    """A job of an `APScheduler`; made by its `add_job` and `task`.

    Has `id`, `name`, `func`, `args`, `kwargs` and `trigger`. May be used from any thread.
    """

    def __init__(
        self,
        scheduler: "APScheduler",
        *,
        id: str,
        name: str,
        func: Callable[..., object],
        trigger: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        given: dict[str, Any],
    ) -> None:
        """Made by `APScheduler.add_job`."""
        self.id = id
        self.name = name
        self.func = func
        self.args = args
        self.kwargs = kwargs
        self.trigger = trigger
        self._scheduler = scheduler
        # The options, and the arguments of the trigger.
        self._given = given
        self._made: DelayJob | Future[Any] | None = None
        self._is_held = False
        self.check()

    def __repr__(self) -> str:
        return f"<Job {self.id!r}: {self.trigger}>"

    @property
    def job(self) -> DelayJob | None:
        """The job of the `Delay` below; None before the start, and for the trigger "date"."""
        return self._made if isinstance(self._made, DelayJob) else None

    @property
    def pending(self) -> bool:
        """Whether the job waits for the scheduler to start."""
        return self._scheduler.state == STOPPED

    @property
    def has_begun(self) -> bool:
        """Whether this is a job for one date, and has started or ended: it is no job any more."""
        made = self._made
        return isinstance(made, Future) and (made.running() or made.done())

    @property
    def next_run_time(self) -> datetime | None:
        """The time of the next run (UTC, aware); None if paused, or if nothing runs here yet."""
        if self._made is None:
            return None
        if isinstance(self._made, DelayJob):
            return self._made.next_run
        eta: datetime | None = self.options().get("eta")
        return eta or self._made.enqueued_at

    def modify(self, **changes: Any) -> "Job":
        """`APScheduler.modify_job` of this job."""
        return self._scheduler.modify_job(self.id, **changes)

    def reschedule(self, trigger: str, **trigger_args: Any) -> "Job":
        """Give the job another trigger. Raises as `APScheduler.modify_job`."""
        return self._scheduler.modify_job(self.id, trigger=trigger, **trigger_args)

    def pause(self) -> None:
        """`APScheduler.pause_job` of this job."""
        self._scheduler.pause_job(self.id)

    def resume(self) -> None:
        """`APScheduler.resume_job` of this job."""
        self._scheduler.resume_job(self.id)

    def remove(self) -> None:
        """`APScheduler.remove_job` of this job."""
        self._scheduler.remove_job(self.id)

    def options(self) -> dict[str, Any]:
        """The options of `Delay.using` for this job."""
        given = {**self._scheduler._job_defaults, **self._given}  # noqa: SLF001
        zone = given.get("timezone") or self._scheduler._timezone()  # noqa: SLF001
        name = checked(_zone, zone, "'timezone'", _ZONE)
        options = _limits(given)
        if self.trigger == "date":
            date = given.get("run_date")
            return {} if date is None else {"eta": _moment("run_date", date, ZoneInfo(name))}
        start = given.get("start_date")
        since = None if start is None else _moment("start_date", start, ZoneInfo(name))
        if since is not None and since > datetime.now(UTC):
            raise ValueError(
                f"'start_date' is {start!r}, but jobs run from the start of the scheduler on: call"
                f" add_job() at that time, by a job with the trigger 'date'"
            )
        when: dict[str, Any]
        if self.trigger == "interval":
            when = {"every": crontab.interval(given, since)}
        else:
            when = crontab.line(given, name)
        return {**options, **when, "key": self.id}

    def check(self) -> None:
        """Raise the errors of `start`, as far as they are known."""
        using(**self.options())

    def start(self, pool: Delay) -> None:
        """Begin to run. Called by the scheduler."""
        options = self.options()
        if self.trigger != "date":
            made = pool.using(**options).delay(self.func, *self.args, **self.kwargs)
            self._made = made
            if self._is_held:
                self._is_held = False
                made.pause()
            return
        if self._is_held:
            return
        grace = {**self._scheduler._job_defaults, **self._given}.get(  # noqa: SLF001
            "misfire_grace_time", _DATE_GRACE
        )
        eta = options.get("eta")
        if eta is not None and grace is not None:
            late = (datetime.now(UTC) - eta).total_seconds()
            if late > grace:
                _log.warning("job %s does not run: its run_date was %.0f s ago", self.id, late)
                self._scheduler._forget(self)  # noqa: SLF001
                return
        future = pool.using(**options).delay(self.func, *self.args, **self.kwargs)
        self._made = future
        # It may have been removed or paused meanwhile.
        if not self._scheduler._wants(self):  # noqa: SLF001
            self.stop()
        future.add_done_callback(lambda _: self._ended(future))

    def stop(self) -> None:
        """Start no more in this process; what has started goes on. Called by the scheduler."""
        has_begun = self.has_begun
        made, self._made = self._made, None
        if isinstance(made, DelayJob):
            made.cancel()
        elif made is not None and (has_begun or not made.cancel()):
            self._scheduler._forget(self)  # noqa: SLF001

    def _ended(self, future: Future[Any]) -> None:
        if self._made is future:
            self._scheduler._forget(self)  # noqa: SLF001

    def hold(self, pool: Delay, *, back: bool) -> None:
        """Pause or resume. Called by the scheduler."""
        if isinstance(self._made, DelayJob):
            (self._made.pause if back else self._made.resume)()
        elif back:
            self._is_held = True
            self.stop()
        elif self._is_held:
            self._is_held = False
            if self._scheduler._wants(self):  # noqa: SLF001
                self.start(pool)


# --- The scheduler ------------------------------------------------------------------

_MISSING = {
    "add_listener": "connect to flask_delay's signals task_succeeded, task_failed and the like",
    "remove_listener": "disconnect from flask_delay's signals",
    "authenticate": _PAGE,
    "scheduler": "`extension` is the Delay that the jobs run on",
}


class APScheduler:
    """Flask-APScheduler's `APScheduler` on threads managed by Rust.

    `APScheduler(app=app)`, or `APScheduler()` and `init_app(app)`. Reads the `SCHEDULER_` keys, and
    is found as `app.apscheduler`. A job runs as a task: with an app context, without a request.
    Every method may be called from any thread.
    """

    def __init__(self, scheduler: None = None, app: Flask | None = None) -> None:
        """Make a scheduler, and initialise `app` if there is one.

        Raises TypeError for a `scheduler`, which would be one of APScheduler's; otherwise as
        `init_app`.
        """
        if scheduler is not None:
            raise TypeError(
                f"'scheduler' is {scheduler!r}, but jobs run on a Delay, which this object makes:"
                f" leave it out"
            )
        self.app: Flask | None = None
        self.allowed_hosts = ["*"]
        self._pool = _Pool()
        self._state = STOPPED
        self._job_defaults: Mapping[str, Any] = {}
        self._zone: str | None = None
        self._jobs: dict[str, Job] = {}
        # Held by whatever changes the jobs or the state, but not while a "date" job is submitted,
        # which may wait for room in the queue, nor while a function is imported.
        self._changing = threading.RLock()
        if app is not None:
            self.init_app(app)

    def __repr__(self) -> str:
        return f"<APScheduler {('stopped', 'running', 'paused')[self._state]}>"

    def __getattr__(self, name: str) -> NoReturn:
        remedy = _MISSING.get(name)
        raise AttributeError(
            f"{type(self).__name__!r} object has no attribute {name!r}"
            + (f": {remedy}" if remedy else "")
        )

    def init_app(self, app: Flask) -> None:
        """Read the app's settings and its `SCHEDULER_JOBS`; `start` runs them.

        After `shutdown` it may be another app. Raises RuntimeError if the app has an APScheduler,
        SchedulerAlreadyRunningError if this one runs, ValueError for a bad setting, also for one
        that has no counterpart here, and as `add_job`.
        """
        if self._state != STOPPED:
            raise SchedulerAlreadyRunningError("call shutdown() before init_app() of another app")
        pool = self._pool if self.app is None else _Pool()
        pool.init_app(app)
        settings = pool.settings(app)
        self._pool, self.app = pool, app
        self._job_defaults = settings.job_defaults or {}
        self._zone = settings.timezone
        if settings.allowed_hosts is not None:
            self.allowed_hosts = list(settings.allowed_hosts)
        app.apscheduler = self  # type: ignore[attr-defined]
        # What was added before knew neither the defaults nor the time zone.
        for job in self.get_jobs():
            job.check()
        older = checked(_definitions, app.config.get("JOBS") or (), "JOBS", _JOBS)
        for definition in settings.jobs or older:
            self.add_job(**definition)

    @property
    def extension(self) -> Delay:
        """The `Delay` below: `job(id)`, `stats()`, `drain(timeout)` and the like."""
        return self._pool

    @property
    def host_name(self) -> str:
        """The name of this machine, which `allowed_hosts` has to have."""
        return socket.gethostname().lower()

    @property
    def running(self) -> bool:
        """Whether the scheduler was started, and not shut down."""
        return self._state != STOPPED

    @property
    def state(self) -> int:
        """0 if stopped, 1 if running, 2 if paused."""
        return self._state

    @property
    def api_enabled(self) -> bool:
        """False: there is no such API."""
        return False

    @api_enabled.setter
    def api_enabled(self, value: object) -> None:
        if value:
            raise ValueError(f"'api_enabled' is {value!r}, but there is no such API: {_PAGE}")

    @property
    def auth(self) -> None:
        """None: there is no such API."""

    @auth.setter
    def auth(self, value: object) -> None:
        if value is not None:
            raise ValueError(f"'auth' is {value!r}, but there is no such API: {_PAGE}")

    def start(self, paused: bool = False) -> None:
        """Run the jobs; with `paused`, from `resume` on.

        In a process that serves nothing, such as a shell, jobs do not run by themselves; nor on a
        machine that `allowed_hosts` leaves out. Raises SchedulerAlreadyRunningError if called
        twice, RuntimeError before `init_app`, and as `Delay.using` and `Periodic.delay`.
        """
        if self.app is None:
            raise RuntimeError("the APScheduler is initialised on no app; call init_app(app)")
        if self._state != STOPPED:
            raise SchedulerAlreadyRunningError("the scheduler is running already")
        if not {"*", self.host_name}.intersection(self.allowed_hosts):
            _log.info("the scheduler does not start on host %s", self.host_name)
            return
        self._state = PAUSED
        if not paused:
            self.resume()

    def shutdown(self, wait: bool = True) -> None:
        """Run no more jobs in this process, and forget them; with `wait`, let those running end.

        The scheduler may be started again. Raises SchedulerNotRunningError.
        """
        with self._changing:
            self._require_running()
            self._state = STOPPED
            self.remove_all_jobs()
        if wait:
            self._pool.drain()

    def pause(self) -> None:
        """Start no job in this process until `resume`. Raises SchedulerNotRunningError."""
        with self._changing:
            self._require_running()
            self._state = PAUSED
            for job in self.get_jobs():
                job.stop()

    def resume(self) -> None:
        """Run the jobs again after `pause`. Raises as `start`, SchedulerNotRunningError."""
        with self._changing:
            self._require_running()
            if self._state != PAUSED:
                return
            self._state = RUNNING
            jobs = self.get_jobs()
            for job in jobs:
                if job.trigger != "date":
                    job.start(self._pool)
        for job in jobs:
            if job.trigger == "date":
                job.start(self._pool)

    def task(
        self,
        trigger: Literal["cron", "interval", "date"],
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        id: str | None = None,
        name: str | None = None,
        **options: Any,
    ) -> Callable[[_Function], _Function]:
        """Decorate a function that is a job: `@scheduler.task("cron", id="report", hour=3)`.

        Takes what `add_job` takes, and returns the function as it is. With `id`, replaces a job
        that has it; without, the id is the function's name. May be used before `init_app`. Raises
        as `add_job`.
        """

        def decorate(func: _Function) -> _Function:
            given = {**options, "args": args, "kwargs": kwargs}
            # Two jobs of one function are two: the second must not replace the first.
            given["replace_existing"] = id is not None
            self.add_job(id or name_of(func), func, trigger=trigger, name=name, **given)
            return func

        return decorate

    def add_job(
        self,
        id: str,
        func: Callable[..., object] | str,
        *,
        trigger: str | Mapping[str, Any] | None = None,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        replace_existing: bool = False,
        **options: Any,
    ) -> Job:
        """Run `func(*args, **kwargs)` as `trigger` says: "cron", "interval", or once by "date".

        `func` may be text: "package.module:function". Further arguments are those of the trigger,
        as with APScheduler 3, and `misfire_grace_time`, `max_instances` and `coalesce`.

        Raises ConflictingIdError if there is a job of this id and not `replace_existing`; TypeError
        for an unknown argument, for an object that is not a function, and for arguments that do not
        fit it; ValueError for a bad value, for a function that cannot be found, and for options and
        schedules that have no counterpart here, with what to do instead.
        """
        if type(id) is not str or not id:
            raise TypeError(f"the id of a job must be a string that is not empty, not {id!r}")
        found = self._read(
            id, func, trigger=trigger, args=args, kwargs=kwargs, name=name, **options
        )
        with self._changing:
            if not replace_existing and self.get_job(id) is not None:
                raise ConflictingIdError(
                    f"there is a job {id!r} already: say replace_existing=True, or give another id"
                )
            is_due = self._put(found)
        if is_due:
            found.start(self._pool)
        return found

    def modify_job(self, id: str, jobstore: str | None = None, **changes: Any) -> Job:
        """Change arguments of `add_job`, in this process, and return the job.

        Raises as `add_job`, and JobLookupError.
        """
        while True:
            job = self._lookup(id, jobstore)
            kept = job._given  # noqa: SLF001
            if "trigger" in changes:
                kept = {name: value for name, value in kept.items() if name in _LIMITS}
            found: dict[str, Any] = {
                "func": job.func,
                "trigger": job.trigger,
                "args": job.args,
                "kwargs": job.kwargs,
                "name": job.name,
                **kept,
                **changes,
            }
            changed = self._read(id, **found)
            with self._changing:
                # Otherwise another thread was faster, and its change must not be lost.
                if self.get_job(id) is job:
                    is_due = self._put(changed)
                    break
        if is_due:
            changed.start(self._pool)
        return changed

    def get_job(self, id: str, jobstore: str | None = None) -> Job | None:
        """The job of this id in this process, or None."""
        _check_place("jobstore", jobstore)
        job = self._jobs.get(id)
        return None if job is None or job.has_begun else job

    def get_jobs(self, jobstore: str | None = None) -> list[Job]:
        """The jobs of this process; one for a date is none any more once it has begun."""
        _check_place("jobstore", jobstore)
        return [job for job in list(self._jobs.values()) if not job.has_begun]

    def remove_job(self, id: str, jobstore: str | None = None) -> None:
        """Run the job no more in this process. Raises JobLookupError."""
        with self._changing:
            job = self._lookup(id, jobstore)
            self._forget(job)
            job.stop()

    def remove_all_jobs(self, jobstore: str | None = None) -> None:
        """Remove each job of this process."""
        with self._changing:
            for job in self.get_jobs(jobstore):
                self._forget(job)
                job.stop()

    def pause_job(self, id: str, jobstore: str | None = None) -> None:
        """Keep the job from running until `resume_job`.

        Holds in all processes of the machine and survives them, but for the trigger "date". Raises
        JobLookupError, SchedulerNotRunningError, and as `Job.pause` of `flask_delay`.
        """
        self._hold(id, jobstore, back=True)

    def resume_job(self, id: str, jobstore: str | None = None) -> None:
        """Run the job again after `pause_job`. Raises as that."""
        self._hold(id, jobstore, back=False)

    def run_job(self, id: str, jobstore: str | None = None) -> None:
        """Run the job once more, as a task, and wait for its end.

        Raises what the job raises; JobLookupError; DuplicateTask while its last run goes on in any
        process, unless `max_instances` is above 1.
        """
        job = self._lookup(id, jobstore)
        if job.job is not None:
            run = job.job.run_now()
        else:
            run = self._pool.delay(job.func, *job.args, **job.kwargs)
        run.result()

    def _read(self, id: str, func: Callable[..., object] | str, **given: Any) -> Job:
        """The job that these arguments of `add_job` describe. Raises as that."""
        try:
            return self._job(id, func, given=given, **{it: given.pop(it) for it in _SHARED})
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"job {id!r}: {error}") from error

    def _job(
        self,
        id: str,
        func: Callable[..., object] | str,
        *,
        trigger: object,
        args: Iterable[Any] | None,
        kwargs: Mapping[str, Any] | None,
        name: str | None,
        given: dict[str, Any],
    ) -> Job:
        if isinstance(trigger, Mapping):
            inner = dict(trigger)
            trigger = inner.pop("type", "date")
            given.update(inner)
        if trigger is None:
            trigger = "date"
        if not isinstance(trigger, str):
            raise TypeError(
                f"'trigger' is {trigger!r}, but must be 'cron', 'interval' or 'date' with their"
                f" arguments; for a line of a crontab: Delay.using(cron='0 3 * * *')"
            )
        if trigger not in _TRIGGERS:
            raise ValueError(f"'trigger' is {trigger!r}, but must be 'cron', 'interval' or 'date'")
        for place in ("jobstore", "executor"):
            _check_place(place, given.pop(place, None))
        for option, remedy in _NO_COUNTERPART.items():
            # Without a time to come, `next_run_time` adds a job that is paused.
            if option in given and (given.pop(option) is not None or option == "next_run_time"):
                raise ValueError(f"{option!r} has no counterpart here: {remedy}")
        known = _TRIGGERS[trigger] | _LIMITS
        for option in given.keys() - known:
            raise TypeError(
                f"{option!r} is not an option of a job with the trigger {trigger!r}; valid are"
                f" {', '.join(sorted(known))}"
            )
        called = _resolved(func)
        _check_function(called, "job")
        positional, named = tuple(args or ()), dict(kwargs or {})
        _check_call(called, *positional, **named)
        return Job(
            self,
            id=id,
            name=name or id,
            func=called,
            trigger=trigger,
            args=positional,
            kwargs=named,
            given=given,
        )

    def _put(self, job: Job) -> bool:
        """Let the job take the place of that of its id; whether it is the caller's to start.

        Called under the lock.
        """
        former = self.get_job(job.id)
        if former is not None:
            former.stop()
        self._jobs[job.id] = job
        if self._state != RUNNING or job.trigger == "date":
            return self._state == RUNNING
        try:
            job.start(self._pool)
        except BaseException:
            self._forget(job)
            raise
        return False

    def _wants(self, job: Job) -> bool:
        return self._state == RUNNING and self._jobs.get(job.id) is job

    def _forget(self, job: Job) -> None:
        with self._changing:
            if self._jobs.get(job.id) is job:
                del self._jobs[job.id]

    def _lookup(self, id: str, jobstore: str | None) -> Job:
        job = self.get_job(id, jobstore)
        if job is None:
            known = ", ".join(sorted(job.id for job in self.get_jobs())) or "none"
            raise JobLookupError(f"there is no job {id!r} in this process; those it has: {known}")
        return job

    def _hold(self, id: str, jobstore: str | None, *, back: bool) -> None:
        with self._changing:
            job = self._lookup(id, jobstore)
            self._require_running()
            job.hold(self._pool, back=back)

    def _timezone(self) -> str:
        return self._zone or crontab.local_zone("SCHEDULER_TIMEZONE")

    def _require_running(self) -> None:
        if self._state == STOPPED:
            raise SchedulerNotRunningError("the scheduler is not running: call start()")


def _check_place(name: str, value: object) -> None:
    if value not in {None, _DEFAULT}:
        raise ValueError(
            f"{name!r} is {value!r}, but all jobs of an app have one place: leave it out"
        )


def _resolved(func: Callable[..., object] | str) -> Callable[..., object]:
    if not isinstance(func, str):
        return func
    try:
        found: Callable[..., object] = resolve_name(func)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"'func' is {func!r}, but must be a function, or name one that can be imported, as"
            f' "package.module:function" does ({error})'
        ) from error
    return found
