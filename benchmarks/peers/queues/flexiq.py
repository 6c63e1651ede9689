"""FlexiQ, once taskito, with SQLite."""

from benchmarks.peers.queues import QueuePeer


class FlexiQ(QueuePeer):
    """Threads of Rust that poll a table."""

    name = "flexiq"
    title = "FlexiQ, SQLite"
    packages = ("flexiq",)
    module = "benchmarks.peers.queues.flexiq_tasks"

    def worker(self) -> list[str]:
        """See `QueuePeer`."""
        return ["flexiq.cli", "worker", "--app", f"{self.module}:queue", "--drain-timeout=1"]
