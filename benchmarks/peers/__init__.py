"""Every library that takes part."""

from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

from benchmarks.model import Peer
from benchmarks.peers.pools import (
    Burner,
    FlaskExecutor,
    Hypertile,
    Nothing,
    Ours,
    Spawned,
    Standard,
)
from benchmarks.peers.queues import QUEUES

_IN_PROCESSES = {
    "DELAY_BACKEND": "processes",
    "DELAY_PROCESSES": 1,
    "DELAY_APP": "benchmarks.web:create('ours-processes')",
}
_ALL: tuple[Peer, ...] = (
    Ours(),
    Ours("ours-plain-switch", "Flask-Delay, interval None", {"DELAY_SWITCH_INTERVAL": None}),
    Ours(
        "ours-processes",
        "Flask-Delay, processes",
        _IN_PROCESSES,
        packages=("flask-delay", "cloudpickle"),
    ),
    # Measured by the interpreter of another environment.
    Ours("before", "Flask-Delay, before"),
    Standard("tpe", "ThreadPoolExecutor", ThreadPoolExecutor),
    Standard("processes", "ProcessPoolExecutor", ProcessPoolExecutor),
    Spawned("spawn", "ProcessPoolExecutor, spawn"),
    Spawned("loky", "loky", ("loky",)),
    Spawned("pebble", "Pebble", ("Pebble",)),
    FlaskExecutor(),
    Hypertile(),
    Nothing(),
    Burner(),
    *QUEUES,
)

PEERS: dict[str, Peer] = {peer.name: peer for peer in _ALL}
"""By the names that the table of cases uses."""
