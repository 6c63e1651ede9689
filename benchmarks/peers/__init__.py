"""All peers."""

from benchmarks.model import Peer
from benchmarks.peers.durable import DURABLE
from benchmarks.peers.pools import POOLED
from benchmarks.peers.queues import QUEUES

PEERS: dict[str, Peer] = {peer.name: peer for peer in (*POOLED, *QUEUES, DURABLE)}
"""By the names that the table of cases uses."""
