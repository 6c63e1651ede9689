"""The machine that runs the suite, and its other load."""

import contextlib
import importlib.metadata
import os
import platform
import re
import resource
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.model import Noise, Peer

NOISY_OTHERS = 0.05
"""More than this share of the machine's time used by others makes a run noisy."""
NOISY_STEAL = 0.01
"""The same for time that the hypervisor gave to other guests."""

_STAT = Path("/proc/stat")


ENOUGH_CPUS = 4
"""With fewer, to pin would be to measure how threads share a processor."""


def halves() -> tuple[set[int], set[int]] | None:
    """The CPUs for the measured process and for its client, or None if there are too few."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    cpus = sorted(os.sched_getaffinity(0))
    middle = len(cpus) // 2
    return (set(cpus[:middle]), set(cpus[middle:])) if len(cpus) >= ENOUGH_CPUS else None


@contextlib.contextmanager
def pinned_to(cpus: set[int]) -> Iterator[None]:
    """Pin this thread, and processes that it starts, to these CPUs until the block ends."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _pinning() -> str:
    parts = halves()
    if parts is None:
        return f"none, fewer than {ENOUGH_CPUS} CPUs"
    measured, asking = (", ".join(map(str, sorted(part))) for part in parts)
    return f"what is measured on CPUs {measured}; wrk on {asking}"


def head(peers: Iterable[Peer], command: str) -> dict[str, str]:
    """The head of the report."""
    peers = list(peers)
    packages = sorted({name for peer in peers for name in (*peer.packages, "Flask", "gunicorn")})
    programs = sorted({name for peer in peers for name in (*peer.programs, "wrk", "rustc")})
    found = [
        *(f"{name} {version}" for name in packages if (version := _package(name))),
        *(version for name in programs if (version := _program(name))),
    ]
    return {
        "command": f"`{command}`",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "processor": f"{_processor()}, {os.cpu_count()} CPUs",
        "pinning": _pinning(),
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "Python": f"{platform.python_version()}, {platform.python_compiler()}",
        "versions": ", ".join(found),
        "load before": f"{os.getloadavg()[0]:.2f}",
    }


def _package(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _program(name: str) -> str | None:
    path = shutil.which(name)
    if path is None:
        return None
    # wrk prints its version with its usage, and fails.
    done = subprocess.run([path, "--version"], check=False, capture_output=True, text=True)
    version = re.search(r"\d[\w.+~-]*", done.stdout or done.stderr)
    return f"{name} {version[0] if version else '?'}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


@dataclass(frozen=True)
class _Moment:
    at: float
    busy: float
    steal: float
    ours: float

    @classmethod
    def now(cls) -> "_Moment":
        user, nice, system, _idle, _iowait, irq, softirq, steal = (
            int(ticks) / os.sysconf("SC_CLK_TCK")
            for ticks in _STAT.read_text().splitlines()[0].split()[1:9]
        )
        ours = 0.0
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
            usage = resource.getrusage(who)
            ours += usage.ru_utime + usage.ru_stime
        return cls(time.monotonic(), user + nice + system + irq + softirq, steal, ours)


class Watch:
    """Observes the machine from its creation until the call of `noise`.

    Children count as the suite's own once they have been waited for.
    """

    def __init__(self) -> None:
        self._start = _Moment.now() if _STAT.exists() else None

    def noise(self) -> Noise | None:
        """The load of others since then; None where the system does not report it."""
        if self._start is None:
            return None
        end = _Moment.now()
        capacity = max(1e-9, (end.at - self._start.at) * (os.cpu_count() or 1))
        own = end.ours - self._start.ours
        return Noise(
            others=max(0.0, (end.busy - self._start.busy - own) / capacity),
            steal=max(0.0, (end.steal - self._start.steal) / capacity),
        )


def is_noisy(noise: Noise | None) -> bool:
    """Whether others used enough of the machine to doubt the measurement."""
    return noise is not None and (noise.others > NOISY_OTHERS or noise.steal > NOISY_STEAL)
