"""RQ with Redis."""

import os

from benchmarks.peers.queues import REDIS, QueuePeer


class RQ(QueuePeer):
    """One worker, which forks for each task."""

    name = "rq"
    title = "RQ, Redis"
    packages = ("rq", "redis")
    programs = ("redis-server",)
    redis = True
    module = "benchmarks.peers.queues.rq_tasks"

    def worker(self) -> list[str]:
        """See `QueuePeer`."""
        return ["rq.cli", "worker", "--quiet", "--url", os.environ[REDIS]]
