"""All peers."""

from benchmarks.model import Peer
from benchmarks.peers.pools import POOLED
from benchmarks.peers.queues import QUEUES

PEERS: dict[str, Peer] = {peer.name: peer for peer in (*POOLED, *QUEUES)}
"""By the names that the table of cases uses."""
