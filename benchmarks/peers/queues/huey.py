"""Huey with SQLite."""

from benchmarks.peers.queues import QueuePeer


class Huey(QueuePeer):
    """Eight threads that poll a table."""

    name = "huey"
    title = "Huey, SQLite"
    packages = ("huey",)
    module = "benchmarks.peers.queues.huey_tasks"

    def worker(self) -> list[str]:
        """See `QueuePeer`."""
        return ["huey.bin.huey_consumer", f"{self.module}.huey", "--workers=8", "--quiet"]
