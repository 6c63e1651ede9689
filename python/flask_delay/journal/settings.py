"""Where the journal of a `Delay` is, and by which names it knows the app and its modules."""

from pathlib import Path

from flask import Flask

from flask_delay import registry
from flask_delay.config import Config

FILE = "journal.db"


def path_of(app: Flask, name: str, settings: Config) -> Path:
    """The file of the journal of the `Delay` of this name."""
    given = settings.journal
    if isinstance(given, str):
        # An absolute path stays as it is.
        return Path(app.instance_path) / given
    return Path(app.instance_path) / name / FILE


def main_of(app: Flask, settings: Config) -> str:
    """What other processes call the `__main__` of this one."""
    where = settings.app
    if app.import_name == registry.MAIN and where is not None:
        return registry.main_module(where) or app.name
    return app.name


def space_of(app: Flask, name: str, main: str) -> str:
    """What separates the tasks of this `Delay` from those of others in the same file."""
    return f"{main if app.import_name == registry.MAIN else app.import_name}|{name}"
