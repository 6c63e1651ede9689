"""What an open page asks again and again, and is told "nothing new" without a look at any task.

A page has a tag made of its content. With it goes a pulse, which is cheap and changes whenever the
content may have changed. If the pulse is still that of a tag, the content is too.
"""

import os
import time
from typing import Any

from flask import request

from flask_delay._native import _events_counted
from flask_delay.state import State

# So many tags are remembered: each page that is open has one.
_MOST = 256
# After so many seconds a page is made anew, since some of it changes with the time alone, such as
# memory and what counts as recent.
_SOON, _LATE = 10, 60
# So many seconds after an event it is in a sample, and in a point of a plot.
_SAMPLED = 6
_MOVING = ("overview", "names", "name", "processes")
_COUNTS = ("queued", "held", "running")
# Workers start and end without an event, and the other pages do not show them.
_OF_WORKERS = ("threads", "stuck")
_WITH_WORKERS = ("overview", "processes")

Pulse = tuple[Any, ...]


class Polls:
    """The tags that open pages have, each with the pulse of its process at that time.

    May be used from any thread: each access is atomic.
    """

    def __init__(self) -> None:
        self._pulses: dict[tuple[Any, ...], Pulse] = {}
        # The number of events, and when it was seen first.
        self._newest, self._newest_at = 0, 0.0

    def pulse(self, page: str, state: State, news: int) -> Pulse:
        """What changes when a page may have changed. To be asked for before the page is made.

        `news` is the number of changes that are no events of tasks.
        """
        now, newest = time.monotonic(), _events_counted()
        if newest != self._newest:
            self._newest, self._newest_at = newest, now
        step: float = _SOON if page in _MOVING else _LATE
        if page in _MOVING and now - self._newest_at < _SAMPLED:
            # The plots tell of it a little later.
            step = 1
        counts: Any = state.executor.stats()
        shown = (*_COUNTS, *_OF_WORKERS) if page in _WITH_WORKERS else _COUNTS
        jobs = page == "jobs" and tuple(
            (it.id, it.paused, it.next_run, it.last_tick, it.left_out) for it in state.jobs.all()
        )
        return (
            os.getpid(),
            newest,
            state.store.version(),
            news,
            *(counts[key] for key in shown),
            jobs,
            (step, int(now / step)),
        )

    def is_same(self, key: tuple[Any, ...], tag: str | None, pulse: Pulse) -> bool:
        """Whether a page with this tag would have the same content."""
        return tag is not None and self._pulses.get((*key, tag)) == pulse

    def note(self, key: tuple[Any, ...], tag: str, pulse: Pulse) -> None:
        """Remember the tag of a page that was made after that pulse."""
        self._pulses[(*key, tag)] = pulse
        while len(self._pulses) > _MOST:
            self._pulses.pop(next(iter(self._pulses)), None)


def visitor() -> tuple[str | None, ...]:
    """By what the visitor is known, for pages that do not show all visitors the same."""
    headers = ("Cookie", "Authorization")
    return (*(request.headers.get(name) for name in headers), request.remote_user)
