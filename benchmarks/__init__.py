"""Measures Flask-Delay and its peers side by side: `make bench`. README.md explains the method."""

# Environment variables, inherited by the processes of a measurement.
SCRATCH = "BENCHMARKS_SCRATCH"
"""The directory that client and worker share."""
REDIS = "BENCHMARKS_REDIS"
"""The URL of the Redis server."""
BACKEND = "BENCHMARKS_BACKEND"
"""The backend of `benchmarks.backend_app`."""
SYNC = "BENCHMARKS_SYNC"
"""When a durable task of `benchmarks.durable_app` is on the disk: `DELAY_JOURNAL_SYNC`."""
WRK_CPUS = "BENCHMARKS_WRK_CPUS"
"""The CPUs for wrk, separated by commas; empty for all."""
