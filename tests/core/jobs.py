"""What the tests of jobs share."""

import json
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from flask_delay.options import AllOptions, Chosen, submitter
from flask_delay.periodic.job import Job, Jobs
from flask_delay.periodic.leader import Answer, Lead

from .helpers import DEADLINE

OFTEN = 0.05
RARELY = 3600


def start(jobs: Jobs, fn: Callable[..., Any], /, *args: Any, **options: Any) -> Job:
    """Make a job of `fn(*args)` with these options."""
    return cast("Job", submitter(Chosen(cast("AllOptions", options)), jobs, None)(fn, *args))


class Count:
    """Counts its calls, with the times; may be waited for."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._more = threading.Condition()

    def __call__(self, *_: object) -> None:
        with self._more:
            self.times.append(time.time())
            self._more.notify_all()

    def wait_for(self, count: int) -> bool:
        with self._more:
            return self._more.wait_for(lambda: len(self.times) >= count, DEADLINE)


class Run:
    """A run that goes on until somebody ends it."""

    def __init__(self) -> None:
        self.ended = False
        self._callbacks: list[Callable[[Any], object]] = []

    def done(self) -> bool:
        return self.ended

    def add_done_callback(self, fn: Callable[[Any], object], /) -> None:
        self._callbacks.append(fn)

    def end(self) -> None:
        self.ended = True
        for callback in self._callbacks:
            callback(self)


def take(lead: Lead, tick: int, *, alone: bool = True) -> Answer:
    """What becomes of a tick, which comes after all that are less."""
    return lead.take(tick, lambda last: last >= tick, alone=alone)


def note(folder: Path) -> Any:
    """What is in the only file."""
    (file,) = folder.glob("*.lock")
    # To read it here would let go of this process's locks.
    return json.loads(subprocess.check_output(["cat", str(file)]))
