"""What a peer, a case, a target and a measurement are."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

Values = dict[str, float]
"""What one measurement found, by the names of the case's metrics; times in seconds."""


class Pool(Protocol):
    """A peer that is ready to take tasks."""

    @property
    def submit(self) -> Callable[..., Any]:
        """Start `fn(*args)`; the peer's own call, with nothing of ours in between."""

    def wait(self, handle: Any) -> None:
        """Wait for the end of what `submit` returned."""

    def drain(self, fn: Callable[..., object], count: int, *args: object) -> None:
        """Submit `fn(*args)` so many times, return when all have run; the last call."""


class Peer(Protocol):
    """A library that runs tasks, ours or another one."""

    @property
    def name(self) -> str:
        """How the command line and the table of cases call it."""

    @property
    def title(self) -> str:
        """How the report calls it."""

    @property
    def packages(self) -> tuple[str, ...]:
        """The distributions it needs; their versions are reported."""

    @property
    def programs(self) -> tuple[str, ...]:
        """The programs of the system that it needs."""

    @property
    def services(self) -> Callable[[Path], AbstractContextManager[None]]:
        """Run what it needs beside this process; state goes into the directory that is given.

        What `open` has to know is left in `os.environ`, for servers started meanwhile.
        """

    @property
    def open(self) -> Callable[..., AbstractContextManager[Pool]]:
        """Make it ready with so many workers; for use in views, if an app is given too."""


@dataclass(frozen=True)
class Metric:
    """One figure of a case."""

    name: str
    title: str
    unit: Literal["s", "tasks/s", "requests/s", "B", "x", "", "yes or no"]
    # None: the figures of two peers are not compared.
    better: Literal["less", "more"] | None


@dataclass(frozen=True)
class Target:
    """What one figure of ours should be.

    `better`: at least `value` times better than the peer's; `share`: at most `value` times
    the peer's; `kept`: at most `value` times the one that is kept; `most` and `least`: the
    figure itself.
    """

    kind: Literal["better", "share", "kept", "most", "least"]
    value: float
    metric: str
    peer: str | None = None


def better(value: float, metric: str, *, than: str) -> Target:
    """At least so many times better than the peer."""
    return Target("better", value, metric, than)


def share(value: float, metric: str, *, of: str) -> Target:
    """At most so many times what the peer has."""
    return Target("share", value, metric, of)


def at_most(value: float, metric: str) -> Target:
    """Our figure is at most this."""
    return Target("most", value, metric)


def at_least(value: float, metric: str) -> Target:
    """Our figure is at least this."""
    return Target("least", value, metric)


@dataclass(frozen=True)
class Case:
    """Something that is measured for several peers in the same way."""

    name: str
    title: str
    # Called with the peer and the size.
    measure: Callable[[Peer, int], Values]
    size: int
    peers: tuple[str, ...]
    metrics: tuple[Metric, ...]
    targets: tuple[Target, ...] = ()
    # For peers that would take too long.
    sizes: Mapping[str, int] = field(default_factory=dict)
    # At most so many rounds: long, or hardly varies.
    rounds: int = 100
    # Why it cannot run here, or None.
    needs: Callable[[], str | None] = lambda: None
    # In seconds: after which a measurement is given up.
    limit: float = 180.0
    # Whether it measures the installed package, so that an earlier one can be compared.
    package: bool = True

    @property
    def everyone(self) -> tuple[str, ...]:
        """The peers, and beside ours the earlier one."""
        return (*self.peers, "before") if self.package and "ours" in self.peers else self.peers

    def metric(self, name: str) -> Metric:
        """The metric of this name."""
        return next(metric for metric in self.metrics if metric.name == name)


@dataclass(frozen=True)
class Noise:
    """What else went on in the machine during a measurement, as shares of all its time."""

    others: float
    steal: float


@dataclass(frozen=True)
class Run:
    """One measurement of one peer in one round; `error` says why there are no values."""

    case: str
    peer: str
    round: int
    values: Values
    noise: Noise | None = None
    error: str | None = None


@dataclass(frozen=True)
class Results:
    """A whole run of the suite."""

    # What stands on top of the report, in this order.
    head: dict[str, str]
    runs: list[Run]
    # What was not run, and why: peers by name, cases by name.
    skipped: dict[str, str]
