"""What somebody asks of a task or a job that one process has: done there, whichever was asked."""

import json
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

from flask_delay._native import DuplicateTask, Future, _Journal
from flask_delay.observe.others import Shown
from flask_delay.observe.stack import stack_of
from flask_delay.periodic.job import Job, Jobs

_log = logging.getLogger("flask_delay")
# As in the process that was asked.
_acts = logging.getLogger("flask_delay.dashboard")

PATIENCE = 1.0
"""Seconds to wait for the answer of another process."""

OF_TASKS = frozenset({"stop", "cancel", "stack", "publish"})
"""The verbs that are about a task. Its id is the target."""

OF_JOBS = frozenset({"run", "pause", "resume"})
"""The verbs that are about a periodic job. Its id is the target."""

# Characters of a stack that go to another process.
_LONGEST = 64_000
# What a status may be.
_STATUS = range(200, 600)


class Outcome(NamedTuple):
    """What became of it."""

    status: int
    """As in HTTP: 200, 202 if it was asked for and there is no answer yet, 404, 409 or 503."""
    why: str = ""
    """Why it was not done, or not yet: a sentence."""
    value: Any = None
    """For "stack", the frames as text, outermost first."""


DONE = Outcome(200)


def encoded(outcome: Outcome) -> str:
    """The outcome as text for another process."""
    return json.dumps(outcome)


def decoded(text: str) -> Outcome:
    """The outcome that another process has sent."""
    try:
        status, why, value = json.loads(text)
        is_known = status in _STATUS and isinstance(why, str)
        if is_known and (value is None or all(isinstance(it, str) for it in value)):
            return Outcome(status, why, value)
    except (ValueError, TypeError, RecursionError):
        pass
    # Written by something else than a journal.
    return Outcome(503, "Its process has answered something that cannot be read.")


class Commands:
    """The tasks and jobs of one `Delay` in this process. May be used from any thread."""

    def __init__(
        self,
        find: Callable[[str], Future[Any] | None],
        stack: Callable[[Future[Any]], Outcome],
        jobs: Jobs,
        show: Callable[[], Shown],
    ) -> None:
        """`find` returns a task of this process by its id; `stack` says where it is.

        `show` returns the plain tasks of this process.
        """
        self._find = find
        self._stack = stack
        self._jobs = jobs
        self.show = show

    def act(self, verb: str, target: str) -> Outcome | None:
        """Do it here; None if this process does not have the target."""
        if verb in OF_JOBS:
            job = self._job(target)
            return None if job is None else _with_job(verb, job)
        future = self._find(target)
        if future is None:
            return None
        if verb == "stack":
            return self._stack(future)
        if verb == "publish":
            # The journal has it from now on.
            _ = future.id
            return DONE
        # A durable task is stopped and cancelled in the journal, wherever it is.
        return None if future._is_durable() else with_task(verb, future)  # noqa: SLF001

    def obey(
        self,
        journal: _Journal,
        number: int,
        verb: str,
        target: str,
        actor: str | None,
        *,
        is_open: bool,
    ) -> None:
        """Do what another process asks. If that `is_open`, only if the target is here."""
        if is_open and not self._has(verb, target):
            return
        if not journal.take_command(number):
            return
        outcome = None
        try:
            if verb in OF_TASKS | OF_JOBS:
                outcome = self.act(verb, target)
            else:
                outcome = Outcome(409, f"Its process does not know {verb!r}: it has other code.")
        except Exception:
            _log.exception("another process has asked for %r of %s, which has failed", verb, target)
            outcome = Outcome(503, "Its process could not do it; its log says why.")
        if outcome is not None and outcome.status == DONE.status and verb != "stack":
            job = self._job(target)
            what, who = job.name if job else target, actor or "somebody"
            _acts.info("%s %s, by %s, through another process", verb, what, who)
        journal.settle(number, encoded(outcome or Outcome(409, "It is not there any more.")))

    def _has(self, verb: str, target: str) -> bool:
        if verb in OF_JOBS:
            return self._job(target) is not None
        return verb in OF_TASKS and self._find(target) is not None

    def _job(self, id: str) -> Job | None:
        return next((job for job in self._jobs.all() if job.id == id), None)


def with_task(verb: str, future: Future[Any]) -> Outcome:
    """Stop or cancel a task by its future."""
    # One that was cancelled before could be cancelled again.
    if future.done():
        return ended(verb)
    if verb == "stop":
        return DONE if future.stop() else ended(verb)
    if future.cancel():
        return DONE
    is_over = future.done()
    return (
        ended(verb)
        if is_over
        else Outcome(409, "The task runs already, so it cannot be cancelled.")
    )


def ended(verb: str) -> Outcome:
    """What there is to say if the task has ended."""
    so = {"stop": "there is nothing to stop", "cancel": "it cannot be cancelled"}
    return Outcome(409, f"The task has ended already, so {so.get(verb, 'it has no stack')}.")


def _with_job(verb: str, job: Job) -> Outcome:
    try:
        {"run": job.run_now, "pause": job.pause, "resume": job.resume}[verb]()
    except OSError as error:
        return Outcome(503, sentence(error))
    except (DuplicateTask, RuntimeError) as error:
        return Outcome(409, sentence(error))
    return DONE


def stack_here(future: Future[Any]) -> Outcome:
    """Where a task is that runs on a thread or on the event loop of this process."""
    frames = stack_of(future)
    if not frames:
        return Outcome(409, "it has gone on meanwhile")
    return Outcome(200, value=cut(frames))


def cut(frames: list[str]) -> list[str]:
    """The innermost frames, if they are too long for a row of the journal."""
    left = _LONGEST
    for place in range(len(frames), 0, -1):
        left -= len(frames[place - 1])
        if left < 0:
            return [f"... {place} more", *frames[place:]]
    return frames


def sentence(error: Exception) -> str:
    """What an exception says, as a sentence."""
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."
