"""The settings of a `Delay`: which there are, what is allowed, and the defaults.

The fields of `Config` are the one list of them: Flask's config key `DELAY_MAX_WORKERS`
sets `Config.max_workers`, as `REPORTS_MAX_WORKERS` does for a `Delay` named `reports`.
"""

import difflib
import inspect
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, TypeVar, overload

from flask_delay.masking import masked

# Of a `Delay` without a name of its own.
_PREFIX = "DELAY_"

_T = TypeVar("_T")
_C = TypeVar("_C", bound="Config")


def _count(least: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        number = int(value) if isinstance(value, str) else value
        if not isinstance(number, int) or isinstance(number, bool):
            raise TypeError
        if not least <= number <= sys.maxsize:
            raise ValueError
        return number

    return parse


def _seconds(value: object) -> float:
    if not isinstance(value, int | float | str) or isinstance(value, bool):
        raise TypeError
    seconds = float(value)
    # The upper end is what Python's own locks can wait; NaN is in no range at all.
    if not 0 <= seconds <= threading.TIMEOUT_MAX:
        raise ValueError
    return seconds


def _interval(value: object) -> float:
    seconds = _seconds(value)
    if seconds == 0:
        raise ValueError
    return seconds


def _flag(value: object) -> bool:
    # Integers too: `Config.from_prefixed_env` makes one of a "1".
    if not isinstance(value, int | str):
        raise TypeError
    match str(value).strip().lower():
        case "true" | "yes" | "on" | "1":
            return True
        case "false" | "no" | "off" | "0":
            return False
        case _:
            raise ValueError


def _one_of(*names: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if not isinstance(value, str):
            raise TypeError
        name = value.strip().lower()
        if name not in names:
            raise ValueError
        return name

    return parse


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    if not value.strip():
        raise ValueError
    return value.strip()


def _folder(value: object) -> str:
    if not isinstance(value, str | os.PathLike):
        raise TypeError
    folder = os.fspath(value)
    if not isinstance(folder, str):
        raise TypeError
    if not folder.strip() or "\0" in folder:
        raise ValueError
    return folder


def _import_path(value: object) -> str:
    module, colon, name = _text(value).partition(":")
    if not (module and colon and name):
        raise ValueError
    return f"{module}:{name}"


def _optional(parse: Callable[[object], _T]) -> Callable[[object], _T | None]:
    def parse_optional(value: object) -> _T | None:
        if value is None or (isinstance(value, str) and value.strip().lower() == "none"):
            return None
        return parse(value)

    return parse_optional


def _about(parse: Callable[[object], object], allowed: str, text: str) -> dict[str, Any]:
    return {"parse": parse, "allowed": allowed, "help": text}


_FLAG = "true or false"

BACKENDS = ("threads", "processes", "celery")
"""Where tasks may run. All but the first are modules of `flask_delay.backends`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The checked settings of one `Delay` on one app."""

    max_workers: int | None = field(
        default=None,
        metadata=_about(
            _optional(_count(1)),
            "an integer of at least 1, or None for min(32, cpus + 4)",
            "How many tasks may run at once.",
        ),
    )
    queue_size: int = field(
        default=0,
        metadata=_about(
            _count(0),
            "an integer, 0 or more, where 0 is no limit",
            "How many accepted tasks may wait to be started.",
        ),
    )
    when_full: str = field(
        default="block",
        metadata=_about(
            _one_of("block", "raise", "caller_runs", "drop_oldest"),
            '"block", "raise", "caller_runs" or "drop_oldest"',
            "What a submit does when so many wait: it waits itself; raises QueueFull; runs the"
            " task before it goes on; or cancels the oldest of those that wait.",
        ),
    )
    block_timeout: float | None = field(
        default=None,
        metadata=_about(
            _optional(_seconds),
            "a number of seconds, 0 or more, or None for no limit",
            "How long a submit waits for a place in the queue before it raises QueueFull.",
        ),
    )
    shutdown_timeout: float | None = field(
        default=25.0,
        metadata=_about(
            _optional(_seconds),
            "a number of seconds, 0 or more, or None for no limit",
            "How many seconds accepted tasks have to end when the process exits. The"
            " default is below the 30 seconds after which gunicorn and Kubernetes kill.",
        ),
    )
    drain_on_sigterm: bool = field(
        default=True,
        metadata=_about(
            _flag,
            _FLAG,
            "Whether SIGTERM lets accepted tasks end first, where no server handles it.",
        ),
    )
    log_failures: bool = field(
        default=True,
        metadata=_about(
            _flag,
            _FLAG,
            "Whether a task's exception is logged with its traceback.",
        ),
    )
    result_limit: int = field(
        default=1000,
        metadata=_about(
            _count(0),
            "an integer, 0 or more",
            "How many finished tasks are kept for get(id); unfinished ones always are.",
        ),
    )
    switch_interval: float | None = field(
        default=0.0001,
        metadata=_about(
            _optional(_interval),
            "a number of seconds above 0, or None to leave Python's own alone",
            "How long Python lets a thread compute before another one's turn, while a task"
            " computes: `sys.setswitchinterval`, set then and put back afterwards.",
        ),
    )
    backend: str = field(
        default="threads",
        metadata=_about(
            _one_of(*BACKENDS),
            '"threads", "processes" or "celery"',
            "Where tasks run that do not say it themselves.",
        ),
    )
    processes: int | None = field(
        default=None,
        metadata=_about(
            _optional(_count(1)),
            "an integer of at least 1, or None for one per CPU",
            "How many worker processes there may be, for tasks with the backend of that name.",
        ),
    )
    app: str | None = field(
        default=None,
        metadata=_about(
            _optional(_text),
            'where the app is, as FLASK_APP is written ("module:app", "module:create_app()"), or'
            " None",
            "What worker processes load, to run tasks in the app's context.",
        ),
    )
    jobs_folder: str | None = field(
        default=None,
        metadata=_about(
            _optional(_folder),
            "the path of a folder, absolute or in the app's instance folder, or None",
            "Where jobs have their files, by which the processes of a machine agree on who runs"
            " one; by default the folder of the Delay's name in the instance folder.",
        ),
    )
    celery_app: str | None = field(
        default=None,
        metadata=_about(
            _optional(_import_path),
            'where a Celery app is, as "module:name", or None to make one',
            "The app whose tasks those of the backend are; by default one with the settings"
            " `CELERY_*`.",
        ),
    )
    celery_broker_url: str | None = field(
        default=None,
        # May have a password in it.
        repr=False,
        metadata=_about(
            _optional(_text),
            'a URL such as "redis://localhost:6379/0", or None',
            "Where the Celery app that is made publishes; by default as `CELERY_BROKER_URL` says.",
        ),
    )
    celery_result_backend: str | None = field(
        default=None,
        repr=False,
        metadata=_about(
            _optional(_text),
            'the URL of a Redis, such as "redis://localhost:6379/1", or None',
            "Where that app has its results; by default as `CELERY_RESULT_BACKEND` says, or with"
            " the broker, if that is Redis.",
        ),
    )
    celery_when_down: str = field(
        default="raise",
        metadata=_about(
            _one_of("raise", "buffer"),
            '"raise" or "buffer"',
            "What a submit does when the broker cannot be reached: it raises BrokerUnavailable; or"
            " keeps the task in memory until it can, up to 1000 of them.",
        ),
    )
    mode: str = field(
        default="threads",
        metadata=_about(
            _one_of("threads", "immediate", "manual"),
            '"threads", "immediate" or "manual"',
            "Who runs the tasks: threads; for tests, whoever submits, before it goes on; or"
            " whoever calls executor.run_pending().",
        ),
    )


class Setting(NamedTuple):
    """What there is to say about one setting."""

    key: str
    default: object
    allowed: str
    help: str


def settings(prefix: str, kind: type[Config] = Config) -> Iterator[Setting]:
    """All settings of `kind`, in order, with their config keys under `prefix`."""
    for f in fields(kind):
        key = prefix + f.name.upper()
        yield Setting(key, f.default, f.metadata["allowed"], f.metadata["help"])


@overload
def load(config: Mapping[str, Any], prefix: str) -> Config: ...


@overload
def load(config: Mapping[str, Any], prefix: str, kind: type[_C]) -> _C: ...


def load(config: Mapping[str, Any], prefix: str, kind: type[Config] = Config) -> Config:
    """Read the settings under `prefix` ("DELAY_") from an app's `config`.

    A `kind` other than `Config` has more of them. Raises ValueError for a bad value; a key
    that is not known gets a UserWarning.
    """
    values: dict[str, Any] = {}
    for f in fields(kind):
        key = prefix + f.name.upper()
        if key not in config:
            continue
        try:
            values[f.name] = f.metadata["parse"](config[key])
        except (TypeError, ValueError, OverflowError):
            shown = masked(repr(config[key]))
            message = f"{key} is {shown}, but must be {f.metadata['allowed']}"
            raise ValueError(message) from None
    for key, hint in unknown(config, prefix, kind):
        warnings.warn(f"{key} is not a setting of Flask-Delay: {hint}", stacklevel=_outside())
    return kind(**values)


def unknown(
    config: Mapping[str, Any], prefix: str, kind: type[Config] = Config
) -> Iterator[tuple[str, str]]:
    """The keys under `prefix` that are no settings, each with what may have been meant."""
    known = [f.name.upper() for f in fields(kind)]
    for key in config:
        if not key.startswith(prefix):
            continue
        rest = key.removeprefix(prefix)
        # DELAY_REPORTS_MAX_WORKERS belongs to the instance `delay_reports`, which the
        # app may only get later; so the shape of the key has to tell.
        if rest in known or rest.endswith(tuple(f"_{name}" for name in known)):
            continue
        near = difflib.get_close_matches(rest, known, n=1)
        hint = f"did you mean {prefix}{near[0]}?" if near else f"known are {', '.join(known)}"
        if kind is Config and prefix != _PREFIX:
            hint += "; if it is another extension's, give this Delay another name"
        yield key, hint


def _outside() -> int:
    """How many calls above the caller the code is that uses this package, for `warn`."""
    package = __name__.partition(".")[0]
    level, frame = 0, inspect.currentframe()
    while frame and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        level, frame = level + 1, frame.f_back
    return level
