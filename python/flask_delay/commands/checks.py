"""`flask delay check`."""

import logging
import os
import platform
import sys
import threading
import time
from collections.abc import Mapping
from typing import Literal

import click

from flask_delay import Executor, Future, __version__, context, current_task, tasks
from flask_delay._native import _journal_check
from flask_delay.backends import table
from flask_delay.commands import settings
from flask_delay.commands.target import Target
from flask_delay.masking import masked
from flask_delay.servers import gevent, uwsgi

# The durable tasks that no process is about to run, by their state.
_WAITING: Mapping[Literal["parked", "dead"], str] = {
    "parked": "durable tasks wait for code that has their function, or takes their arguments",
    "dead": "durable tasks are not run again, since processes have died of them",
}
# Seconds; a healthy pool needs a thousandth of that.
_PATIENCE = 10.0


class _Report:
    """Prints the findings line by line, and remembers whether there is a problem."""

    def __init__(self) -> None:
        self.is_well = True

    def _line(self, mark: str, colour: str | None, what: str, text: str) -> None:
        click.echo(f"{click.style(f'{mark:<5}', fg=colour)}  {what:<9}  {text}")

    def ok(self, what: str, text: str) -> None:
        self._line("ok", "green", what, text)

    def note(self, what: str, text: str) -> None:
        self._line("note", "yellow", what, text)

    def wrong(self, what: str, text: str) -> None:
        self.is_well = False
        self._line("WRONG", "red", what, text)


def run(name: str) -> bool:
    """Print all findings; return whether there are no problems."""
    click.echo(
        f"Flask-Delay {__version__}, {platform.python_implementation()}"
        f" {platform.python_version()}, {sys.platform}\n"
    )
    report = _Report()
    try:
        target = Target.find(name)
    except click.ClickException as error:
        if isinstance(error, click.UsageError):
            raise
        report.wrong("app", error.message)
    else:
        report.ok("app", str(target))
        _look_at_settings(target, report)
        _look_at_log(target, report)
        _look_at_bounds(target, report)
        _look_at_jobs(target, report)
        _look_at_uploads(target, report)
        _look_at_journal(target, report)
        _look_around(report)
        _try(target, report)
        _look_at_backends(target, report)
    click.echo("\nAll is well." if report.is_well else "\nSomething is wrong, see above.")
    return report.is_well


def _look_at_settings(target: Target, report: _Report) -> None:
    problems = list(settings.problems(target))
    for problem in problems:
        report.wrong("settings", problem)
    if not problems:
        report.ok("settings", "all are known and in effect")
    mode = target.settings.mode
    if mode != "threads":
        report.note("mode", f"{target.prefix}MODE is {mode!r}, which is for tests: no threads")


def _look_at_log(target: Target, report: _Report) -> None:
    """Report whether the failure of a task would be logged."""
    # Not `logs`, which would enable the logger.
    logger = logging.getLogger("flask_delay")
    if logger.disabled:
        report.note(
            "log",
            "logging's configuration has disabled the logger 'flask_delay'; the first line to log"
            " enables it again. Say so: 'disable_existing_loggers': False",
        )
    key = f"{target.prefix}LOG_FAILURES"
    level = logger.getEffectiveLevel()
    if not target.settings.log_failures:
        report.note("log", f"{key} is False: nobody hears of the failures of tasks")
    elif level > logging.ERROR or logging.root.manager.disable >= logging.ERROR:
        shown = logging.getLevelName(max(level, logging.root.manager.disable + 1))
        report.wrong("log", f"failures are not logged: the logger 'flask_delay' begins at {shown}")
    elif not _is_heard(logger):
        report.wrong(
            "log",
            "failures are not logged: no handler of the logger 'flask_delay', or of the root"
            " logger, takes a line at level ERROR",
        )
    else:
        report.ok("log", "failures of tasks are logged, by the logger 'flask_delay'")


def _is_heard(logger: logging.Logger) -> bool:
    """Whether a handler accepts errors; without any handler, Python's last resort does."""
    found: list[logging.Handler] = []
    at: logging.Logger | None = logger
    while at is not None:
        found += at.handlers
        at = at.parent if at.propagate else None
    if not found:
        return logging.lastResort is not None
    return any(
        handler.level <= logging.ERROR and not isinstance(handler, logging.NullHandler)
        for handler in found
    )


def _look_at_bounds(target: Target, report: _Report) -> None:
    """Report limits whose absence may fill the memory."""
    if target.settings.queue_size == 0:
        report.note(
            "queue",
            f"{target.prefix}QUEUE_SIZE is 0: tasks are accepted however many wait, until there is"
            f" no memory left",
        )
    if target.app.config.get("MAX_CONTENT_LENGTH") is None:
        report.note(
            "requests",
            "MAX_CONTENT_LENGTH is not set: using(request=True) copies a request into memory,"
            " however long its body is",
        )


def _look_at_jobs(target: Target, report: _Report) -> None:
    """Report whether jobs were started and can use their files. This command needs none itself."""
    for job in tasks.unstarted.values():
        report.note("job", f"{job!r} was never started: call its delay() where the app is set up")
    folder, jobs = target.state.jobs.folder, target.state.jobs.all()
    if folder is None:
        return
    there = next(place for place in (folder, *folder.parents) if place.exists())
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return
    say = report.wrong if jobs else report.note
    say(
        "jobs",
        f"{str(folder)!r} cannot be written by this user, and jobs (every=, cron=) need it, to run"
        f" in one process at a time: change the owner of {str(there)!r}, or set"
        f" {target.prefix}JOBS_FOLDER to another folder",
    )


def _look_at_uploads(target: Target, report: _Report) -> None:
    """Report whether uploads can be kept for tasks, and what is there."""
    uploads = target.state.uploads
    problem = uploads.problem()
    if problem is not None:
        report.note("uploads", problem)
        return
    files, size = uploads.count()
    if files:
        report.ok("uploads", f"{files} files with {size:,} bytes in {str(uploads.folder)!r}")


def _look_at_journal(target: Target, report: _Report) -> None:
    """Report whether durable tasks can be accepted, if the app has some."""
    store = target.state.store
    if not store.is_wanted:
        return
    for holds, text in _journal_check(str(store.path)):
        say = report.ok if holds else report.wrong
        say("journal", text)
    # This command must not be the one that makes the file, perhaps as another user.
    if not store.path.exists():
        return
    try:
        counts = store.stats()
    except (RuntimeError, ValueError) as error:
        report.wrong("journal", str(error))
        return
    for state, why in _WAITING.items():
        if counts is not None and counts[state]:
            report.note("journal", f"{counts[state]} {why}")


def _look_around(report: _Report) -> None:
    """Report what in this process breaks tasks, and what is good to know."""
    for problem in uwsgi.problems():
        report.wrong("process", problem)
    eventlet = sys.modules.get("eventlet.patcher")
    if eventlet is not None and eventlet.is_monkey_patched("thread"):
        report.wrong(
            "process",
            "eventlet has patched Python's threads; tasks run on native threads, but a greenlet"
            " that waits for a future stops all others: serve with threads, or with gevent",
        )
    if gevent.is_patched():
        report.note("process", gevent.MESSAGE)


def _try(target: Target, report: _Report) -> None:
    """Run a task and a callback, and drain the pool; stop at the first failure."""
    called_back = threading.Event()

    def look() -> tuple[bool, str]:
        is_current = context.current() is target.app and current_task.attempt == 1
        return is_current, threading.current_thread().name

    def callback(_: Future[tuple[bool, str]]) -> None:
        if context.current() is target.app:
            called_back.set()

    executor = target.executor
    begin = time.perf_counter()
    try:
        future = executor.submit(look)
    except RuntimeError as error:
        report.wrong("pool", f"it takes no task: {error}; was shutdown() called?")
        return
    future.add_done_callback(callback)
    if target.settings.mode == "manual":
        executor.run_pending()
    if not _await(future, executor, report, begin):
        return
    if called_back.wait(_PATIENCE):
        report.ok("callback", "called, with an app context")
    else:
        report.wrong("callback", f"not called within {_PATIENCE:g} s, or in another app's context")
    if executor.drain(_PATIENCE):
        report.ok("drain", "nothing is left to do")
    else:
        report.wrong("drain", f"not done after {_PATIENCE:g} s: {executor._now()}")


def _await(
    future: Future[tuple[bool, str]], executor: Executor, report: _Report, begin: float
) -> bool:
    """Wait for the task, which reports its app context and its thread."""
    try:
        is_current, worker = future.result(_PATIENCE)
    except TimeoutError:
        report.wrong("task", f"it is {future.state} after {_PATIENCE:g} s: {executor._now()}")
        return False
    except Exception as error:
        what = f"{type(error).__name__}: {masked(str(error))}"
        report.wrong("task", f"it failed in its app context: {what}")
        return False
    if not is_current:
        report.wrong("task", "it ran in the context of another app")
        return False
    took = (time.perf_counter() - begin) * 1000
    report.ok("task", f"ran in an app context, in thread {worker!r}, after {took:.1f} ms")
    return True


def _look_at_backends(target: Target, report: _Report) -> None:
    """Report whether tasks for the backends would run, for each backend that may get tasks."""
    if target.settings.mode != "threads":
        return
    for name in table.names()[1:]:
        is_default = name == target.settings.backend
        try:
            if not (is_default or table.is_used(name) or target.settings.has_keys_of(name)):
                continue
            backend = target.state.backend(name)
        except Exception as error:
            # Other backends need not be set up, even if they have settings.
            if is_default:
                report.wrong(name, f"{type(error).__name__}: {masked(str(error))}")
            continue
        for mark, text in backend.diagnose():
            getattr(report, mark)(name, masked(text))
