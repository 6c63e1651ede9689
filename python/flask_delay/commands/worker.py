"""`flask delay worker`."""

from collections.abc import Sequence
from typing import Any, cast

import click

from flask_delay.commands.target import Target


def run(name: str, arguments: Sequence[str]) -> None:
    """Be a Celery worker for the tasks of an app, until that is told to end."""
    target = Target.find(name)
    try:
        # Only here: it needs Celery.
        from flask_delay.backends.celery import celery_app  # noqa: PLC0415

        celery = celery_app(target.app, name=name)
    except (ImportError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    cast("Any", celery).worker_main(["worker", *arguments])
