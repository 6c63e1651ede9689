"""`flask delay jobs`: jobs, when they run, and what holds them back."""

from collections.abc import Iterator
from typing import Any

import click

from flask_delay import Job
from flask_delay.commands.journal import errors, iso, print_json, shown_time
from flask_delay.commands.target import Target
from flask_delay.journal.periodic import seen_in_journal


def show(name: str, *, as_json: bool) -> None:
    """Print all jobs of the app that this command has loaded, and those that the journal has."""
    with errors():
        target = Target.find(name)
        found = [*_known(target), *_others(target)]
    if as_json:
        print_json(
            [
                {**it, "last_tick": iso(it["last_tick"]), "next_run": iso(it["next_run"])}
                for it in found
            ]
        )
        return
    rows = [("job", "schedule", "last tick", "next run", "")]
    rows += [
        (
            it["name"],
            it["schedule"],
            shown_time(it["last_tick"]),
            shown_time(it["next_run"]),
            _remark(it),
        )
        for it in found
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        cells = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)]
        click.echo("  ".join([*cells, row[4]]).rstrip())


def run(name: str, job: str) -> None:
    """Run a job once more."""
    with errors():
        found = _find(name, job)
        future = found.run_now()
    if found.durable:
        click.echo(f"{found}: task {future.id}")
        return
    error = future.exception()
    if error is not None:
        raise click.ClickException(f"{found} has failed: {type(error).__name__}: {error}")
    click.echo(f"{found}: has run here")


def set_paused(name: str, job: str, *, paused: bool) -> None:
    """Pause a job, or resume it."""
    with errors():
        found = _find(name, job)
        if paused:
            found.pause()
        else:
            found.resume()
    click.echo(f"{found}: {'paused' if paused else 'resumed'}")


def _find(name: str, job: str) -> Job:
    return Target.find(name).state.jobs.find(job)


def _known(target: Target) -> Iterator[dict[str, Any]]:
    for job in target.state.jobs.all():
        yield {
            "id": job.id,
            "name": job.name,
            "schedule": job.schedule,
            "durable": job.durable,
            "paused": job.paused,
            "left_out": job.left_out,
            "last_tick": job.last_tick,
            "next_run": job.next_run,
            "known": True,
        }


def _others(target: Target) -> Iterator[dict[str, Any]]:
    """The jobs of other code, or that are made later than the app."""
    known = {job.id for job in target.state.jobs.all()}
    for row in target.state.store.jobs():
        if row["id"] not in known:
            yield {**seen_in_journal(row), "known": False}


def _remark(job: dict[str, Any]) -> str:
    remarks = ["durable"] if job["durable"] else []
    if job["paused"]:
        remarks.append("paused")
    if job["left_out"]:
        remarks.append(f"left out {job['left_out']:,} times, since the last run goes on")
    if not job["known"]:
        remarks.append("not of the code that this command has loaded")
    return ", ".join(remarks)
