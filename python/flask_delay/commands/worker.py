"""`flask delay worker`."""

from collections.abc import Iterator, Sequence

import click

from flask_delay.backends import base, table
from flask_delay.commands.target import Target


def run(name: str, arguments: Sequence[str]) -> None:
    """Run a worker for the tasks of an app, until it is told to end."""
    target = Target.find(name)
    try:
        for backend in _with_workers(target.settings.backend):
            target.state.backend(backend).work(arguments)
            return
    except (ImportError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    raise click.ClickException("no backend that is installed has workers of its own")


def _with_workers(default: str) -> Iterator[str]:
    """The backends whose workers are started by a command, the Delay's own first."""
    missing = None
    for name in sorted(table.names()[1:], key=lambda it: it != default):
        try:
            kind = base.kind(name)
        except ImportError as error:
            # A package that it needs is not installed.
            missing = error
            continue
        if kind.work is not base.Backend.work:
            yield name
    if missing is not None:
        raise missing
