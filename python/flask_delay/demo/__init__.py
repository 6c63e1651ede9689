"""The demo: serves the quickstart app, sends it requests and shows what happens when."""

import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from flask_delay import __version__
from flask_delay.demo import quickstart
from flask_delay.demo.client import Client
from flask_delay.demo.errors import DemoError, InputError
from flask_delay.demo.server import serve
from flask_delay.demo.show import show_many, show_one, show_test
from flask_delay.demo.terminal import Terminal

__all__ = ["DemoError", "run"]

# More files than this are shown as one timeline and a table.
TIMELINES = 3


def run(files: Sequence[Path] = (), *, port: int = 0, full: bool = False) -> None:
    """Show that `/test` answers before its work is done; then digest the files."""
    files = files or own_sources()
    for file in files:
        check_readable(file)
    terminal = Terminal(sys.stdout)
    app = quickstart.create_app(
        {
            "FAKE_WORK_SECONDS": 10.0 if full else 1.0,
            "DELAY_SHUTDOWN_TIMEOUT": 1.0,  # of interest after Ctrl-C only
        }
    )
    app.logger.setLevel("ERROR")
    finished = False
    try:
        with serve(app, port) as bound:
            terminal.line(
                f"flask-delay {__version__} on Python {platform.python_version()}:"
                f" the quickstart app at http://{bound.host}:{bound.port}"
            )
            client = Client(bound.host, bound.port)
            show_test(client, terminal)
            alone = len(files) if len(files) <= TIMELINES else 1
            for file in files[:alone]:
                show_one(client, file, terminal)
            if files[alone:]:
                show_many(client, files[alone:], terminal)
        finished = True
    finally:
        terminal.close()
        with app.app_context():
            quickstart.executor.shutdown(wait=finished, cancel_futures=not finished)
    terminal.line("\nEvery callback was called; server and workers have ended.")


def own_sources() -> list[Path]:
    """The Python files of this package, the largest first."""
    sources = Path(__file__).parent.parent.rglob("*.py")
    return sorted(sources, key=lambda path: (-path.stat().st_size, path))


def check_readable(file: Path) -> None:
    """Raise `InputError` unless this is a regular file that can be read."""
    try:
        if file.exists() and not file.is_file():
            raise InputError(f"{file}: not a regular file")
        file.open("rb").close()
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: {getattr(error, 'strerror', None) or error}") from None
