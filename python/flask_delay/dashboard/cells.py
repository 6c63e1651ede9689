"""Cells of tables as HTML, and the values in them as text.

A page has hundreds of them, for which a template takes several times as long. Each function escapes
what it is given, and returns HTML as a plain string. For templates see `answers`.
"""

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from html import escape
from typing import Any, NamedTuple

from flask import g, url_for

from flask_delay.dashboard import lists, pages, plots
from flask_delay.masking import masked
from flask_delay.observe.view import TaskView

# Characters of a note or a reason.
_LONGEST = 1_000
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


# --- Values -------------------------------------------------------------------------


def cut(text: str | None) -> str:
    """The beginning of a text of somebody else, without passwords."""
    return masked((text or "")[: 8 * _LONGEST])[:_LONGEST]


def duration(seconds: float) -> str:
    """Seconds in the largest unit that fits: "1.2 ms", "42 s", "3 min"."""
    if seconds < 0.001:  # noqa: PLR2004 (a millisecond)
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 10:  # noqa: PLR2004 (a digit more)
        return f"{seconds:.1f} s"
    for unit, size in (("d", _DAY), ("h", _HOUR), ("min", _MINUTE)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def attempt(view: TaskView) -> str:
    """How many attempts have begun, and of how many."""
    most = view.most_attempts
    return str(view.attempts) if most in {None, 1} else f"{view.attempts} of {most}"


def span(view: TaskView) -> str:
    """How long the last attempt of a task took."""
    if view.started_at is None or view.finished_at is None:
        return "–"  # noqa: RUF001 (a dash)
    return duration(max((view.finished_at - view.started_at).total_seconds(), 0))


def number(value: float) -> str:
    """A number with six digits at most."""
    return f"{value:,.6g}"


def size(count: int | None) -> str:
    """Bytes as megabytes."""
    return "unknown" if count is None else f"{count / 1e6:,.0f} MB"


def short(id: str) -> str:
    """The beginning of an id: enough of a random one."""
    return id if len(id) <= 12 else id[:8]  # noqa: PLR2004 (as UUIDs begin)


def address(endpoint: str, **values: Any) -> str:
    """As Flask's `url_for`, which is slow for the many of a list: they differ by one word alone."""
    if len(values) != 1:
        return url_for(endpoint, **values)
    ((key, value),) = values.items()
    if not isinstance(value, str) or not _WORD.fullmatch(value):
        return url_for(endpoint, **values)
    known = g.setdefault("_delay_urls", {})
    found = known.get((endpoint, key))
    if found is None:
        stands: dict[str, Any] = {key: _ANY}
        found = known[endpoint, key] = url_for(endpoint, **stands).split(_ANY)
    return value.join(found)


# Stands for a word. No address of a host has it.
_ANY = "-any-word-of-delay-"
# It is as it is in an address.
_WORD = re.compile(r"[A-Za-z0-9_.-]+")


# --- HTML ---------------------------------------------------------------------------

NONE = '<span class="none">–</span>'  # noqa: RUF001 (a dash)
"""Where there is nothing to say."""


@lru_cache(1_000)
def wrapped(name: str) -> str:
    """A name that a browser may break between its words, if it is long."""
    parts = _PARTS.findall(name) if len(name) > 20 else [name]  # noqa: PLR2004 (of a column)
    return "<wbr>".join(map(escape, parts))


_PARTS = re.compile(r"[^_.]+[_.]*|[_.]+")


def moment(moment: datetime | None, mode: str = "ago") -> str:
    """A time as an element: relative, with the absolute one at hand. The script keeps it true."""
    if moment is None:
        return '<span class="none">never</span>'
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    iso = moment.isoformat(timespec="milliseconds")
    seconds = time.time() - moment.timestamp()
    text = duration(abs(seconds)) if abs(seconds) >= 1 else "0 s"
    if mode == "ago":
        text = f"{text} ago" if seconds >= 0 else f"in {text}"
    absolute = f"{iso[:10]} {iso[11:19]} UTC"
    return f'<time datetime="{iso}" title="{absolute}" data-{mode}>{text}</time>'


def task(view: TaskView) -> str:
    """The name of a task, which leads to its page, and its id."""
    id, place = view.id, address(".task", id=view.id)
    return (
        f'<a class="name" href="{escape(place)}">{wrapped(view.name)}</a>\n'
        f'<span class="id" title="{escape(id)}">{escape(short(id))}</span>'
    )


def title(view: TaskView) -> str:
    """What a button calls a task."""
    return f"{view.name} {short(view.id)}"


def state(view: TaskView) -> str:
    """The state of a task in a word."""
    found = pages.outcome_of(view)
    label = "dead letter" if found == "dead" else found
    return f'<span class="state {escape(found)}">{escape(label)}</span>'


def waits(view: TaskView) -> str:
    """The state of a task that waits, and for what."""
    kind, why = view.waits, escape(pages.why(view))
    if kind == "parked" and view.reason:
        why += f": {escape(cut(view.reason))}"
    elif kind in {"scheduled", "rate"} and view.due:
        why += f" {moment(view.due)}"
    return f'{state(view)} <span class="why">{why}</span>'


def terms(view: TaskView) -> str:
    """Under which conditions a task runs, if they are special; and its arguments."""
    found = []
    lane = view.lane
    if lane is not None and view.held_by is None:
        parts = [] if lane.limit is None else [f"{lane.running} of {lane.limit} run"]
        parts += [lane.rate] if lane.rate else []
        found.append(_remark(f"{cut(lane.name)}: {', '.join(parts)}"))
    if view.priority:
        found.append(_remark(f"priority {view.priority}"))
    if view.arguments:
        found.append(f'<code class="arguments">{escape(cut(view.arguments))}</code>')
    return "\n".join(found)


def _remark(text: str) -> str:
    return f'<span class="remark">{escape(text)}</span>'


def place(view: TaskView) -> str:
    """The process of a task, and its thread."""
    if view.pid is None:
        return NONE
    return str(view.pid) if view.thread is None else f"{view.pid} {_remark(view.thread)}"


def progress(view: TaskView) -> str:
    """How far a task is."""
    told = view.progress
    if told is None:
        return '<span class="none">none reported</span>'
    if told.total:
        name = escape(f"Progress of {title(view)}")
        found = (
            f'<progress max="{told.total}" value="{told.done}" aria-label="{name}"></progress>'
            f' <span class="n">{round(100 * told.done / told.total)} %</span>'
        )
    else:
        found = f'<span class="n">{number(told.done)}</span>'
    note = f" {_remark(cut(told.note))}" if told.note else ""
    return f'<span class="progress">{found}{note}</span>'


def error(view: TaskView) -> str:
    """The error of a task, with its traceback folded."""
    it = pages.error_of(view)
    if it is None:
        return ""
    found = f'<span class="kind">{escape(it.kind)}</span>'
    if it.message:
        found += f'\n<span class="message">{escape(it.message)}</span>'
    if it.frames:
        of = f" of {view.name}"
        found += (
            f'\n<details><summary>Traceback<span class="hidden">{escape(of)}</span></summary>\n'
            f"{code(it.frames, f'Traceback{of}')}\n</details>"
        )
    return found


def code(frames: Iterable[pages.Frame], label: str) -> str:
    """Frames in a box that scrolls, those in code of the app marked."""
    own = ' class="own"'
    lines = "".join(f"<pre{own if it.is_own else ''}>{escape(it.text)}</pre>" for it in frames)
    name = escape(label)
    return f'<div class="code" tabindex="0" role="region" aria-label="{name}">{lines}</div>'


def sparkline(counts: Sequence[int] | None) -> str:
    """How many tasks ended in each of the last 30 minutes, as a small plot."""
    if not counts or not any(counts):
        return NONE
    told = f"{sum(counts):,} ended in 30 minutes, at most {max(counts):,} a minute"
    return (
        '<svg class="spark" viewBox="0 0 90 20" width="90" height="20" role="img"'
        f' aria-label="{told}"><path d="{plots.spark(counts)}"/></svg>'
    )


class Forms(NamedTuple):
    """What the forms of a page have in common."""

    back: str
    """Where they lead back to."""
    token: str | None
    """The token of an app-wide CSRFProtect."""
    are_quiet: bool
    """Whether an open page stays as it is, and is told what became of it."""

    def form(self, endpoint: str, label: str, what: str, look: str = "", **values: str) -> str:
        """A button that does something to a task, a job or a function."""
        to = escape(address(f".{endpoint}", **values))
        stays = f' hx-post="{to}" hx-swap="none"' if self.are_quiet else ""
        kind = f' class="{look}"' if look else ""
        return (
            f'<form method="post" action="{to}"{stays}>{self.hidden()}'
            f'<button{kind} aria-label="{label} {escape(what)}">{label}</button></form>\n'
        )

    def hidden(self) -> str:
        """The fields that each form has."""
        back = f'<input type="hidden" name="back" value="{escape(self.back)}">'
        if not self.token:
            return back
        return f'<input type="hidden" name="csrf_token" value="{escape(self.token)}">{back}'


# --- Rows ---------------------------------------------------------------------------


def _row(id: str, *cells: str) -> str:
    return f'<tr role="row" id="t-{escape(id)}">{"".join(cells)}</tr>'


def _first(html: str) -> str:
    return f'<td role="cell" class="first">{html}</td>'


def _cell(label: str, html: str) -> str:
    return f'<td role="cell" data-label="{label}">{html}</td>'


def _number(label: str, html: str, look: str = "") -> str:
    return f'<td role="cell" class="n{look}" data-label="{label}">{html}</td>'


def _acts(html: str) -> str:
    return f'<td role="cell" class="acts">{html}</td>'


def running(view: TaskView, forms: Forms, *, can: bool) -> str:
    """A task that runs."""
    what = title(view)
    stack = escape(address(".stack", id=view.id))
    acts = f'<a href="{stack}" aria-label="Stack of {escape(what)}">Stack</a> '
    if can:
        acts += forms.form("stop", "Stop", what, "danger", id=view.id)
    return _row(
        view.id,
        _first(task(view) + terms(view)),
        _cell("Progress", progress(view)),
        _number("For", moment(view.started_at, "for")),
        _number("Timeout", moment(view.deadline) if view.deadline else NONE),
        _number("Attempt", attempt(view)),
        _number("Process", place(view)),
        _acts(acts),
    )


def waiting(view: TaskView, forms: Forms, *, can: bool) -> str:
    """A task that waits."""
    acts = forms.form("cancel", "Cancel", title(view), "danger", id=view.id) if can else ""
    return _row(
        view.id,
        _first(task(view) + terms(view)),
        _cell("State", waits(view)),
        _number("Submitted", moment(view.enqueued_at)),
        _number("Attempts", attempt(view)),
        _number("Process", place(view)),
        _acts(acts),
    )


def failed(view: TaskView, *, can: bool) -> str:
    """A task that failed."""
    may = can and lists.can_retry(view)
    id, what = escape(view.id), escape(title(view))
    pick = acts = ""
    if may:
        pick = f'<input type="checkbox" name="id" value="{id}" aria-label="Select {what}">'
        to = escape(address(".retry", id=view.id))
        acts = (
            f'<button formaction="{to}" hx-post="{to}" hx-swap="none" aria-label="Retry {what}">'
            f"Retry</button>"
        )
    elif not lists.can_retry(view):
        acts = f'<span class="none" title="{_UNDURABLE}">not durable</span>'
    dead = f" {state(view)}" if view.state == "dead" else ""
    return _row(
        view.id,
        _first(f'<div class="pick">{pick}<div>{task(view)}{dead}{terms(view)}</div></div>'),
        _cell("Error", error(view)),
        _number("When", moment(view.finished_at)),
        _number("Attempts", attempt(view)),
        _acts(acts),
    )


_UNDURABLE = (
    "Only a durable task has its function and arguments in the journal. This one has let them go."
)


def finished(view: TaskView) -> str:
    """A task that returned or was cancelled."""
    return _row(
        view.id,
        _first(task(view) + terms(view)),
        _cell("Outcome", state(view)),
        _number("When", moment(view.finished_at)),
        _number("Took", span(view)),
        _number("Attempts", attempt(view)),
    )


def figures(
    function: tuple[str, Mapping[str, Any]], sparklines: Mapping[str, Sequence[int]]
) -> str:
    """The outcomes of a function."""
    name, of = function
    link = f'<a class="name" href="{escape(address(".name", name=name))}">{wrapped(name)}</a>'
    found = [_first(link), _cell("30 min", sparkline(sparklines.get(name)))]
    for label in ("Done", "Failed", "Retried", "Cancelled"):
        count = of[label.lower()]
        look = " none" if not count else " bad" if label == "Failed" else ""
        found.append(_number(label, number(count), look))
    for label in ("Wait", "Run"):
        times = of[label.lower()]
        for part in ("p50", "p99"):
            text = duration(times[part]) if times["count"] else NONE
            found.append(_number(f"{label} {part}", text))
    return f'<tr role="row">{"".join(found)}</tr>'


def point(row: tuple[datetime, Sequence[float | None]]) -> str:
    """A row of the table beside the plots."""
    begin, values = row
    found = [f'<td role="cell" class="first" data-label="From">{moment(begin)}</td>']
    for label, unit, value in zip(_POINT, _UNITS, values, strict=True):
        found.append(_number(label, "–" if value is None else unit(value)))  # noqa: RUF001 (a dash)
    return f'<tr role="row">{"".join(found)}</tr>'


_POINT = (
    *("Done/s", "Failed/s", "Queued", "Held", "Running"),
    *("Wait p50", "Wait p95", "Run p50", "Run p95"),
)
_UNITS = (*[number] * 5, *[duration] * 4)
