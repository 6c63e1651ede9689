"""The classes of a peer, a case, a target and a measurement."""

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
        """Start `fn(*args)`; the peer's own call, without code of ours in between."""

    def wait(self, handle: Any) -> None:
        """Wait for the task of a handle from `submit`."""

    def drain(self, fn: Callable[..., object], count: int, *args: object) -> None:
        """Submit `fn(*args)` `count` times, return when all have run; the last call."""


class Peer(Protocol):
    """A library that runs tasks, ours or another one."""

    @property
    def name(self) -> str:
        """Its name on the command line and in the table of cases."""

    @property
    def title(self) -> str:
        """Its name in the report."""

    @property
    def packages(self) -> tuple[str, ...]:
        """The distributions that it needs; the report shows their versions."""

    @property
    def programs(self) -> tuple[str, ...]:
        """The programs of the system that it needs."""

    @property
    def services(self) -> Callable[[Path], AbstractContextManager[Any]]:
        """Run the services that it needs; the given directory is for their state.

        Sets `os.environ` for `open`, and for servers started meanwhile.
        """

    @property
    def open(self) -> Callable[..., AbstractContextManager[Pool]]:
        """Prepare it with that many workers; for use in views, if an app is given too."""


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
    """The required value of one of our figures.

    `better`: at least `value` times better than the peer's; `share`: at most `value` times the
    peer's; `kept`: at most `value` times the kept figure; `most` and `least`: the figure itself.
    """

    kind: Literal["better", "share", "kept", "most", "least"]
    value: float
    metric: str
    peer: str | None = None


def better(value: float, metric: str, *, than: str) -> Target:
    """At least `value` times better than the peer."""
    return Target("better", value, metric, than)


def share(value: float, metric: str, *, of: str) -> Target:
    """At most `value` times the peer's figure."""
    return Target("share", value, metric, of)


def at_most(value: float, metric: str) -> Target:
    """Our figure is at most this."""
    return Target("most", value, metric)


def at_least(value: float, metric: str) -> Target:
    """Our figure is at least this."""
    return Target("least", value, metric)


@dataclass(frozen=True)
class Case:
    """A measurement that is made for several peers in the same way."""

    name: str
    title: str
    # Called with the peer and the size.
    measure: Callable[[Peer, int], Values]
    size: int
    peers: tuple[str, ...]
    metrics: tuple[Metric, ...]
    targets: tuple[Target, ...] = ()
    # Smaller sizes for slow peers.
    sizes: Mapping[str, int] = field(default_factory=dict)
    # The most rounds, for cases that take long or hardly vary.
    rounds: int = 100
    # The reason why it cannot run here, or None.
    needs: Callable[[], str | None] = lambda: None
    # Seconds after which a measurement is given up.
    limit: float = 180.0
    # Whether it measures the installed package, so that an earlier one can be compared.
    package: bool = True
    # The peer that the targets are for.
    ours: str = "ours"

    @property
    def everyone(self) -> tuple[str, ...]:
        """The peers, and after ours the earlier version."""
        return (*self.peers, "before") if self.package and "ours" in self.peers else self.peers

    def metric(self, name: str) -> Metric:
        """The metric of this name."""
        return next(metric for metric in self.metrics if metric.name == name)


@dataclass(frozen=True)
class Noise:
    """The load of others during a measurement, as shares of the machine's time."""

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

    # The head of the report, in order.
    head: dict[str, str]
    runs: list[Run]
    # The parts that were not run, with the reason: peers by name, cases by name.
    skipped: dict[str, str]
