"""Rounds: every case for every peer, one after the other, each in its own process."""

import contextlib
import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks import WRK_CPUS, machine
from benchmarks.model import Case, Peer, Run, Values
from benchmarks.peers import PEERS

_ROOT = Path(__file__).parents[1]
REASONS = Path(sys.prefix) / "benchmarks-not-installed.json"
"""Where `benchmarks.install` says what it could not install, and why."""


def missing(peer: Peer) -> str | None:
    """The reason why the peer cannot take part, or None."""
    reasons = json.loads(REASONS.read_text()) if REASONS.exists() else {}
    for package in peer.packages:
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return str(reasons.get(package, f"{package} is not installed"))
    for program in peer.programs:
        if shutil.which(program) is None:
            return f"{program} is not installed; on Debian: apt-get install {program}"
    return None


def plan(
    cases: Sequence[Case], peers: Sequence[str], rounds: int
) -> Iterator[tuple[int, Case, str]]:
    """The measurements in order: rounds, in them cases, in them peers.

    Every second round has the peers in reverse, so that no peer always comes first.
    """
    for number in range(rounds):
        for case in cases:
            if number >= case.rounds:
                continue
            names = [name for name in case.everyone if name in peers]
            for name in names if number % 2 == 0 else reversed(names):
                yield number, case, name


def run(
    cases: Sequence[Case],
    peers: Sequence[str],
    rounds: int,
    tell: Callable[[str], object],
    *,
    scale: float,
    before: str | None,
) -> tuple[list[Run], dict[str, str]]:
    """Measure all; return the runs, and the parts that could not run with the reason.

    `scale` makes all sizes smaller. `before` is the interpreter of the peer of that name. `tell` is
    called with a line for each measurement.
    """
    skipped = {case.name: reason for case in cases if (reason := case.needs())}
    can_run = [case for case in cases if case.name not in skipped]
    wanted = {name for case in can_run for name in case.everyone if name in peers}
    skipped |= {name: reason for name in sorted(wanted) if (reason := missing(PEERS[name]))}
    here = [name for name in peers if name not in skipped]
    runs = []
    for number, case, name in plan(can_run, here, rounds):
        size = max(1, round(case.sizes.get(name, case.size) * scale))
        python = before if before and name == "before" else sys.executable
        run = _measure(python, number, case, name, size)
        tell(_line(run))
        runs.append(run)
    return runs, skipped


def _measure(python: str, number: int, case: Case, peer: str, size: int) -> Run:
    watch, parts = machine.Watch(), machine.halves()
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        if parts:
            # Before the child starts: the child and all its threads inherit the CPUs.
            stack.enter_context(machine.pinned_to(parts[0]))
        output, errors = Path(directory) / "values.json", Path(directory) / "stderr"
        command = [python, "-m", "benchmarks.child", case.name, peer, str(size)]
        cpus = ",".join(map(str, parts[1])) if parts else ""
        with errors.open("w") as stderr:
            child = subprocess.Popen(
                [*command, str(output)],
                cwd=_ROOT,
                env=os.environ | {"PYTHONHASHSEED": "0", WRK_CPUS: cpus},
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )
            try:
                child.wait(case.limit)
            except subprocess.TimeoutExpired:
                stderr.write(f"took more than {case.limit:.0f} s\n")
            finally:
                _end(child)
        values: Values = json.loads(output.read_text()) if output.exists() else {}
        said = "\n".join(errors.read_text().splitlines()[-30:])
    error = None if values else said or "ended without a word"
    return Run(case.name, peer, number, values, watch.noise(), error)


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the child and its processes; if it still runs, it ends its own servers first."""
    if child.poll() is None:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(20)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _line(run: Run) -> str:
    found = run.error or " ".join(f"{name}={value:.4g}" for name, value in run.values.items())
    noisy = " (noisy)" if machine.is_noisy(run.noise) else ""
    clock = time.strftime("%H:%M:%S")
    return f"{clock} round {run.round + 1} {run.case} {run.peer}: {found}{noisy}"
