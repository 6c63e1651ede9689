"""Flask-Delay and its peers side by side: `make bench`. README.md says how it works."""

# Environment variables, which the processes of a measurement inherit.
SCRATCH = "BENCHMARKS_SCRATCH"
"""The directory that client and worker share."""
REDIS = "BENCHMARKS_REDIS"
"""The URL of the Redis server."""
BACKEND = "BENCHMARKS_BACKEND"
"""The backend of `benchmarks.backend_app`."""
WRK_CPUS = "BENCHMARKS_WRK_CPUS"
"""The CPUs for wrk, separated by commas; empty for all."""
