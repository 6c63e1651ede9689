"""How the demo fails: one line on stderr, and an exit code."""


class DemoError(Exception):
    """The demo did not show what it should have shown."""

    exit_code = 1


class InputError(DemoError):
    """The user asked for what cannot be done: no such file, a port that is taken."""

    exit_code = 2
