"""`flask delay journal`: tables for people, and JSON for scripts."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from flask_delay import Future
from flask_delay._native import _journal_backup, _journal_inspect, _journal_salvage
from flask_delay.commands.target import Target
from flask_delay.masking import masked
from flask_delay.observe.view import TaskView

_COLOURS = {"failed": "red", "dead": "red", "parked": "yellow", "finished": "green"}
# Characters of an error in a table.
_LONGEST = 60


def show_counts(name: str, *, as_json: bool) -> None:
    """Print how many tasks are in which state, and what is paused."""
    with errors():
        target = Target.find(name)
        store = target.state.store
        counts, paused = store.stats(), store.paused()
    if as_json:
        print_json({**(counts or {}), "paused": paused})
        return
    if counts is None:
        click.echo(f"{target} has no journal: {store.path} does not exist")
        return
    click.echo(f"{store.path}\n")
    for key, value in counts.items():
        shown = f"{value:,.1f} s" if key == "oldest" else f"{value:,}"
        click.echo(f"{key:<10}  {shown:>12}")
    for it in paused:
        click.echo(f"\npaused: {'all durable tasks' if it is None else it}")


def show_list(
    name: str,
    states: Sequence[str],
    task: str | None,
    limit: int,
    before: str | None,
    *,
    as_json: bool,
) -> None:
    """Print tasks, newest first."""
    with errors():
        found = Target.find(name).state.store.tasks(states, task, limit, before)
    if as_json:
        print_json([_record(view) for view in found])
        return
    rows = [("id", "task", "state", "attempts", "submitted", "")]
    rows += [
        (
            view.id,
            view.name,
            view.state if view.after is not None else view.waits or view.state,
            str(view.attempts),
            shown_time(view.enqueued_at),
            _remark(view),
        )
        for view in found
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for number, row in enumerate(rows):
        cells = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)]
        if number:
            cells[2] = click.style(cells[2], fg=_COLOURS.get(row[2]))
        click.echo("  ".join([*cells, row[5]]).rstrip())


def show_one(name: str, id: str, *, as_json: bool) -> None:
    """Print all that there is to say of a task."""
    with errors():
        view = Target.find(name).state.view(id)
    if view is None:
        raise click.ClickException(f"no task {id} is known")
    record = _record(view)
    if view.is_over and view.error is None and view.state != "cancelled":
        record["result"] = view.result
    if as_json:
        print_json(record)
        return
    record["error"] = None if view.error is None else _error(view)
    record["progress"] = None if view.progress is None else _progress(view)
    notes = () if view.error is None else getattr(view.error, "__notes__", ())
    for key, value in record.items():
        if value is not None:
            click.echo(f"{key:<12}  {value}")
    for note in notes:
        click.echo(f"\n{masked(note)}")


def retry(name: str, ids: Iterable[str]) -> None:
    """Have failed tasks run again."""
    store = Target.find(name).state.store

    def act(id: str) -> str:
        store.retry(id)
        return "runs again"

    _each(ids, act)


def cancel(name: str, ids: Iterable[str], *, stop: bool) -> None:
    """Cancel tasks that wait, and stop those that run."""
    store = Target.find(name).state.store

    def act(id: str) -> str:
        future = store.get(id)
        if future is None:
            raise LookupError(f"there is no task {id} in the journal")
        if future.cancel():
            return "cancelled"
        if future.done():
            raise ValueError(f"the task {id} has ended")
        if not stop:
            raise ValueError(f"the task {id} runs; --stop stops it")
        return _stopped(future)

    _each(ids, act)


def _stopped(future: Future[Any]) -> str:
    return "stopped" if future.stop() else "ended before it was stopped"


def set_paused(name: str, task: str | None, *, paused: bool) -> None:
    """Pause a function, or all; or resume it."""
    with errors():
        store = Target.find(name).state.store
        if paused:
            store.pause(task)
        else:
            store.resume(task)
    click.echo(f"{task or 'all durable tasks'}: {'paused' if paused else 'resumed'}")


def prune(
    name: str, older_than: float, state: str | None, task: str | None, *, as_json: bool
) -> None:
    """Forget ended tasks."""
    with errors():
        count = Target.find(name).state.store.prune(older_than, state, task)
    if as_json:
        print_json({"forgotten": count})
    else:
        click.echo(f"{count:,} tasks are forgotten")


def backup(name: str, path: Path) -> None:
    """Copy the journal to a new file."""
    with errors():
        _journal_backup(str(Target.find(name).state.store.path), str(path))
    click.echo(f"{path}: {path.stat().st_size:,} bytes")


def check(name: str, *, as_json: bool) -> None:
    """Print whether the file is sound."""
    found = _journal_inspect(str(Target.find(name).state.store.path))
    is_well = all(holds for holds, _ in found)
    if as_json:
        lines = [{"ok": holds, "text": text} for holds, text in found]
        print_json({"ok": is_well, "lines": lines})
    else:
        for holds, text in found:
            mark = click.style("ok   ", fg="green") if holds else click.style("WRONG", fg="red")
            click.echo(f"{mark}  {text}")
    if not is_well:
        raise SystemExit(1)


def salvage(name: str, path: Path, *, as_json: bool) -> None:
    """Copy what can be read to a new file."""
    with errors():
        journal = Target.find(name).state.store.path
        tasks, unfinished, lost, is_partial = _journal_salvage(str(journal), str(path))
    if as_json:
        print_json(
            {"tasks": tasks, "unfinished": unfinished, "lost": lost, "is_partial": is_partial}
        )
    else:
        click.echo(f"{path}: {tasks:,} tasks, of which {unfinished:,} have not ended")
        more = "; more may be, since parts of the file cannot be read" if is_partial else ""
        click.echo(f"{lost:,} rows are lost{more}")
    if lost or is_partial:
        raise SystemExit(1)


# --- What is printed ------------------------------------------------------------------


@contextmanager
def errors() -> Iterator[None]:
    """Show an error of the journal as that of a command."""
    try:
        yield
    except (RuntimeError, ValueError, LookupError) as error:
        raise click.ClickException(_text(error)) from None


def _each(ids: Iterable[str], act: Callable[[str], str]) -> None:
    """Act on each task; the exit code is 1 if that fails for one of them."""
    failed = False
    for id in ids:
        try:
            click.echo(f"{id}  {act(id)}")
        except (RuntimeError, ValueError, LookupError) as error:
            failed = True
            click.echo(f"{id}  {click.style('not done', fg='red')}: {_text(error)}")
    if failed:
        raise SystemExit(1)


def _text(error: BaseException) -> str:
    # A LookupError that is a KeyError would show its argument's repr.
    return masked(str(error.args[0]) if len(error.args) == 1 else str(error))


def _record(view: TaskView) -> dict[str, Any]:
    error = view.error
    return {
        "id": view.id,
        "name": view.name,
        "state": view.state,
        "waits": view.waits,
        "after": None if view.after is None else view.after._asdict(),
        "until": iso(view.due) if view.waits in {"scheduled", "rate"} else None,
        "reason": None if view.reason is None else masked(view.reason),
        "attempts": view.attempts,
        "most_attempts": view.most_attempts,
        "deaths": view.deaths,
        "priority": view.priority,
        "lane": None if view.lane is None else view.lane._asdict(),
        "pid": view.pid,
        "deadline": iso(view.deadline),
        "progress": None if view.progress is None else view.progress._asdict(),
        "enqueued_at": iso(view.enqueued_at),
        "started_at": iso(view.started_at),
        "finished_at": iso(view.finished_at),
        "error": None
        if error is None
        else {"class": type(error).__name__, "message": masked(str(error))},
    }


def _remark(view: TaskView) -> str:
    """The last column: why it waits, how far it is, or why it failed."""
    if view.waits == "scheduled":
        attempt = f", attempt {view.attempts + 1}" if view.attempts else ""
        return f"until {shown_time(view.due)}{attempt}"
    if view.waits == "rate" and view.due is not None:
        return f"{_short(masked(view.reason or ''))} until {shown_time(view.due)}"
    if view.waits == "alone":
        return f"{view.deaths} processes have died of it"
    if view.error is not None:
        return _error(view)
    if view.state == "running" and view.progress is not None:
        return _progress(view)
    why = view.reason if view.after is None else view.waits
    return "" if why is None else _short(masked(why))


def _error(view: TaskView) -> str:
    return _short(f"{type(view.error).__name__}: {masked(str(view.error))}")


def _progress(view: TaskView) -> str:
    if view.progress is None:
        return ""
    done, total, note = view.progress
    of = "" if total is None else f" of {total:g}"
    return f"{done:g}{of} {note}".rstrip()


def _short(text: str) -> str:
    line = text.partition("\n")[0]
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."


def shown_time(moment: datetime | None) -> str:
    """A time as people read it; nothing for None."""
    return "" if moment is None else f"{moment.astimezone():%Y-%m-%d %H:%M:%S}"


def iso(moment: datetime | None) -> str | None:
    """A time for scripts."""
    return None if moment is None else moment.isoformat()


def print_json(value: Mapping[str, Any] | Sequence[Any]) -> None:
    """Print what scripts read."""
    click.echo(json.dumps(value, indent=2, default=repr))
