"""Jobs whose ticks the processes of a machine share in their journal."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from flask_delay._native import _Schedule
from flask_delay.backends.base import Backend
from flask_delay.journal.store import Store
from flask_delay.journal.terms import moment
from flask_delay.options import Chosen
from flask_delay.periodic.job import Description
from flask_delay.periodic.leader import Answer, Beginning, Lead, Run, Standing
from flask_delay.servers import role

_NOT = Answer(runs=False)


class JournalLead(Lead):
    """The state of one plain job that the processes of a machine share in their journal.

    The errors of all methods are JournalUnavailable and those of `Store.schedule`.
    """

    def __init__(self, store: Store, job: Description) -> None:
        super().__init__()
        self._store = store
        self._job = job
        # Made at first use. Of two callers at once, both make the same one.
        self._made: _Schedule | None = None
        # The newest run of this process that is to be alone, and its number.
        self._newest: tuple[Run, int] | None = None

    def _schedule(self) -> _Schedule:
        if self._made is None:
            id, name, plan, _ = self._job
            # A durable one is known by its tasks.
            alone, noted = not plan.overlap, not plan.durable
            self._made = self._store.schedule(id, name, plan.rhythm, alone=alone, noted=noted)
        return self._made

    def prepare(self) -> None:
        """Open the journal."""
        self._schedule()

    def take(self, tick: int | None, has_come: Callable[[int], bool], *, alone: bool) -> Answer:
        """See `Lead.take`. The journal knows itself which ticks have come."""
        del has_come
        schedule = self._schedule()
        if tick is not None and schedule.is_taken(tick):
            return _NOT
        newest = self._newest
        over = None if newest is None or not newest[0].done() else newest[1]
        taken = schedule.take(tick, over)
        if taken is not None and taken[0] and alone:
            self._newest = Beginning(), taken[2]
        return _answer(taken)

    def hold(self, run: Run) -> None:
        """See `Lead.hold`."""
        if self._newest is not None:
            self._newest = run, self._newest[1]
            run.add_done_callback(self.end)

    def end(self, run: Run | None = None) -> None:
        """See `Lead.end`."""
        newest = self._newest
        if newest is not None and (run is None or newest[0] is run):
            if run is None:
                self._newest = Beginning(is_over=True), newest[1]
            self._schedule().over(newest[1])

    def pause(self, paused: bool) -> None:
        """See `Lead.pause`."""
        self._schedule().pause(paused)

    def standing(self) -> Standing:
        """See `Lead.standing`."""
        if role.is_bystander():
            # It has no thread for the journal, and forks more easily without one.
            return Standing()
        with contextlib.suppress(RuntimeError, ValueError):
            found = self._schedule().state()
            if found is not None:
                last = found["ran"]
                return Standing(last and last * 1000, found["left_out"], found["paused"])
        return Standing()

    def forget_parent(self) -> None:
        """See `Lead.forget_parent`. The journal goes on in a forked process."""
        super().forget_parent()
        self._newest = None


class DurableLead(JournalLead):
    """The state of one durable job. The transaction that takes a tick also submits its task."""

    def __init__(
        self, store: Store, chosen: Chosen, backend: Backend | None, job: Description
    ) -> None:
        """Raises as `Store.submit` for the function and the arguments."""
        super().__init__(store, job)
        fn, self._args, self._kwargs = job.call
        self._order = store.order(chosen, backend, fn)
        store.check_call(self._order, fn, self._args, self._kwargs)

    def take(self, tick: int | None, has_come: Callable[[int], bool], *, alone: bool) -> Answer:
        """See `Lead.take`. The answer has the future of the run."""
        del has_come, alone
        return self._take(tick, missed=False)

    def make_up(self, before: int) -> Answer:
        """See `Lead.make_up`."""
        return self._take(before, missed=True)

    def _take(self, at: int | None, *, missed: bool) -> Answer:
        schedule = self._schedule()
        if at is not None and schedule.is_taken(at, missed=missed):
            return _NOT
        self._store.before_submit()
        taken = schedule.submit(at, missed, *self._order, *self._args, **self._kwargs)
        return _answer(taken)

    def newest(self) -> Any:
        """The future of the last run, in whichever process; None if that cannot be read."""
        with contextlib.suppress(RuntimeError, ValueError):
            found = self._schedule().state()
            if found is not None and found["task"] is not None:
                return self._store.get(found["task"])
        return None


def seen_in_journal(row: Mapping[str, Any]) -> dict[str, Any]:
    """What the row of a job tells of it, for a process that does not have it."""
    name, _, schedule = row["name"].partition(" (")
    return {
        "id": row["id"],
        "name": name,
        "schedule": schedule.removesuffix(")"),
        "durable": row["task"] is not None,
        "paused": row["paused"],
        "left_out": row["left_out"],
        "last_tick": moment(row["ran"]),
        "next_run": None if row["paused"] else moment(row["due"]),
    }


def _answer(taken: tuple[Any, ...] | None) -> Answer:
    if taken is None:
        return _NOT
    runs, run, count, by, _, last = taken
    if not runs:
        return Answer(runs=False, left_out=count, by=by)
    return Answer(runs=True, last=last, run=run)
