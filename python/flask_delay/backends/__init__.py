"""Backends, which run tasks outside of this process's threads: a package each, see `base`."""
