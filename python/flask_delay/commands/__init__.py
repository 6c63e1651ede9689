"""The commands of `flask delay`, which look at the `Delay` of the app that Flask finds."""

from pathlib import Path

import click

from flask_delay.commands import checks, figures
from flask_delay.commands import jobs as schedule
from flask_delay.commands import journal as tables
from flask_delay.commands import settings as listing
from flask_delay.commands import work as journal_worker
from flask_delay.commands import worker as backend_worker
from flask_delay.commands.target import Target
from flask_delay.observe.view import STATES

_name = click.option(
    "--name", default="delay", show_default=True, help="The Delay that is meant, by its name."
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
_task = click.option(
    "--task", help="Only tasks of this function: its registered name, or the end of it."
)
_ids = click.argument("ids", metavar="ID...", nargs=-1, required=True)


@click.group()
def delay() -> None:
    """Look at the background tasks of this app (Flask-Delay)."""


@delay.command()
@_name
@click.option("--explain", is_flag=True, help="Say what each setting is, and what is allowed.")
def config(name: str, explain: bool) -> None:
    """Show every setting: its key, its value and where that came from."""
    listing.show(Target.find(name), explain=explain)


@delay.command()
@_name
def check(name: str) -> None:
    """Run a task, and say what is wrong.

    Starts the pool of this process, runs a task in an app context and a callback, and drains
    the pool. The exit code is 1 if something is wrong.
    """
    if not checks.run(name):
        raise SystemExit(1)


@delay.command()
@_name
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.1, max=600),
    default=3.0,
    show_default=True,
    help="How long to measure.",
)
def bench(name: str, seconds: float) -> None:
    """Measure what tasks cost in this app, on this machine.

    In a pool of its own with the same settings, with tasks that do nothing, so that no
    default callback of the app is called. The app's teardown functions are.
    """
    figures.run(Target.find(name), seconds)


@delay.command(context_settings={"ignore_unknown_options": True})
@_name
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def worker(name: str, arguments: tuple[str, ...]) -> None:
    """Run the tasks of a backend that has workers, as "celery" does.

    ARGUMENTS are the backend's: with "celery" those of `celery worker`, such as `-c 4 -l INFO`.
    """
    backend_worker.run(name, arguments)


@delay.command()
@_name
def work(name: str) -> None:
    """Run durable tasks in this process, which serves nothing.

    At SIGTERM and at Ctrl-C it takes no more tasks, and lets those that run end for
    DELAY_SHUTDOWN_TIMEOUT seconds. The exit code is 0 then. A second signal ends it at once.
    """
    journal_worker.run(name)


@delay.command()
@_name
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=5050,
    show_default=True,
    help="On 127.0.0.1; 0 for any that is free.",
)
def dashboard(name: str, port: int) -> None:
    """Serve a page of the tasks in the journal, on this machine alone.

    Shows what runs, waits and failed in the processes of the app. It is read-only: to act, mount
    the page in the app. From elsewhere, use a tunnel: `ssh -L 5050:127.0.0.1:5050 HOST`.
    """
    # Not before: the other commands need nothing of it.
    from flask_delay.commands import page  # noqa: PLC0415

    page.run(name, port)


@delay.group(invoke_without_command=True)
@_name
@_json
@click.pass_context
def jobs(context: click.Context, name: str, *, as_json: bool) -> None:
    """Look at jobs (every, cron), and act on them.

    Without a command: when each ran last and runs next, and whether it is paused. Lists the jobs
    that are made with the app, and all that the journal has.
    """
    if context.invoked_subcommand is None:
        schedule.show(name, as_json=as_json)
    elif as_json or name != "delay":
        raise click.UsageError("options of a command come after it")


@jobs.command("run")
@_name
@click.argument("job")
def run_job(name: str, job: str) -> None:
    """Run JOB once more: its function's name, its key or its id.

    The app's processes run the task of a durable job. Any other job runs in this command, which
    waits for its end.
    """
    schedule.run(name, job)


@jobs.command("pause")
@_name
@click.argument("job")
def pause_job(name: str, job: str) -> None:
    """Let JOB miss its ticks, in all processes.

    Until `flask delay jobs resume`, also after a restart.
    """
    schedule.set_paused(name, job, paused=True)


@jobs.command("resume")
@_name
@click.argument("job")
def resume_job(name: str, job: str) -> None:
    """End the pause of JOB."""
    schedule.set_paused(name, job, paused=False)


@delay.group(invoke_without_command=True)
@_name
@_json
@click.pass_context
def journal(context: click.Context, name: str, *, as_json: bool) -> None:
    """Look at durable tasks, and act on them.

    Without a command: how many are in which state, and what is paused.
    """
    if context.invoked_subcommand is None:
        tables.show_counts(name, as_json=as_json)
    elif as_json or name != "delay":
        raise click.UsageError("options of a command come after it")


@journal.command("list")
@_name
@click.option(
    "--state", "states", multiple=True, type=click.Choice(STATES), help="Only tasks in this state."
)
@_task
@click.option(
    "--limit", type=click.IntRange(min=1), default=50, show_default=True, help="How many at most."
)
@click.option("--before", metavar="ID", help="Only tasks that were submitted before this one.")
@_json
def list_tasks(
    name: str,
    states: tuple[str, ...],
    task: str | None,
    limit: int,
    before: str | None,
    *,
    as_json: bool,
) -> None:
    """List tasks, newest first.

    The third column is the state, or what the task waits for; the last one says more.
    """
    tables.show_list(name, states, task, limit, before, as_json=as_json)


@journal.command()
@_name
@_json
@click.argument("id")
def show(name: str, id: str, *, as_json: bool) -> None:
    """Show a task: its state, its times, its error with the traceback."""
    tables.show_one(name, id, as_json=as_json)


@journal.command()
@_name
@_ids
def retry(name: str, ids: tuple[str, ...]) -> None:
    """Have tasks run again that failed, or are dead letters."""
    tables.retry(name, ids)


@journal.command()
@_name
@click.option("--stop", is_flag=True, help="Stop tasks that run, too.")
@_ids
def cancel(name: str, ids: tuple[str, ...], *, stop: bool) -> None:
    """Cancel tasks that wait."""
    tables.cancel(name, ids, stop=stop)


@journal.command()
@_name
@click.argument("task", required=False)
def pause(name: str, task: str | None) -> None:
    """Start no more tasks of the function TASK, or none at all.

    In no process, and until `flask delay journal resume`.
    """
    tables.set_paused(name, task, paused=True)


@journal.command()
@_name
@click.argument("task", required=False)
def resume(name: str, task: str | None) -> None:
    """End the pause of the function TASK, or every pause."""
    tables.set_paused(name, task, paused=False)


@journal.command()
@_name
@click.option(
    "--older-than",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="Only tasks that ended that long ago.",
)
@click.option(
    "--state",
    type=click.Choice(["finished", "failed", "cancelled", "dead"]),
    help="Only tasks in this state; all but dead letters by default.",
)
@_task
@_json
def prune(
    name: str, older_than: float, state: str | None, task: str | None, *, as_json: bool
) -> None:
    """Forget tasks that ended."""
    tables.prune(name, older_than, state, task, as_json=as_json)


@journal.command()
@_name
@click.argument("path", type=click.Path(path_type=Path))
def backup(name: str, path: Path) -> None:
    """Copy the journal to the new file PATH, while the app uses it."""
    tables.backup(name, path)


@journal.command("check")
@_name
@_json
def check_file(name: str, *, as_json: bool) -> None:
    """Say whether the file is sound, and its place one for a journal.

    Reads the whole file. The exit code is 1 if something is wrong.
    """
    tables.check(name, as_json=as_json)


@journal.command()
@_name
@_json
@click.argument("path", type=click.Path(path_type=Path))
def salvage(name: str, path: Path, *, as_json: bool) -> None:
    """Copy what can be read of a damaged journal to the new file PATH.

    Stop the app before. The damaged file stays as it is. Tasks that ran are ready again. The exit
    code is 1 if rows are lost.
    """
    tables.salvage(name, path, as_json=as_json)
