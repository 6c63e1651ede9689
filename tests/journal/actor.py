"""The processes of the state machine: each evaluates the expressions that it is sent.

`python -m tests.journal.actor` imports what takes long, and forks a process for each line that it
reads: the path of a socket to connect to, and the settings as JSON.
"""

import json
import os
import signal
import socket
import sys
import traceback
from pathlib import Path

import flask

import flask_delay


def make(settings: dict[str, object]) -> tuple[flask.Flask, flask_delay.Delay]:
    """The app of a process."""
    app = flask.Flask("acted", static_folder=None)
    app.config.update(settings)
    return app, flask_delay.Delay(app)


def serve(connection: socket.socket, settings: dict[str, object], environ: dict[str, str]) -> None:
    """Be a process of the app until the connection ends."""
    os.environ.update(environ)
    from tests.journal import acted

    app, executor = make(settings)
    # This process has the app and uses it: only now its children know that they are such.
    executor.get("none")
    names = {
        "acted": acted,
        "executor": executor,
        "get": executor.get,
        "os": os,
        "using": executor.using,
        "view": executor._view,
    }

    def forked(expression: str) -> object:
        """Evaluate it in a child, which ends after that."""
        reading, writing = os.pipe()
        if (pid := os.fork()) == 0:
            try:
                os.write(writing, json.dumps(eval(expression, names), default=repr).encode())
            except BaseException as error:
                os.write(writing, json.dumps({"raised": repr(error)}).encode())
            finally:
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as file:
            told = file.read()
        os.waitpid(pid, 0)
        return json.loads(told)

    names["forked"] = forked
    with app.app_context(), connection, connection.makefile("rw") as stream:
        stream.write("null\n")
        stream.flush()
        for line in stream:
            try:
                told = json.dumps(eval(line, names), default=repr)
            except BaseException as error:
                traceback.print_exc()
                told = json.dumps({"raised": repr(error)})
            stream.write(f"{told}\n")
            stream.flush()


def main() -> None:
    """Fork a process for each line."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        path, settings, environ = json.loads(line)
        if os.fork():
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # What it writes is not for whoever reads the other's.
        with Path(path).with_suffix(".log").open("ab") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(path)
        serve(connection, settings, environ)
        # As Python would: `atexit`, and what the native module does then.
        sys.exit(0)


if __name__ == "__main__":
    main()
