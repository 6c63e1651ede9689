"""`flask delay dashboard`."""

from collections.abc import Callable, Iterable
from typing import Any

import click
from flask import Flask
from werkzeug.serving import make_server

from flask_delay._native import JournalUnavailable
from flask_delay.commands.target import Target
from flask_delay.dashboard.blueprint import blueprint

_LOOPBACK = "127.0.0.1"
# The names by which a browser of this machine comes here. Another one means that a page of
# somebody else's has had its name resolved to this address.
_HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]"})

_Answer = Callable[..., Any]


def run(name: str, port: int) -> None:
    """Serve the live page on loopback, to look and not to act, until Ctrl-C."""
    target = Target.find(name)
    if not target.state.store.is_there:
        raise click.ClickException(
            f"{target} has no journal, and this process has no tasks of its own to show: set"
            f" {target.prefix}JOURNAL, or mount the page in the app (dashboard_blueprint)"
        )
    path = target.state.store.path
    if not path.exists():
        # Made here, it would belong to the user of this command, and not to the server's.
        raise click.ClickException(
            f"{target} has no journal yet: {path} is made when a server with the app starts"
        )
    try:
        target.state.store.stats()
    except JournalUnavailable as error:
        raise click.ClickException(str(error)) from None
    try:
        server = make_server(_LOOPBACK, port, made(target), threaded=True)
    except (OSError, SystemExit) as error:
        raise click.ClickException(f"port {port} of {_LOOPBACK} cannot be used: {error}") from None
    click.echo(f"{target}: http://{_LOOPBACK}:{server.server_port}/ until Ctrl-C; read-only")
    try:
        # Returns at Ctrl-C.
        server.serve_forever()
        click.echo("Ends")
    finally:
        server.server_close()


def made(target: Target) -> Flask:
    """An app of the page alone, which answers requests of this machine."""
    app = Flask("flask_delay.dashboard", static_folder=None)
    page = blueprint(
        "delay_dashboard",
        None,
        lambda: target.state,
        authorize=None,
        title=str(target.app.name),
        environment=None,
        arguments=False,
        redact=None,
        actor=None,
        poll=2.0,
    )
    app.register_blueprint(page)
    inner: _Answer = app.wsgi_app

    def guarded(environ: dict[str, Any], start: _Answer) -> Iterable[bytes]:
        host = environ.get("HTTP_HOST", "")
        if host.rpartition(":")[0] not in _HOSTS and host not in _HOSTS:
            start("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
            return [b"This page is for this machine: open it by http://127.0.0.1.\n"]
        answer: Iterable[bytes] = inner(environ, start)
        return answer

    app.wsgi_app = guarded  # type: ignore[method-assign,assignment]
    return app
