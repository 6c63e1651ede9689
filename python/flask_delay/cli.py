"""The command line: `python -m flask_delay COMMAND`."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from flask_delay import __version__, demo

INTERRUPTED = 130
LAST_PORT = 65535


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` names and return its exit code."""
    options = _parser().parse_args(argv)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        logging.disable()  # the log messages about stopped tasks do not matter now
        return INTERRUPTED
    except BrokenPipeError:  # as in `... demo | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flask_delay", description="Background tasks for Flask."
    )
    parser.add_argument("--version", action="version", version=f"flask-delay {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    demo = commands.add_parser(
        "demo",
        help="serve the quickstart app, send it requests and show what happens when",
        description="Serve the quickstart app on loopback, send it real requests over HTTP and"
        " show what happens when.",
    )
    demo.add_argument(
        "files",
        nargs="*",
        type=Path,
        metavar="FILE",
        help="a file to upload and digest (default: the source files of this package)",
    )
    demo.add_argument(
        "--port", type=_port, default=0, help="port to serve on (default: any that is free)"
    )
    demo.add_argument(
        "--full", action="store_true", help="let the task of GET /test take ten seconds, not one"
    )
    demo.set_defaults(run=_demo)
    return parser


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) <= LAST_PORT):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to {LAST_PORT}")
    return int(text)


def _demo(options: argparse.Namespace) -> int:
    try:
        demo.run(options.files, port=options.port, full=options.full)
    except demo.DemoError as error:
        print(f"flask_delay demo: {error}", file=sys.stderr)
        return error.exit_code
    return 0
