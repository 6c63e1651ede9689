"""What the tests of jobs share."""

import threading
import time
from collections.abc import Callable
from typing import Any, cast

from flask_delay.jobs import Job, Jobs
from flask_delay.options import AllOptions, Chosen, submitter

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
