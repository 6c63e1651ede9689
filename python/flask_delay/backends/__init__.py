"""Where tasks run, if not on threads of this process: a package each, see `base`."""
