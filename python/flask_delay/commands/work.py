"""`flask delay work`."""

import time

import click

from flask_delay.commands.target import Target
from flask_delay.servers import sigterm

# Seconds of a sleep. A signal that comes just before one is not heard until it is over.
_SLEEP = 1.0


def run(name: str) -> None:
    """Run durable tasks until a signal, and leave those that wait to other processes."""
    target = Target.find(name)
    store = target.state.store
    # Whatever the setting is: this process has no server that ends it in order.
    sigterm.drain_on_sigterm()
    try:
        store.work()
        click.echo(f"{target}: runs durable tasks of {store.path}, until SIGTERM or Ctrl-C")
        while True:
            time.sleep(_SLEEP)
    except (RuntimeError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    except (KeyboardInterrupt, SystemExit):
        store.stop()
        click.echo("Ends: takes no more tasks, and waits for those that run")
    # Python's exit lets the tasks end, within SHUTDOWN_TIMEOUT.
