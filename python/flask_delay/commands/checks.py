"""`flask delay check`."""

import platform
import sys
import threading
import time

import click

from flask_delay import (
    Executor,
    Future,
    PoolStats,
    __version__,
    context,
    current_task,
    greenlets,
    tasks,
    uwsgi,
)
from flask_delay.commands import settings
from flask_delay.commands.target import Target

# Seconds; a pool that is well needs a thousandth of that.
_PATIENCE = 10.0


class _Report:
    """Prints what was found, line by line, and remembers whether something is wrong."""

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
    """Print what is well and what is not; return whether all is."""
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
        _look_at_jobs(report)
        _look_around(report)
        _try(target, report)
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


def _look_at_jobs(report: _Report) -> None:
    for job in tasks.unstarted.values():
        report.note("job", f"{job!r} was never started: call its delay() where the app is set up")


def _look_around(report: _Report) -> None:
    """Say what of this process tasks cannot live with, and what is good to know."""
    for problem in uwsgi.problems():
        report.wrong("process", problem)
    eventlet = sys.modules.get("eventlet.patcher")
    if eventlet is not None and eventlet.is_monkey_patched("thread"):
        report.wrong(
            "process",
            "eventlet has patched Python's threads; tasks run on native threads, but a greenlet"
            " that waits for a future stops all others: serve with threads, or with gevent",
        )
    if greenlets.is_patched():
        report.note("process", greenlets.MESSAGE)


def _try(target: Target, report: _Report) -> None:
    """Run a task and a callback, and drain the pool; stops at what does not work."""
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
        report.wrong("drain", f"not done after {_PATIENCE:g} s: {_now(executor)}")


def _await(
    future: Future[tuple[bool, str]], executor: Executor, report: _Report, begin: float
) -> bool:
    """Wait for the task, which tells whether it was where it should be, and in which thread."""
    try:
        is_current, worker = future.result(_PATIENCE)
    except TimeoutError:
        report.wrong("task", f"it is {future.state} after {_PATIENCE:g} s: {_now(executor)}")
        return False
    except Exception as error:
        report.wrong("task", f"it failed in its app context: {type(error).__name__}: {error}")
        return False
    if not is_current:
        report.wrong("task", "it ran in the context of another app")
        return False
    took = (time.perf_counter() - begin) * 1000
    report.ok("task", f"ran in an app context, in thread {worker!r}, after {took:.1f} ms")
    return True


def _now(executor: Executor) -> dict[str, int]:
    """How many tasks and workers there are, without what became of tasks."""
    stats = executor.stats()
    return {key: stats[key] for key in PoolStats.__annotations__}  # type: ignore[literal-required]
