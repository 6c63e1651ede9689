"""`flask delay bench`."""

import platform
import statistics
import time

import click

from flask_delay import Delay, config, context
from flask_delay.commands.target import Target

_BATCH = 1000


def run(target: Target, seconds: float) -> None:
    """Measure for this many seconds, and print the figures."""
    probe = _probe(target)
    try:
        with context.scope(target.app)():
            probe.delay(_nothing).result()
            submits, trips = _one_by_one(probe, seconds / 2)
            rate = _many(probe, seconds / 2)
    finally:
        probe.shutdown(cancel_futures=True)
    click.echo(f"{target}; {platform.python_implementation()} {platform.python_version()}\n")
    click.echo(f"{'':<10}  {'median':>11}  {'99 of 100':>11}")
    for what, times, text in (
        ("submit", submits, "delay(fn), what it costs a view"),
        ("round trip", trips, "delay(fn).result(), with a worker that sleeps"),
    ):
        middle, most = statistics.median(times), statistics.quantiles(times, n=100)[-1]
        click.echo(f"{what:<10}  {_short(middle):>11}  {_short(most):>11}  {text}")
    rated = f"{rate:,.0f} /s"
    click.echo(f"{'tasks':<10}  {rated:>11}  {'':>11}  no-ops, each in an app context of its own")


def _probe(target: Target) -> Delay:
    """A Delay with the settings of the target, and without its callbacks."""
    probe = Delay(name=f"{target.delay.name}_bench")
    for setting in config.settings(probe.prefix):
        target.app.config[setting.key] = setting.value(target.settings)
    target.app.config[f"{probe.prefix}MODE"] = "threads"
    # A full queue must not delay the measured submits.
    target.app.config[f"{probe.prefix}QUEUE_SIZE"] = 0
    probe.init_app(target.app)
    return probe


def _nothing() -> None:
    pass


def _one_by_one(probe: Delay, seconds: float) -> tuple[list[float], list[float]]:
    submits: list[float] = []
    trips: list[float] = []
    end = time.perf_counter() + seconds
    while (begin := time.perf_counter()) < end or len(trips) < _BATCH // 10:
        future = probe.delay(_nothing)
        submitted = time.perf_counter()
        future.result()
        trips.append(time.perf_counter() - begin)
        submits.append(submitted - begin)
    return submits, trips


def _many(probe: Delay, seconds: float) -> float:
    count = 0
    begin = time.perf_counter()
    # In batches, so that the queue stays short.
    while (took := time.perf_counter() - begin) < seconds or not count:
        for _ in range(_BATCH):
            probe.delay(_nothing)
        probe.drain()
        count += _BATCH
    return count / took


def _short(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 1e-6:.1f} µs"
