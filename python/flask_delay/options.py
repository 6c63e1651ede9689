"""The options of one task: their names, allowed values and effects.

The entries of `Options`, and of `Repetition` for jobs, are the only list of them: each has its
type, its parser and its text. `Chosen` holds the options of one `using` or `task`, and `submitter`
applies them.
"""

import difflib
import functools
import sys
import time
from collections.abc import Callable, Hashable, Mapping
from datetime import datetime, timedelta, tzinfo
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    Protocol,
    TypedDict,
    cast,
    get_type_hints,
)
from uuid import UUID

from flask import Flask

from flask_delay import context, validators
from flask_delay._native import Executor, Future, _check_call, _Policy, _Rhythm
from flask_delay.backends import base, table
from flask_delay.backends.base import Backend
from flask_delay.periodic.job import Jobs, Plan
from flask_delay.retry import Retry, as_retry

Submit = Callable[..., Future[Any]]
"""What takes a function and its arguments and gives a future, as `Executor.submit`."""


class Session(Protocol):
    """A session of SQLAlchemy, or what stands for one in each thread."""

    def commit(self) -> Any:
        """Commit the transaction."""

    def rollback(self) -> Any:
        """Roll the transaction back."""


class Option(NamedTuple):
    """The description of one option."""

    parse: Callable[[object], object]
    """What the value is to the native module, where None is as if it were not given.

    Raises TypeError or ValueError.
    """
    allowed: str | Callable[[], str]
    help: str


class Options(TypedDict, total=False):
    """The options of `using` and `task`."""

    priority: Annotated[
        int,
        Option(
            validators.integer(-1000, 1000),
            "an integer between -1000 and 1000",
            "Tasks of a higher one start first; the default is 0. One that waits gains a level"
            " every 10 seconds.",
        ),
    ]
    key: Annotated[
        Hashable | Callable[..., Hashable],
        Option(
            validators.key,
            "hashable, or a plain function that is called with the task's arguments and returns"
            " what is",
            "What `limit`, `rate`, `unique` and `debounce` go by; all functions of a pool share the"
            " keys, but for `debounce`.",
        ),
    ]
    limit: Annotated[
        int,
        Option(
            validators.integer(1, sys.maxsize),
            "an integer of at least 1",
            "How many tasks of the key, or without one of the function, may run at once.",
        ),
    ]
    rate: Annotated[
        str,
        Option(
            validators.rate,
            'a number of tasks per second, minute, hour or day: "10/s", "100/m", "5/h", "1/d"',
            "How many tasks of the key, or without one of the function, may start in any second,"
            " minute, hour or day.",
        ),
    ]
    scope: Annotated[
        Literal["process", "machine"],
        Option(
            validators.scope,
            '"process" or "machine"',
            "Whether `limit` and `rate` of a plain task hold in each process by itself, or in all"
            ' processes of the machine together, which share a journal. The default is "process";'
            " those of durable tasks always hold on the machine.",
        ),
    ]
    unique: Annotated[
        bool | Literal["raise"],
        Option(
            validators.unique,
            'True, False or "raise"',
            "Whether a submit returns the future of a task of the same key, or without one of"
            ' the same function and arguments, that is not done yet; "raise" for a DuplicateTask.',
        ),
    ]
    timeout: Annotated[
        float,
        Option(
            validators.seconds,
            "a number of seconds above 0",
            "How long an attempt may take before TaskTimeout is raised in it.",
        ),
    ]
    expires: Annotated[
        float,
        Option(
            validators.seconds,
            "a number of seconds above 0",
            "How long after its submit a task may still start; later it fails with TaskExpired.",
        ),
    ]
    retry: Annotated[
        Retry | int,
        Option(
            as_retry,
            "a Retry, or an integer, 0 or more: how many times",
            "When a task that failed is run again.",
        ),
    ]
    stream_wait: Annotated[
        float,
        Option(
            validators.seconds,
            "a number of seconds above 0",
            "How long a generator that yields waits for a reader that would miss an item; by"
            " default it does not wait.",
        ),
    ]
    countdown: Annotated[
        float,
        Option(
            validators.countdown,
            "a number of seconds, 0 or more",
            "How long after its submit a task may start at the earliest.",
        ),
    ]
    eta: Annotated[
        datetime,
        Option(
            validators.eta,
            "a datetime with a time zone, such as datetime(2026, 12, 24, 18, tzinfo=UTC)",
            "When a task may start at the earliest.",
        ),
    ]
    debounce: Annotated[
        float,
        Option(
            validators.seconds,
            "a number of seconds above 0",
            "Of calls of the function with the same key, only the last one runs, once no other has"
            " come for that long; the others are cancelled.",
        ),
    ]
    max_wait: Annotated[
        float,
        Option(
            validators.seconds,
            "a number of seconds above 0",
            "How long after the first of such calls the last one starts at the latest.",
        ),
    ]
    backend: Annotated[
        str,
        Option(
            table.read,
            table.listed,
            "Where the task runs; by default as the setting `BACKEND` says.",
        ),
    ]
    durable: Annotated[
        bool | Literal["disk"],
        Option(
            validators.durable,
            'True, False or "disk"',
            "Whether the task is kept in the journal, and runs although processes die; by default"
            ' as the setting `DURABLE` says. "disk" is True with `JOURNAL_SYNC` at "commit".',
        ),
    ]
    once: Annotated[
        str,
        Option(
            validators.name,
            "a string of 1 to 200 printable characters",
            "The key of a durable task: `delay` with the same key returns the future of that task,"
            ' also after its end, while the journal knows it; with unique="raise" a DuplicateTask.',
        ),
    ]
    within: Annotated[
        Session,
        Option(
            validators.session,
            "a session of SQLAlchemy: a Session or scoped_session",
            "The session with whose transaction a durable task is submitted: exactly once if it is"
            " committed, and not at all if it is rolled back.",
        ),
    ]
    after_commit: Annotated[
        Session,
        Option(
            validators.session,
            "a session of SQLAlchemy: a Session, scoped_session or AsyncSession",
            "The session after whose commit a task may start; it is cancelled at a rollback.",
        ),
    ]
    request: Annotated[
        bool,
        Option(
            validators.flag,
            "True or False",
            "Whether the task gets a copy of the current request, made at submit.",
        ),
    ]
    id: Annotated[
        str | UUID,
        Option(
            validators.identity,
            'a UUID, or a string of 1 to 100 printable characters without "/"',
            "The task's id, instead of a random one. A submit with the id of a task that `get`"
            " would find raises DuplicateTask.",
        ),
    ]


class Repetition(TypedDict, total=False):
    """The options of `using` and `task` that make a job of a function."""

    every: Annotated[
        float | timedelta,
        Option(
            validators.every,
            f"a number of seconds or a timedelta, at least {validators.SHORTEST_PERIOD} s",
            "How often the job runs, counted from 1970 (UTC): with 900 at every full quarter hour.",
        ),
    ]
    cron: Annotated[
        str,
        Option(
            validators.cron,
            'a line as in a crontab, with five fields: "*/5 * * * *"',
            "When the job runs: minute, hour, day of the month, month, day of the week.",
        ),
    ]
    timezone: Annotated[
        str | tzinfo,
        Option(
            validators.timezone,
            'the name of a time zone, such as "Europe/Berlin", or a ZoneInfo',
            "Whose clocks `cron` goes by; the default is UTC.",
        ),
    ]
    overlap: Annotated[
        bool,
        Option(
            validators.flag,
            "True or False",
            "Whether a run may begin while the one before goes on.",
        ),
    ]
    missed: Annotated[
        Literal["run", "skip"],
        Option(
            validators.missed,
            '"run" or "skip"',
            'What a durable job does about ticks at which no process was there; with "run" it'
            ' runs once for the newest of them, when a process starts. The default is "skip".',
        ),
    ]


class AllOptions(Options, Repetition, total=False):
    """All options of `using` and `task`."""


KNOWN: Mapping[str, Option] = {
    name: hint.__metadata__[0]
    for name, hint in get_type_hints(AllOptions, include_extras=True).items()
}
"""All options by name."""


class Chosen:
    """The options of one `using` or `task`, checked once and ready for every submit.

    Raises TypeError for an unknown option and for a value of the wrong type, ValueError for a bad
    value and for options that contradict each other.
    """

    __slots__ = (
        "_above",
        "backend",
        "durable",
        "given",
        "id",
        "on_machine",
        "once",
        "plan",
        "policy",
        "request",
    )

    def __init__(
        self, given: AllOptions, *, keeps: int | None = None, names: str | None = None
    ) -> None:
        parsed = {name: _parsed(name, value) for name, value in given.items()}
        values = {name: value for name, value in parsed.items() if value is not None}
        _check_keyed(given, values)
        if "countdown" in values and "eta" in values:
            raise ValueError("the options 'countdown' and 'eta' exclude each other")
        countdown, expires = values.get("countdown"), values.get("expires")
        if isinstance(countdown, float) and isinstance(expires, float) and countdown >= expires:
            raise ValueError(
                f"the option 'countdown' is {given['countdown']!r}, but with 'expires' at"
                f" {given['expires']!r} such a task could never start"
            )
        _check_debounced(given, values)
        if "id" in values and values.get("unique") == "return":
            raise ValueError(
                f"the option 'id' is {given['id']!r}, but with 'unique' the task may be another"
                f' one, which has its own id: use unique="raise"'
            )
        if "id" in values and "once" in values:
            raise ValueError(
                f"the option 'id' is {given['id']!r}, but with 'once' the task may be another"
                f" one, which has its own id: leave one of them out"
            )
        _check_sessions(given)
        self.given: AllOptions = cast("AllOptions", dict(given))
        self.id = cast("str | None", values.get("id"))
        # The last result of `above`, and its argument.
        self._above: tuple[Chosen, Chosen] | None = None
        self.plan = _plan(self.given, values)
        self.request = bool(values.pop("request", False))
        self.backend = cast("str | None", values.pop("backend", None))
        # None if the setting decides.
        self.durable = self.given.get("durable")
        self.once = cast("str | None", values.pop("once", None))
        self.on_machine = "scope" in values
        # Without a journal, as in tests, a durable task is withheld as well.
        if [values.pop(name) for name in ("within", "after_commit") if name in values]:
            values["withheld"] = True
        if values.pop("durable", None):
            refuse_undurable(self.given, self.backend)
        if self.backend is not None and self.backend != table.THREADS:
            # Checked here and not at submit: the error then points at the definition of the task.
            _refuse(base.kind(self.backend), self.given)
        # One policy for all submits: the native module need not look up or check anything again.
        if keeps is not None:
            values["keeps"] = keeps
        if names is not None:
            values["id"] = names
        self.policy = _Policy(**cast("dict[str, Any]", values)) if values else None

    def but(self, given: AllOptions) -> "Chosen":
        """These options, overridden by `given`."""
        return Chosen(self.given | given) if given else self

    def keeping(self, most: int) -> "Chosen":
        """These options for a durable task without a journal, which keeps up to `most` bytes."""
        return Chosen(self.given, keeps=most)

    def naming(self, id: str, read: Callable[[Any], Any]) -> "Chosen":
        """These options for one task with this id, unless another one has its key.

        A function of the option `key` is called with what `read` makes of each argument.
        """
        key = self.given.get("key")
        if not callable(key):
            return Chosen(self.given, names=id)

        def key_of(*args: Any, **kwargs: Any) -> Any:
            return key(*map(read, args), **{name: read(it) for name, it in kwargs.items()})

        return Chosen(self.given | {"key": key_of}, names=id)

    def above(self, own: "Chosen") -> "Chosen":
        """These options, with those of a `Task` as defaults. Raises as `Chosen`."""
        if not own.given:
            return self
        if not self.given:
            return own
        last = self._above
        # By identity: equal values need not be the same.
        if last is None or last[0] is not own:
            self._above = last = (own, own.but(self.given))
        return last[1]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Chosen):
            return NotImplemented
        return self.given == other.given

    # Equal keys need not be the same.
    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.given.items())


_WHEN = ("every", "cron")
_REPEATED = (*_WHEN, "timezone", "overlap", "missed")
# Options that a job does not allow: it is not submitted for one request, time or transaction.
_SINGLE = ("countdown", "eta", "debounce", "request", "id", "within", "after_commit")


def _plan(given: AllOptions, values: dict[str, Any]) -> Plan | None:
    """Take the options of a job out of `values`; return its plan, or None without one."""
    present = set(values)

    def exclude(name: str, why: str) -> None:
        if name in present:
            value = cast("Any", given)[name]
            raise ValueError(f"the option {name!r} is {value!r}, but {why}")

    when = {name: values.pop(name) for name in _REPEATED if name in values}
    overlap, missed = when.pop("overlap", False), when.pop("missed", "skip")
    if present.isdisjoint(_WHEN):
        for name in ("timezone", "overlap", "missed"):
            exclude(name, "neither 'every' nor 'cron' is set: say when the job is to run")
        return None
    if "every" in when:
        exclude("cron", "'every' is set as well: only one of them can count")
        exclude("timezone", "that is for 'cron': 'every' counts in UTC")
    name = "every" if "every" in when else "cron"
    for single in _SINGLE:
        exclude(single, f"{name!r} makes a job, which is for no one time, request, id or commit")
    exclude("stream_wait", f"{name!r} makes a job, and nobody reads the items of its runs")
    exclude("once", f"{name!r} makes a job, each run of which is a task of its own: leave it out")
    if "durable" not in present:
        exclude(
            "missed", "the job is not durable, so nobody knows what it missed: say durable=True"
        )
    rhythm = _Rhythm(**when)
    if rhythm.after(time.time_ns()) is None:
        exclude(name, "that time never comes")
    if name == "every":
        text = f"every {when['every']:g} s"
    else:
        text = " ".join([*when["cron"].split(), when.get("timezone", "UTC")])
    return Plan(
        rhythm,
        text,
        overlap,
        values.get("key"),
        values.get("expires"),
        durable="durable" in present,
        makes_up=missed == "run",
    )


_KEYED = ("limit", "rate", "unique", "debounce")
_SCOPED = ("limit", "rate")

_UNDURABLE = {
    "after_commit": "which must not be lost between a commit and their submit: use within",
    "debounce": "since other processes do not know of the last call: say durable=False, and let the"
    " task that runs start a durable one",
    "request": "which may run after a restart, without it: pass the values that the task needs",
    "stream_wait": "which have a result and no items",
}


def refuse_undurable(given: AllOptions, backend: str | None) -> None:
    """Raise ValueError for options, and for a backend, that are not for durable tasks.

    Raises as the backend.
    """
    if backend not in {None, table.THREADS} and not base.kind(backend).runs_durable:
        raise ValueError(
            f"the backend is {backend!r}, but durable tasks run on threads or in worker processes"
            f' of the app alone: say backend="threads", or leave the task to the backend with'
            f" durable=False"
        )
    if given.get("scope") == "process":
        raise ValueError(
            "the option 'scope' is 'process', but the limit and the rate of a durable task hold on"
            " the whole machine: leave it out"
        )
    for name, why in _UNDURABLE.items():
        if name in given and _parsed(name, cast("Any", given)[name]) is not None:
            value = cast("Any", given)[name]
            raise ValueError(
                f"the option {name!r} is {value!r}, but it is not for durable tasks, {why}"
            )


def refuse_sessions(given: AllOptions) -> None:
    """Raise ValueError for options that are not for a task that follows another one."""
    for name in ("within", "after_commit"):
        if name in given:
            raise ValueError(
                f"the option {name!r} is not for a task that follows another one: that one decides"
                f" whether it runs"
            )


def refuse_step(given: AllOptions) -> None:
    """Raise ValueError for options that are not for a task that follows a plain one."""
    for name in ("durable", "once"):
        if given.get(name):
            raise ValueError(
                f"the option {name!r} is {given.get(name)!r}, but the task before is not durable,"
                f" and would be lost with this process: make that durable too, or call the delay()"
                f" of this one at its end"
            )


def refuse_lasting(given: AllOptions) -> None:
    """Raise ValueError for the options `once` and `within` of a task that is not durable."""
    if "within" in given:
        raise ValueError(
            f"the option 'within' is {given['within']!r}, but the task is not durable: say"
            f" durable=True, or after_commit for one that may be lost"
        )
    if "once" in given:
        raise ValueError(
            f"the option 'once' is {given['once']!r}, but the task is not durable, and its key"
            f" would be forgotten with this process: say durable=True"
        )


def _check_keyed(given: AllOptions, values: Mapping[str, object]) -> None:
    """Raise ValueError for `key` and `scope` without anything that they are about."""
    if "key" in values and values.keys().isdisjoint((*_KEYED, *_WHEN)):
        raise ValueError(
            f"the option 'key' is {given['key']!r}, but none of {', '.join(map(repr, _KEYED))}"
            f" is set: say what is to go by the key"
        )
    if "scope" in given and values.keys().isdisjoint(_SCOPED):
        raise ValueError(
            f"the option 'scope' is {given['scope']!r}, but neither 'limit' nor 'rate' is set:"
            f" say what is to hold there"
        )


# What says when a task starts, as `debounce` does, or which one of several does.
_UNDEBOUNCED = ("countdown", "eta", "unique", "once", "within", "after_commit")


def _check_debounced(given: AllOptions, values: Mapping[str, object]) -> None:
    """Raise ValueError for `max_wait` alone, and for what `debounce` excludes."""
    wait, most = values.get("debounce"), values.get("max_wait")
    if not isinstance(wait, float):
        if "max_wait" in values:
            raise ValueError(
                f"the option 'max_wait' is {given['max_wait']!r}, but 'debounce' is not set: say"
                f" how long it is that no other call may come"
            )
        return
    if isinstance(most, float) and most < wait:
        raise ValueError(
            f"the option 'max_wait' is {given['max_wait']!r}, but 'debounce' is"
            f" {given['debounce']!r}: it must be at least that"
        )
    for name in _UNDEBOUNCED:
        if name in values:
            raise ValueError(
                f"the option {name!r} is {cast('Any', given)[name]!r}, but 'debounce' decides by"
                f" itself which call runs, and when: leave one of them out"
            )
    expires = values.get("expires")
    if isinstance(expires, float) and wait >= expires:
        raise ValueError(
            f"the option 'debounce' is {given['debounce']!r}, but with 'expires' at"
            f" {given['expires']!r} such a task could never start"
        )


def _check_sessions(given: AllOptions) -> None:
    """Raise ValueError for options that exclude `after_commit`, if there is that."""
    if "after_commit" not in given:
        return
    if "within" in given:
        raise ValueError("the options 'within' and 'after_commit' exclude each other")
    if given.get("unique"):
        raise ValueError(
            f"the option 'unique' is {given['unique']!r}, but with 'after_commit' the first task"
            f" of a key may be cancelled with its transaction, and a second one with it: use"
            f" durable=True and within"
        )


def _parsed(name: str, value: object) -> object:
    option = KNOWN.get(name)
    if option is None:
        near = difflib.get_close_matches(name, KNOWN, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise TypeError(f"{name!r} is not an option; valid are {', '.join(KNOWN)}{hint}")
    return validators.checked(option.parse, value, f"the option {name!r}", option.allowed)


Called = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
"""A function and its arguments."""

watchers: list[Callable[[Future[Any], AllOptions, Called], object]] = []
"""Called with the future, the options and the call of what was submitted with some. For tests."""


NONE = Chosen({})
"""Those of a submit that says nothing."""


def submitter(
    chosen: Chosen, jobs: Jobs, app: Flask | None, backend: Backend | None = None
) -> Callable[..., Any]:
    """The function that submits with these options: to the executor of `jobs` or to a backend.

    With `every` or `cron` it makes a job in `jobs`. With `request`, each of its tasks has the
    request that is current at this call. Raises as `context.snapshot`, and ValueError for an option
    that the backend does not support.
    """
    session = chosen.given.get("after_commit", chosen.given.get("within"))
    if backend is not None:
        _refuse(backend, chosen.given)
        if session is not None and backend.executor is None:
            raise ValueError(
                "the option 'after_commit' is not for this backend, which starts tasks by itself:"
                " call delay() after the commit"
            )
        submit: Submit = functools.partial(backend.submit, chosen.policy, chosen.given)
    else:
        executor = jobs.executor
        submit = _with(chosen, app, executor.submit, executor._submit_with)  # noqa: SLF001
    if session is not None:
        # With SQLAlchemy, which the app need not have.
        from flask_delay import transactions  # noqa: PLC0415

        submit = transactions.releasing(session, submit)
    if chosen.plan is not None:
        plan = chosen.plan
        if backend is not None and backend.executor is None:
            plan = plan._replace(by_message=True)
            submit = functools.partial(_send, backend, chosen, plan)
        return functools.partial(_checked, functools.partial(jobs.start, plan, submit))
    if backend is not None:
        submit = functools.partial(_checked, submit)
    return watched(submit, chosen.given) if chosen.given else submit


def _checked(submit: Callable[..., Any], fn: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Submit after the one check that the native module cannot make now."""
    _check_call(fn, *args, **kwargs)
    return submit(fn, *args, **kwargs)


def _send(
    backend: Backend,
    chosen: Chosen,
    plan: Plan,
    fn: Callable[..., Any],
    /,
    *args: Any,
    **kwargs: Any,
) -> Future[Any]:
    """Send a run of a job that must not start after it has been given up."""
    given: dict[str, Any] = dict(chosen.given)
    if "retry" not in given:
        # Celery's own expiry would end retries too.
        given["expires"] = plan.patience()
    return backend.submit(chosen.policy, given, fn, *args, **kwargs)


def follower(
    chosen: Chosen,
    future: Future[Any],
    app: Flask | None = None,
    *,
    executor: Executor | None = None,
    backend: Backend | None = None,
    on: str = "success",
) -> Submit:
    """`submitter` for one function that is to be called with the future's result, or at its end.

    Uses that executor, or the backend's, or else the future's own. Raises ValueError for a backend
    that cannot do this, and for an option that it does not support.
    """
    refuse_sessions(chosen.given)
    if not future._is_durable():  # noqa: SLF001
        refuse_step(chosen.given)
    if backend is not None:
        _refuse(backend, chosen.given)
        executor = backend.executor
        if executor is None:
            raise ValueError(
                f"the option 'backend' is {chosen.backend!r}, but nobody there waits for what a"
                f" task is to follow: call its delay() in a done callback, or in the task before it"
            )
    then = functools.partial(future._then_with, executor=executor, on=on)  # noqa: SLF001
    plain = functools.partial(then, None, None)
    submit = _with(chosen, app, plain, then)
    return watched(submit, chosen.given) if chosen.given else submit


def _with(chosen: Chosen, app: Flask | None, plain: Submit, ruled: Submit) -> Submit:
    if chosen.policy is None and not chosen.request:
        return plain
    scope = context.snapshot(app) if chosen.request else None
    return functools.partial(ruled, chosen.policy, scope)


def _refuse(backend: Backend | type[Backend], given: AllOptions) -> None:
    """Raise ValueError for the options that a backend does not support."""
    for name in given.keys() & backend.cannot.keys():
        # A value that means "not given" is allowed.
        if _parsed(name, cast("Any", given)[name]) is not None:
            why = backend.cannot[name]
            raise ValueError(f"the option {name!r} is not for this backend: {why}")
    backend.check(given)


def watched(submit: Submit, given: AllOptions) -> Submit:
    """`submit`, which tells the `watchers` of each future, if there are any."""
    if not watchers:
        return submit

    def tell(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future = submit(fn, *args, **kwargs)
        for watcher in tuple(watchers):
            watcher(future, given, (fn, args, kwargs))
        return future

    return tell
