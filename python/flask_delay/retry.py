"""`Retry`: the conditions and delays for further attempts of a failed task."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

from flask_delay import validators

_T = TypeVar("_T")

_Kinds = type[BaseException] | tuple[type[BaseException], ...]

# Not the shared generator: if a server forks without Python's hooks, its state is the same in all
# processes, and their tasks would be retried at the same time.
_random = random.SystemRandom()


_COUNT = "an integer, 0 or more, or None for no end"
_SECONDS = "a number of seconds, 0 or more"
_WAITS = "a list of numbers of seconds, 0 or more"
_SHARE = "True, False or a share between 0 and 1"
_KINDS = "an exception class or a tuple of them"

_BACKOFF = 1.0


class _AsMany:
    """The default of `times`."""

    def __repr__(self) -> str:
        return "3, or as many as there are waits"


_AS_MANY = _AsMany()


@dataclass(frozen=True, slots=True)
class Retry:
    """When a failed task runs again: `using(retry=Retry(3, on=ConnectionError))`.

    Up to `times` more runs follow the first; with None there is no limit. The task waits `backoff`
    seconds before the first retry, and twice as long each further time. With `waits`, it waits for
    these numbers of seconds in turn, and then always for the last. It never waits longer than
    `max_delay`. `jitter` shortens each wait by a random part, so that tasks which failed together
    are not retried together: by up to half of it, or up to the given share instead of True. With
    `waits`, `times` is by default the number of `waits`.

    Only exceptions of the classes in `on` count, and none of the classes in `unless`:

    >>> retry = Retry(5, backoff=0.5, on=(ConnectionError, TimeoutError))
    >>> retry.times, retry.max_delay, retry.jitter
    (5, 600.0, True)
    >>> Retry(waits=[1, 5, 30]).times
    3

    Raises TypeError or ValueError for a value that is not allowed:

    >>> Retry(times=-1)
    Traceback (most recent call last):
    ...
    ValueError: Retry's 'times' is -1, but must be an integer, 0 or more, or None for no end
    """

    times: int | None = cast("int", _AS_MANY)
    backoff: float = _BACKOFF
    max_delay: float = 600.0
    jitter: bool | float = True
    on: _Kinds = Exception
    unless: _Kinds = ()
    waits: Sequence[float] | None = None

    # The native module calls `_after` when an attempt has failed, and `_delay` when an attempt has
    # asked for the next one; on a worker or on the event loop's thread.

    def __post_init__(self) -> None:
        """Refuse values that are not allowed."""
        if self.waits is not None:
            # A tuple has a hash and never changes.
            self._set("waits", self._checked("waits", _waits, _WAITS))
            if self.backoff != _BACKOFF:
                raise ValueError("Retry's 'backoff' and 'waits' exclude each other")
        times: object = self.times
        if times is _AS_MANY:
            self._set("times", 3 if self.waits is None else len(self.waits))
        if self.times is not None:
            self._checked("times", validators.integer(0), _COUNT)
        for name in ("backoff", "max_delay"):
            self._checked(name, validators.wait, _SECONDS)
        self._checked("jitter", _share, _SHARE)
        for name in ("on", "unless"):
            self._checked(name, _kinds, _KINDS)

    def _checked(self, name: str, parse: Callable[[object], _T], allowed: str) -> _T:
        return validators.checked(parse, getattr(self, name), f"Retry's {name!r}", allowed)

    def _set(self, name: str, value: object) -> None:
        # The dataclass is frozen.
        object.__setattr__(self, name, value)

    def _allows(self, number: int) -> bool:
        """Whether the retry of this number is allowed; the first is 1."""
        return self.times is None or number <= self.times

    def _delay(self, number: int) -> float:
        """The seconds to wait before the retry of this number; the first is 1."""
        if self.waits is not None:
            wait = self.waits[min(number, len(self.waits)) - 1]
        else:
            # Larger powers make the float infinite; `max_delay` limits the wait anyway.
            wait = self.backoff * 2.0 ** min(number - 1, 1000)
        delay = min(self.max_delay, wait)
        share = 0.5 if self.jitter is True else float(self.jitter)
        return _random.uniform(delay * (1 - share), delay)

    def _after(self, exception: BaseException, attempt: int) -> float | None:
        """The seconds to wait after this failed attempt; None for no further attempt.

        `attempt` is 1 after the first.
        """
        if not self._allows(attempt):
            return None
        if not isinstance(exception, self.on) or isinstance(exception, self.unless):
            return None
        return self._delay(attempt)


def as_retry(value: object) -> Retry:
    """Convert a `Retry` or a number of times. Raises TypeError or ValueError for anything else."""
    return value if isinstance(value, Retry) else Retry(validators.integer(0)(value))


def _waits(value: object) -> tuple[float, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise TypeError
    if not value:
        raise ValueError
    return tuple(map(validators.wait, value))


def _share(value: object) -> float:
    if not isinstance(value, int | float):
        raise TypeError
    if not 0 <= value <= 1:
        raise ValueError
    return value


def _kinds(value: object) -> None:
    for kind in value if isinstance(value, tuple) else (value,):
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise TypeError
