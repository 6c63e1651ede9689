"""The app behind a real WSGI server, in a thread of this process."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from flask import Flask
from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

from flask_delay.demo.errors import InputError

LOOPBACK = "127.0.0.1"


class Bound(NamedTuple):
    """Where the server listens."""

    host: str
    port: int


class Server(ThreadedWSGIServer):
    """Waits for the requests it still answers when it is closed."""

    daemon_threads = False


class QuietHandler(WSGIRequestHandler):
    """The timeline is log enough."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log nothing."""


@contextmanager
def serve(app: Flask, port: int) -> Iterator[Bound]:
    """Serve the app on a port of loopback, 0 for any; stop when the block ends."""
    with _listen(port) as listener:
        bound = Bound(*listener.getsockname())
        server = Server(bound.host, bound.port, app, QuietHandler, fd=listener.fileno())
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="server")
    thread.start()
    try:
        yield bound
    finally:
        server.shutdown()
        thread.join()


def _listen(port: int) -> socket.socket:
    # Werkzeug itself would print several lines and exit if the port is taken.
    listener = socket.socket()
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise InputError(f"cannot listen on {LOOPBACK}:{port}: {error.strerror}") from None
    return listener
