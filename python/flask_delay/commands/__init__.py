"""The commands of `flask delay`, which look at the `Delay` of the app that Flask finds."""

import click

from flask_delay.commands import checks, figures
from flask_delay.commands import settings as listing
from flask_delay.commands import worker as backend_worker
from flask_delay.commands.target import Target

_name = click.option(
    "--name", default="delay", show_default=True, help="The Delay that is meant, by its name."
)


@click.group()
def delay() -> None:
    """Look at the background tasks of this app (Flask-Delay)."""


@delay.command()
@_name
@click.option("--explain", is_flag=True, help="Say what each setting is, and what is allowed.")
def config(name: str, explain: bool) -> None:
    """Show every setting: its key, its value and where that came from."""
    listing.show(Target.find(name), explain=explain)


@delay.command()
@_name
def check(name: str) -> None:
    """Run a task, and say what is wrong.

    Starts the pool of this process, runs a task in an app context and a callback, and drains
    the pool. The exit code is 1 if something is wrong.
    """
    if not checks.run(name):
        raise SystemExit(1)


@delay.command()
@_name
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.1, max=600),
    default=3.0,
    show_default=True,
    help="How long to measure.",
)
def bench(name: str, seconds: float) -> None:
    """Measure what tasks cost in this app, on this machine.

    In a pool of its own with the same settings, with tasks that do nothing, so that no
    default callback of the app is called. The app's teardown functions are.
    """
    figures.run(Target.find(name), seconds)


@delay.command(context_settings={"ignore_unknown_options": True})
@_name
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def worker(name: str, arguments: tuple[str, ...]) -> None:
    """Run the tasks of a backend that has workers, as "celery" does.

    ARGUMENTS are the backend's: with "celery" those of `celery worker`, such as `-c 4 -l INFO`.
    """
    backend_worker.run(name, arguments)
