"""Plain tasks as another process tells of them, for a page that shows the tasks of all.

They are data, and each is checked: nothing of a text runs, and no text is longer than a page needs.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, TypeVar

from flask_delay._native import Progress
from flask_delay.observe.view import Before, Lane, Link, TaskView

MOST = 50
"""Tasks of each kind, of each process."""

# Characters of a text; of an id, which is not cut.
_LONGEST, _ID = 500, 1_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICRO = timedelta(microseconds=1)
# The year 9999, in microseconds.
_LAST = 253_370_764_800_000_000
_STATES = ("pending", "running")
_HELD_BY = ("limit", "rate")


class Part(NamedTuple):
    """Tasks of one kind."""

    number: int = 0
    """How many there are."""
    tasks: Sequence[TaskView] = ()
    """`MOST` of them, or fewer."""


class Shown(NamedTuple):
    """The plain tasks of a process."""

    running: Part = Part()
    queued: Part = Part()
    held: Part = Part()
    oldest: datetime | None = None
    """Since when one waits for a worker."""


def encoded(space: str, shown: Shown) -> str:
    """The tasks of a process as text. `space` is the app's name in the journal."""
    parts = {
        kind: [part.number, [_record(view) for view in part.tasks[:MOST]]]
        for kind, part in (
            ("running", shown.running),
            ("queued", shown.queued),
            ("held", shown.held),
        )
    }
    return json.dumps({"app": space, **parts, "oldest": _micros(shown.oldest)})


def decoded(space: str, pid: int, text: str) -> Shown | None:
    """What a process has told; None if it has none of the app's tasks.

    Raises ValueError for anything else than what `encoded` makes.
    """
    try:
        told = json.loads(text)
        if told["app"] != space:
            return None
        running, queued, held = (_part(told[kind], pid) for kind in ("running", "queued", "held"))
        return Shown(running, queued, held, _moment(told["oldest"]))
    except (TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"process {pid} has told something else: {error!r}") from None


def _part(told: Any, pid: int) -> Part:
    number, records = told
    if not 0 <= _integer(number) <= 1 << 40:
        raise ValueError(number)
    return Part(number, [_view(it, pid) for it in records[:MOST]])


def _record(view: TaskView) -> dict[str, Any]:
    progress, lane, after = view.progress, view.lane, view.after
    return {
        "id": view.id,
        "name": _cut(view.name),
        "state": view.state,
        "attempts": view.attempts,
        "most_attempts": view.most_attempts,
        "priority": view.priority,
        "enqueued_at": _micros(view.enqueued_at),
        "started_at": _micros(view.started_at),
        "due": _micros(view.due),
        "deadline": _micros(view.deadline),
        "held_by": view.held_by,
        "reason": _cut(view.reason),
        "arguments": _cut(view.arguments),
        "thread": _cut(view.thread),
        "progress": progress and [progress.done, progress.total, _cut(progress.note)],
        "lane": lane and [_cut(lane.name), lane.running, lane.limit, lane.rate],
        "after": after and [after.id, _cut(after.name), after.others],
        "follows": [[it.id, _cut(it.name)] for it in view.follows],
        "followed_by": [[it.id, _cut(it.name)] for it in view.followed_by],
    }


def _view(told: Mapping[str, Any], pid: int) -> TaskView:
    progress, lane, after = (told[key] for key in ("progress", "lane", "after"))
    return TaskView(
        id=_id(told["id"]),
        name=_text(told["name"]),
        state=_one_of(told["state"], _STATES),
        attempts=_integer(told["attempts"]),
        most_attempts=_or_none(_integer, told["most_attempts"]),
        priority=_integer(told["priority"]),
        enqueued_at=_moment(told["enqueued_at"]),
        started_at=_moment(told["started_at"]),
        due=_moment(told["due"]),
        deadline=_moment(told["deadline"]),
        held_by=_or_none(lambda it: _one_of(it, _HELD_BY), told["held_by"]),
        reason=_or_none(_text, told["reason"]),
        arguments=_or_none(_text, told["arguments"]),
        thread=_or_none(_text, told["thread"]),
        progress=_or_none(_progress, progress),
        lane=_or_none(_lane, lane),
        after=_or_none(_before, after),
        follows=_links(told["follows"]),
        followed_by=_links(told["followed_by"]),
        pid=pid,
    )


def _progress(told: Any) -> Progress:
    done, total, note = told
    return Progress(_number(done), _or_none(_number, total), _text(note))


def _lane(told: Any) -> Lane:
    name, running, limit, rate = told
    return Lane(_text(name), _integer(running), _or_none(_integer, limit), _or_none(_text, rate))


def _before(told: Any) -> Before:
    id, name, others = told
    return Before(_id(id), _text(name), _integer(others))


def _links(told: Any) -> tuple[Link, ...]:
    return tuple(Link(_id(id), _text(name)) for id, name in told[:MOST])


# --- Values ---------------------------------------------------------------------------


def _cut(text: str | None) -> str | None:
    return text and text[:_LONGEST]


def _micros(moment: datetime | None) -> int | None:
    return None if moment is None else (moment - _EPOCH) // _MICRO


_T = TypeVar("_T")


def _or_none(read: Callable[[Any], _T], told: Any) -> _T | None:
    return None if told is None else read(told)


def _moment(told: Any) -> datetime | None:
    if told is None:
        return None
    micros = _integer(told)
    if not 0 <= micros <= _LAST:
        raise ValueError(told)
    return _EPOCH + micros * _MICRO


def _integer(told: Any) -> int:
    if type(told) is not int:
        raise TypeError(told)
    return told


def _number(told: Any) -> float:
    if type(told) not in {int, float} or not math.isfinite(told):
        raise TypeError(told)
    return float(told)


def _text(told: Any) -> str:
    if not isinstance(told, str):
        raise TypeError(told)
    # A lone surrogate could not be part of an address.
    return told[:_LONGEST].encode(errors="backslashreplace").decode()[:_LONGEST]


def _id(told: Any) -> str:
    if not isinstance(told, str) or not 0 < len(told) <= _ID:
        raise TypeError(told)
    # Raises for a lone surrogate.
    told.encode()
    return told


def _one_of(told: Any, words: Iterable[str]) -> Any:
    if told not in words:
        raise ValueError(told)
    return told
