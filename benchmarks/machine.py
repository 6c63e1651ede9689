"""What the suite runs on, and what else the machine does meanwhile."""

import datetime
import importlib.metadata
import os
import platform
import resource
import shutil
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.model import Noise, Peer

NOISY_OTHERS = 0.05
"""More than this share of the machine's time used by others makes a run noisy."""
NOISY_STEAL = 0.01
"""The same for time that the hypervisor gave to other guests."""

_STAT = Path("/proc/stat")


def head(peers: Iterable[Peer], command: str) -> dict[str, str]:
    """What stands on top of the report."""
    peers = list(peers)
    packages = sorted({name for peer in peers for name in (*peer.packages, "Flask", "gunicorn")})
    programs = sorted({name for peer in peers for name in (*peer.programs, "wrk", "rustc")})
    found = [
        *(f"{name} {version}" for name in packages if (version := _package(name))),
        *(version for name in programs if (version := _program(name))),
    ]
    return {
        "command": f"`{command}`",
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "processor": f"{_processor()}, {len(os.sched_getaffinity(0))} CPUs for the suite",
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
    # wrk tells its version with its usage, and fails.
    done = subprocess.run([path, "--version"], check=False, capture_output=True, text=True)
    return " ".join((done.stdout or done.stderr).split()[:3])


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
    """Looks at the machine from when it is made until `noise` is called.

    Children count as the suite's own once they have been waited for.
    """

    def __init__(self) -> None:
        self._start = _Moment.now() if _STAT.exists() else None

    def noise(self) -> Noise | None:
        """What others used since; None where the system does not tell."""
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
