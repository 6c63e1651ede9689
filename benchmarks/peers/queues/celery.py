"""Celery with Redis."""

from benchmarks.peers.queues import QueuePeer


class Celery(QueuePeer):
    """One worker with eight threads."""

    name = "celery"
    title = "Celery, Redis"
    packages = ("celery", "redis")
    programs = ("redis-server",)
    redis = True
    module = "benchmarks.peers.queues.celery_tasks"

    def worker(self) -> list[str]:
        """See `QueuePeer`."""
        options = ["--pool=threads", "--concurrency=8", "--loglevel=ERROR", "--without-mingle"]
        return ["celery", "--app", self.module, "worker", *options]
