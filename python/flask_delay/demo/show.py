"""What the demo shows: a timeline for one task, a table for many."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from flask_delay.demo.client import Answer, Client, Upload
from flask_delay.demo.errors import DemoError
from flask_delay.demo.terminal import Terminal

PACKAGE = Path(__file__).parent.parent
KILO = 1000
UNITS = ("kB", "MB", "GB", "TB")


class Timeline:
    """Prints what happens to one task, each line with its milliseconds since the request."""

    def __init__(
        self, terminal: Terminal, answer: Answer, said: str, *, in_seconds: bool = False
    ) -> None:
        self._terminal = terminal
        self._answer = answer
        self._in_seconds = in_seconds
        self._events: list[tuple[datetime, str]] = []
        self._started = False
        self._add(answer.sent, "request sent")
        self._add(answer.answered, said)

    def update(self, state: dict[str, Any]) -> None:
        """Print what is new in a task's state."""
        progress, callback = state["progress"], state["callback"]
        if state["started_at"] and not progress and not callback:
            # It may have begun before the answer had arrived: nothing is printed before what
            # is to be said of it, with its first progress.
            return
        if progress and not self._started:
            self._started = True
            self._add(moment(state["started_at"]), f"task started, {progress['note']}")
        if callback:
            finished, fired = moment(state["finished_at"]), moment(callback["at"])
            if progress:
                self._add(finished, self._bar(progress))
            self._add(finished, f"task finished{summary(state)}")
            late = milliseconds(self._answer.answered, fired)
            after = f", {late:,.1f} ms after the answer" if late > 0 else ""
            self._add(fired, f"callback fired on thread {callback['thread']}{after}")
        # What one look at the task found may have begun before the answer had arrived.
        for event in sorted(self._events, key=lambda event: event[0]):
            self._terminal.line(self._text(*event))
        self._events.clear()
        if progress and not callback:
            self._terminal.live(self._text(datetime.now(UTC), self._bar(progress)))

    def _add(self, when: datetime, text: str) -> None:
        self._events.append((when, text))

    def _text(self, when: datetime, text: str) -> str:
        return f"{milliseconds(self._answer.begun, when):>10,.1f} ms  {text}"

    def _bar(self, progress: dict[str, Any]) -> str:
        done, total = progress["done"], progress["total"]
        text = f"{done:.1f} of {total:.1f} s" if self._in_seconds else amount(done, total)
        return f"{self._terminal.bar(done / total if total else 1.0)}  {text}"


def show_one(client: Client, file: Path, terminal: Terminal) -> None:
    """Upload a file and print the timeline of its task."""
    terminal.line(f"\nPOST /digest  {label(file)}, {readable(file.stat().st_size)}")

    def on_sent(sent: int, size: int) -> None:
        terminal.live(f"{'uploading':>13}  {terminal.bar(sent / size)}  {amount(sent, size)}")

    upload = client.upload(file, on_sent)
    task = upload.answer.body["id"]
    timeline = Timeline(terminal, upload.answer, f"answered {upload.answer.status}, task {task}")
    check(upload, client.wait(task, timeline.update))


def show_many(client: Client, files: Sequence[Path], terminal: Terminal) -> None:
    """Upload files, one right after the other, and print what became of their tasks."""
    terminal.line(f"\nPOST /digest  {len(files)} more files, in milliseconds since each request")
    uploads = [client.upload(file) for file in files]
    rows = [("answered", "started", "finished", "callback", "on thread", "lines", "words", "file")]
    for file, upload in zip(files, uploads, strict=True):
        state = client.wait(upload.answer.body["id"])
        check(upload, state)
        texts = (state["started_at"], state["finished_at"], state["callback"]["at"])
        moments = (upload.answer.answered, *map(moment, texts))
        rows.append(
            (
                *(f"{milliseconds(upload.answer.begun, when):,.1f}" for when in moments),
                state["callback"]["thread"],
                f"{state['result']['lines']:,}",
                f"{state['result']['words']:,}",
                label(file),
            )
        )
    for line in aligned(rows, left=(4, 7)):
        terminal.line("  " + line)
    terminal.line("  A small file may be done before its answer has arrived.")


def show_test(client: Client, terminal: Terminal) -> None:
    """Start the task of `/test` and print its timeline."""
    terminal.line("\nGET /test")
    answer = client.get("/test")
    said = f'answered {answer.status}, "msg": "{answer.body["msg"]}", task {answer.body["task"]}'
    timeline = Timeline(terminal, answer, said, in_seconds=True)
    client.wait(answer.body["task"], timeline.update)


def label(file: Path) -> str:
    """What to call a file: its name, or for one of this package its place therein."""
    return str(file.relative_to(PACKAGE)) if file.is_relative_to(PACKAGE) else file.name


def check(upload: Upload, state: dict[str, Any]) -> None:
    """Raise `DemoError` if the task did not see what was sent."""
    result = state["result"]
    if (result["size"], result["sha256"]) != (upload.size, upload.sha256):
        raise DemoError(f"{result['file']}: the task saw other bytes than were sent")


def summary(state: dict[str, Any]) -> str:
    """Say in short what a task returned."""
    result = state.get("result", {})
    if "sha256" not in result:
        return ""
    return ": {lines:,} lines, {words:,} words, sha256 {sha256:.16}…".format(**result)


def moment(text: str) -> datetime:
    """Read a moment as the app writes it."""
    return datetime.fromisoformat(text)


def milliseconds(start: datetime, end: datetime) -> float:
    """How long it was from one moment to the other."""
    return (end - start) / timedelta(milliseconds=1)


def amount(done: float, total: float) -> str:
    """Write how many bytes of how many."""
    return f"{readable(done)} of {readable(total)}"


def readable(size: float) -> str:
    """Write a number of bytes in the unit that suits it."""
    if size < KILO:
        return f"{size:.0f} B"
    power = min(int(math.log(size, KILO)), len(UNITS))
    return f"{size / KILO**power:,.1f} {UNITS[power - 1]}"


def aligned(rows: Sequence[tuple[str, ...]], left: tuple[int, ...]) -> list[str]:
    """Align columns to the right, or those in `left` to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index in left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
