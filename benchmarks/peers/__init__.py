"""Every library that takes part."""

from benchmarks.model import Peer
from benchmarks.peers.pools import FlaskExecutor, Hypertile, Nothing, Ours, Processes, Threads
from benchmarks.peers.queues import celery, dramatiq, flexiq, huey, rq

_ALL: tuple[Peer, ...] = (
    Ours(),
    Ours(name="ours-plain-switch", title="Flask-Delay, interval None", switching=False),
    Threads(),
    Processes(),
    FlaskExecutor(),
    Hypertile(),
    Nothing(),
    huey.Huey(),
    flexiq.FlexiQ(),
    celery.Celery(),
    rq.RQ(),
    dramatiq.Dramatiq(),
)

PEERS: dict[str, Peer] = {peer.name: peer for peer in _ALL}
"""By the names that the table of cases uses."""
