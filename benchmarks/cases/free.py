"""The hand-over to workers without the GIL."""

import subprocess
import sys
import sysconfig
from pathlib import Path

from benchmarks.cases import now, warm_up
from benchmarks.model import Peer, Values
from benchmarks.work import nop, spin

HANDOVER = Path(__file__).parents[2] / "target/release/examples/handover"


def needs_no_gil() -> str | None:
    """The reason why the cases for free-threaded Python cannot run."""
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "this Python has the GIL; run it with PYTHON=python3.14t"
    if getattr(sys, "_is_gil_enabled", lambda: True)():
        return "this Python could do without the GIL, but something has turned it on"
    return None


def needs_handover() -> str | None:
    """The reason why the engine cannot be measured alone."""
    if not HANDOVER.exists():
        return "cargo build --release --package flask-delay-engine --example handover"
    return None


def tasks(peer: Peer, size: int) -> Values:
    """No-op tasks/s of eight workers against one."""
    rates = []
    for workers in (1, 8):
        with peer.open(workers) as pool:
            warm_up(pool)
            start = now()
            pool.drain(nop, size)
            rates.append(size / (now() - start))
    return {"one": rates[0], "eight": rates[1], "ratio": rates[1] / rates[0]}


def compute(peer: Peer, size: int) -> Values:
    """The same pure-Python work on two workers against one."""
    times = []
    for workers in (1, 2):
        with peer.open(workers) as pool:
            warm_up(pool)
            start = now()
            pool.drain(spin, 8, size)
            times.append(now() - start)
    return {"one": times[0], "two": times[1], "ratio": times[0] / times[1]}


def engine(_peer: Peer, size: int) -> Values:
    """The engine's own jobs/s, without Python."""
    output = subprocess.run(
        [HANDOVER, str(size)], check=True, capture_output=True, text=True
    ).stdout
    rates = dict(line.split() for line in output.splitlines())
    one, two, four, eight = (float(rates[workers]) for workers in ("1", "2", "4", "8"))
    return {"one": one, "two": two, "four": four, "eight": eight, "ratio": eight / one}
