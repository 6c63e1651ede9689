"""Dramatiq with Redis."""

from benchmarks.peers.queues import QueuePeer


class Dramatiq(QueuePeer):
    """One process with eight threads."""

    name = "dramatiq"
    title = "Dramatiq, Redis"
    packages = ("dramatiq", "redis")
    programs = ("redis-server",)
    redis = True
    module = "benchmarks.peers.queues.dramatiq_tasks"

    def worker(self) -> list[str]:
        """See `QueuePeer`."""
        return ["dramatiq", "--processes=1", "--threads=8", self.module]
