"""Where tasks run, if not on threads of this process: a module each, see `elsewhere`."""
