"""The settings of a `Delay`: their names, allowed values and defaults.

The fields of `Config` are the only list of them. Flask's config key `DELAY_MAX_WORKERS` sets
`Config.max_workers`, as `REPORTS_MAX_WORKERS` does for a `Delay` named `reports`. A backend may
have more, in a class of its own: see `setting`.
"""

import difflib
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from typing import Any, NamedTuple, TypeVar, overload

from flask_delay.backends import table
from flask_delay.masking import masked
from flask_delay.validators import (
    checked,
    count,
    database,
    file_or_default,
    folder,
    one_of,
    optional,
    spelled,
    switch,
    wait,
)
from flask_delay.validators import seconds as above_zero

# For a `Delay` with the default name.
_PREFIX = "DELAY_"

_T = TypeVar("_T")
_C = TypeVar("_C", bound="Config")


def setting(
    default: Any,
    parse: Callable[[object], object],
    allowed: str | Callable[[], str],
    text: str,
    *,
    shown: bool = True,
) -> Any:
    """Make a field of `Config`, or of the dataclass `Settings` of a backend.

    `parse` converts a value of the app's config, and raises TypeError or ValueError for one that is
    not `allowed`. A value that is not `shown` is left out of the repr.
    """
    about = {"parse": parse, "allowed": allowed, "help": text}
    return field(default=default, repr=shown, metadata=about)


_FLAG = "true or false"
_seconds = spelled(float, wait)
_backend = spelled(lambda value: value.strip().lower(), table.read)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The checked settings of one `Delay` on one app."""

    max_workers: int | None = setting(
        None,
        optional(count(1)),
        "an integer of at least 1, or None for min(32, cpus + 4)",
        "How many tasks may run at once.",
    )
    queue_size: int = setting(
        0,
        count(0),
        "an integer, 0 or more, where 0 is no limit",
        "How many accepted tasks may wait to be started.",
    )
    when_full: str = setting(
        "block",
        one_of("block", "raise", "caller_runs", "drop_oldest"),
        '"block", "raise", "caller_runs" or "drop_oldest"',
        "What a submit does when so many wait: it waits itself; raises QueueFull; runs the"
        " task before it goes on; or cancels the oldest of those that wait.",
    )
    block_timeout: float | None = setting(
        None,
        optional(_seconds),
        "a number of seconds, 0 or more, or None for no limit",
        "How long a submit waits for a place in the queue before it raises QueueFull.",
    )
    shutdown_timeout: float | None = setting(
        25.0,
        optional(_seconds),
        "a number of seconds, 0 or more, or None for no limit",
        "How many seconds accepted tasks have to end when the process exits. The"
        " default is below the 30 seconds after which gunicorn and Kubernetes kill.",
    )
    drain_on_sigterm: bool = setting(
        True,
        switch,
        _FLAG,
        "Whether SIGTERM lets accepted tasks end first, where no server handles it.",
    )
    log_failures: bool = setting(
        True,
        switch,
        _FLAG,
        "Whether a task's exception is logged with its traceback.",
    )
    result_limit: int = setting(
        1000,
        count(0),
        "an integer, 0 or more",
        "How many finished tasks are kept for get(id); unfinished ones always are.",
    )
    stream_items: int = setting(
        1000,
        count(1),
        "an integer of at least 1",
        "How many of the items that a generator task has yielded are kept for its readers.",
    )
    stream_bytes: int = setting(
        1_000_000,
        count(1),
        "an integer of at least 1",
        "How many bytes these may take, as sys.getsizeof() counts each; the newest item is always"
        " kept.",
    )
    switch_interval: float | None = setting(
        0.0001,
        optional(spelled(float, above_zero)),
        "a number of seconds above 0, or None to leave Python's own alone",
        "How long Python lets a thread compute before another one's turn, while a task"
        " computes: `sys.setswitchinterval`, set then and put back afterwards.",
    )
    backend: str = setting(
        table.THREADS,
        _backend,
        table.listed,
        "Where tasks run that do not say it themselves.",
    )
    jobs_folder: str | None = setting(
        None,
        optional(folder),
        "the path of a folder, absolute or in the app's instance folder, or None",
        "Where jobs have their files, by which the processes of a machine agree on who runs"
        " one; by default the folder of the Delay's name in the instance folder.",
    )
    journal: bool | str | None = setting(
        None,
        optional(file_or_default),
        "True, the path of a file, absolute or in the app's instance folder, or None",
        "The file of the durable tasks. True is journal.db in the folder of the Delay's name in the"
        " instance folder; with None that file too is used once it exists, or a task is durable.",
    )
    journal_sync: str = setting(
        "commit",
        one_of("commit", "second", "never"),
        '"commit", "second" or "never"',
        "When a durable task is safe from a power cut: before `delay` returns; a second later; or"
        " when the system writes it.",
    )
    journal_keep: float = setting(
        86_400.0,
        _seconds,
        "a number of seconds, 0 or more",
        "For how many seconds an ended durable task is known.",
    )
    journal_limit: int = setting(
        100_000,
        count(0),
        "an integer, 0 or more",
        "How many ended durable tasks are known at most.",
    )
    journal_deaths: int = setting(
        3,
        count(1),
        "an integer of at least 1",
        "How many processes may die of a durable task before it is not run again.",
    )
    journal_max_bytes: int = setting(
        1_000_000,
        count(1),
        "an integer of at least 1",
        "How many bytes the arguments of a durable task, and its result, may take in the file.",
    )
    journal_timeout: float = setting(
        30.0,
        spelled(float, above_zero),
        "a number of seconds above 0",
        "How many seconds `delay` waits for the file before it raises JournalUnavailable.",
    )
    journal_waiting: int = setting(
        0,
        count(0),
        "an integer, 0 or more, where 0 is no limit",
        "How many durable tasks may wait to be started, in all processes together.",
    )
    upload_dir: str | None = setting(
        None,
        optional(folder),
        "the path of a folder, absolute or in the app's instance folder, or None",
        "Where uploads are kept that are arguments of tasks; by default the folder uploads beside"
        " the journal's file, which need not exist.",
    )
    upload_max_bytes: int | None = setting(
        None,
        optional(count(0)),
        "an integer, 0 or more, or None for no limit",
        "How many bytes the uploads of one task may have together.",
    )
    outbox: str | None = setting(
        None,
        optional(database),
        "the URL of a database as SQLAlchemy writes it, which is installed with a driver, or None",
        "The database whose table delay_outbox has durable tasks that were submitted with a"
        " transaction, where the app does not say it by flask_delay.contrib.outbox.table().",
        shown=False,
    )
    durable: bool = setting(
        False,
        switch,
        _FLAG,
        "Whether tasks are durable that do not say it.",
    )
    mode: str = setting(
        "threads",
        one_of("threads", "immediate", "manual"),
        '"threads", "immediate" or "manual"',
        "Where tasks run: on threads; for tests, in the submit itself, or in"
        " executor.run_pending().",
    )
    of_backends: Mapping[type, Any] = field(default_factory=dict, hash=False)
    """The settings of backends, by their classes `Settings`; without those that have no key."""

    @property
    def app(self) -> str | None:
        """Where the app is, written as FLASK_APP, if a backend has a setting for that."""
        found = (getattr(it, "app", None) for it in self.of_backends.values())
        return next(filter(None, found), None)

    def has_keys_of(self, backend: str) -> bool:
        """Whether the app's config had a setting of this backend."""
        return getattr(table.module(backend), "Settings", None) in self.of_backends

    def of(self, kind: type[_T]) -> _T:
        """The settings of the backend whose settings class is `kind`."""
        found: _T = self.of_backends.get(kind) or kind()
        return found


class Setting(NamedTuple):
    """The description of one setting."""

    key: str
    name: str
    kind: type
    default: object
    allowed: str
    help: str

    def value(self, config: Config) -> object:
        """Its value in this `Config`."""
        holder: object = config if isinstance(config, self.kind) else config.of(self.kind)
        value: object = getattr(holder, self.name)
        return value


def settings(prefix: str, kind: type[Config] = Config) -> Iterator[Setting]:
    """All settings of `kind`, then those of the backends, with their config keys under `prefix`."""
    for owner in (kind, *table.settings()):
        for f in _fields(owner):
            key = prefix + f.name.upper()
            yield Setting(key, f.name, owner, f.default, _allowed(f), f.metadata["help"])


@overload
def load(config: Mapping[str, Any], prefix: str) -> Config: ...


@overload
def load(config: Mapping[str, Any], prefix: str, kind: type[_C]) -> _C: ...


def load(config: Mapping[str, Any], prefix: str, kind: type[Config] = Config) -> Config:
    """Read the settings under `prefix` ("DELAY_") from an app's `config`.

    `kind` may be a subclass of `Config` with more settings. Raises ValueError for a bad value; an
    unknown key gets a UserWarning.
    """
    values = _read(config, prefix, kind)
    # Backends are only looked up if a key may belong to one.
    if any(_unknown(config, prefix, _names(kind))):
        others = list(table.settings())
        found = {it: _read(config, prefix, it) for it in others}
        values["of_backends"] = {it: it(**read) for it, read in found.items() if read}
        for key, hint in _hints(config, prefix, kind, others):
            warnings.warn(f"{key} is not a setting of Flask-Delay: {hint}", stacklevel=_outside())
    return kind(**values)


def unknown(
    config: Mapping[str, Any], prefix: str, kind: type[Config] = Config
) -> Iterator[tuple[str, str]]:
    """The unknown keys under `prefix`, each with the key that may have been meant."""
    return _hints(config, prefix, kind, table.settings())


def _hints(
    config: Mapping[str, Any], prefix: str, kind: type[Config], others: Iterable[type]
) -> Iterator[tuple[str, str]]:
    known = [name for owner in (kind, *others) for name in _names(owner)]
    for key in _unknown(config, prefix, known):
        near = difflib.get_close_matches(key.removeprefix(prefix), known, n=1)
        hint = f"did you mean {prefix}{near[0]}?" if near else f"known are {', '.join(known)}"
        if kind is Config and prefix != _PREFIX:
            hint += "; if it is another extension's, give this Delay another name"
        yield key, hint


def _unknown(config: Mapping[str, Any], prefix: str, known: Sequence[str]) -> Iterator[str]:
    # DELAY_REPORTS_MAX_WORKERS belongs to the instance `delay_reports`, which the app may only get
    # later; so the shape of the key has to tell.
    ends = tuple(f"_{name}" for name in known)
    for key in config:
        rest = key.removeprefix(prefix)
        if key.startswith(prefix) and rest not in known and not rest.endswith(ends):
            yield key


def _read(config: Mapping[str, Any], prefix: str, kind: type) -> dict[str, Any]:
    """The values in the config for the settings of `kind`, by name. Raises as `load`."""
    values: dict[str, Any] = {}
    for f in _fields(kind):
        key = prefix + f.name.upper()
        if key not in config:
            continue
        try:
            values[f.name] = checked(
                f.metadata["parse"],
                config[key],
                key,
                f.metadata["allowed"],
                lambda value: masked(repr(value)),
            )
        except TypeError as error:
            raise ValueError(str(error)) from None
    return values


def _fields(kind: type) -> list[Field[Any]]:
    return [f for f in fields(kind) if "parse" in f.metadata]


def _names(kind: type) -> list[str]:
    return [f.name.upper() for f in _fields(kind)]


def _allowed(f: Field[Any]) -> str:
    allowed = f.metadata["allowed"]
    return allowed if isinstance(allowed, str) else str(allowed())


def _outside() -> int:
    """The stack level of the code that uses this package, for `warn`."""
    package = __name__.partition(".")[0]
    level, frame = 0, inspect.currentframe()
    while frame and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        level, frame = level + 1, frame.f_back
    return level
