"""Lines on the terminal, the last of which may change in place."""

import os
import shutil
import time
from typing import TextIO

BAR_WIDTH = 24
# Seconds between two states of the live line.
REDRAW = 0.05


class Terminal:
    """Prints lines; shows what is under way in place, if the output is a terminal."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._encoding = out.encoding or "utf-8"
        self._in_place = out.isatty() and os.environ.get("TERM") != "dumb"
        self._live = 0
        self._next = 0.0
        blocks = _can_encode("█░", self._encoding)
        self._full, self._empty = ("█", "░") if blocks else ("#", ".")

    def line(self, text: str = "") -> None:
        """Print a line, in place of the live one."""
        self._write(self._padded(text) + "\n")
        self._live = 0

    def live(self, text: str) -> None:
        """Show a text until the next call; on a terminal only, and not too often."""
        now = time.monotonic()
        if self._in_place and now >= self._next:
            self._next = now + REDRAW
            text = text[: shutil.get_terminal_size().columns - 1]
            self._write(self._padded(text))
            self._live = len(text)

    def close(self) -> None:
        """Leave a live line as it is and go on below it."""
        if self._live:
            self._write("\n")
            self._live = 0

    def bar(self, fraction: float) -> str:
        """Draw a progress bar."""
        done = int(BAR_WIDTH * fraction)
        return self._full * done + self._empty * (BAR_WIDTH - done) + f" {fraction:4.0%}"

    def _padded(self, text: str) -> str:
        return "\r" + text.ljust(self._live) if self._live else text

    def _write(self, text: str) -> None:
        # A file's name may hold what the terminal cannot show.
        self._out.write(text.encode(self._encoding, "replace").decode(self._encoding))
        self._out.flush()


def _can_encode(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True
