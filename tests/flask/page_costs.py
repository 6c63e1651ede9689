"""What the pages cost a worker while the journal has 100,000 rows, and what they cost its tasks.

`python -m tests.flask.page_costs [ROWS]` prints the processor time of the process, in milliseconds:
the least of several times, for which it does not matter what else the machine does.
"""

import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from flask import Flask

from flask_delay import Delay

ROWS = 100_000
LAYOUT = Path(__file__).parents[1] / "journal/layouts/1.sql"
JSON = {"Accept": "application/json"}
VIEWS = (
    "/",
    "/?span=6h",
    "/?span=7d",
    "/running",
    "/queue",
    "/queue?name=work7",
    "/failed",
    "/failed?name=work7&class=shop.Missing3",
    "/failed?class=shop.Nowhere",
    "/finished",
    "/finished?name=work7",
    "/jobs",
    "/names",
    "/names/work7",
    "/processes",
)

# Of a hundred rows in turn: how many are in which state.
_MIX = ((0, 20), (1, 8), (3, 8), (4, 2), (5, 2), (6, 40), (8, 4), (7, 15), (9, 1))
_FUNCTIONS = 50
# Milliseconds of what `slowness` measures, on an idle machine.
_REFERENCE = 1.2

_FILL = """
INSERT INTO task (id, state, application, function, pool, owner, epoch, attempt, deaths, rank, due,
  submitted_at, began_at, ended_at, limit_key, limit_most, waiting_for, arguments, result, error)
WITH RECURSIVE number (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM number WHERE n < :rows),
  mixed AS (SELECT n, CASE {states} END AS state, n * 7919 % 100 AS turn FROM number)
SELECT printf('%08x-0000-4000-8000-%012x', n * 2654435761 % 4294967296, n),
  CASE WHEN n % 1000 = 1 THEN 2 ELSE state END, :app, :first + n * 31 % {functions}, 0,
  CASE WHEN n % 1000 = 1 THEN 1 END, 1, 1, 0, :now + n, CASE state WHEN 1 THEN :now + n * 1000000 END,
  :now + n, CASE WHEN state > 5 OR n % 1000 = 1 THEN :now + n END,
  CASE WHEN state > 5 AND n % 1000 <> 1 THEN :now + n * 17 % 1000000 END,
  CASE WHEN state = 3 AND n % 2 THEN :space || char(31) || '="key' || (n % 20) || '"' END, 1,
  CASE WHEN state = 3 AND n % 2 = 0 THEN 1 ELSE 0 END,
  '{{"args": [' || n || ', "{text}"], "kwargs": {{}}}}',
  CASE state WHEN 6 THEN '"{text}"' END,
  CASE WHEN state IN (7, 9) THEN '{{"type": "shop.Missing' || (n % 5) || '", "message": "no {text}", '
    || '"traceback": "Traceback (most recent call last):\\n  File \\"/srv/shop/tasks.py\\", line 7, in work\\n'
    || '    {text}\\nshop.Missing", "notes": []}}' END
FROM mixed
"""  # noqa: E501 (SQL)


def _states() -> str:
    sum_, parts = 0, []
    for state, share in _MIX:
        sum_ += share
        parts.append(f"WHEN n * 7919 % 100 < {sum_} THEN {state}")
    return " ".join(parts)


def fill(path: Path, space: str, rows: int = ROWS) -> None:
    """Make a journal with so many rows in all states, of 50 functions; `space` is the app's."""
    text = "x" * 120
    fill = _FILL.format(states=_states(), functions=_FUNCTIONS, text=text)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(LAYOUT.read_text())
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN")
        (app,) = connection.execute(
            "INSERT INTO application (name) VALUES (?) RETURNING application", [space]
        ).fetchone()
        first = connection.execute("SELECT max(function) + 1 FROM function").fetchone()[0]
        connection.executemany(
            "INSERT INTO function (application, name) VALUES (?, ?)",
            [(app, f"shop.tasks.work{n}") for n in range(_FUNCTIONS)],
        )
        now = int(time.time() * 1e6) - 10_000_000
        values = {"rows": rows, "app": app, "first": first, "now": now, "space": space}
        connection.execute(fill, values)
        connection.execute(
            "INSERT INTO dependency (predecessor, task, place) SELECT sequence - 1, sequence, 0"
            " FROM task WHERE state = 3 AND waiting_for > 0 AND application = ?",
            [app],
        )
        _fill_samples(connection, app, int(time.time()))
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _fill_samples(connection: sqlite3.Connection, app: int, now: int) -> None:
    """As many as there can be, for plots and figures."""
    samples = [
        (app, step, now - now % step - n * step, n % 9, n % 5 == 0, n % 7, 3, 4, *[n % 11 + 1] * 4)
        for step, count in ((5, 180), (120, 180), (3_600, 168))
        for n in range(count)
    ]
    connection.executemany(
        "INSERT INTO sample (application, step, at, done, failed, queued, held, running,"
        " wait_half, wait_most, run_half, run_most) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        samples,
    )
    # A sum, and forty buckets in use: see `Histogram::encode`.
    times = b"\x80\x80\x04" + b"\x02\x05" * 40
    figures = [
        (app, step, now - now % step - n * step, f"work{name}", 5, 1, 0, 0, 0, times, times)
        for step, count in ((60, 60), (86_400, 7))
        for n in range(count)
        for name in range(_FUNCTIONS)
    ]
    connection.executemany(
        "INSERT INTO figure (application, step, at, name, done, failed, cancelled, retried, dead,"
        " wait, run) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        figures,
    )


def make_app(folder: Path) -> Flask:
    """Make an app with the page, and the journal in the folder."""
    app = Flask("costs", instance_path=str(folder))
    app.config["DELAY_JOURNAL"] = str(folder / "journal.db")
    app.config["DELAY_JOURNAL_LIMIT"] = 10 * ROWS
    executor = Delay()
    app.register_blueprint(
        executor.dashboard_blueprint(authorize=lambda: "act"), url_prefix="/tasks"
    )
    executor.init_app(app)
    # It would claim the tasks, and park those whose functions nobody has.
    app.extensions["delay"].store.stop()
    return app


def space() -> str:
    """The app's part of the file."""
    return "costs|delay"


def least(asked: dict[Any, Callable[[], Any]], rounds: int = 3) -> dict[Any, float]:
    """The processor time of the process for each, in milliseconds.

    In rounds, so that what disturbs one of them for a while disturbs all of them in that round.
    """
    found = dict.fromkeys(asked, float("inf"))
    for _ in range(rounds):
        for name, work in asked.items():
            for _ in range(3):
                began = time.process_time()
                work()
                found[name] = min(found[name], (time.process_time() - began) * 1e3)
    return found


def slowness() -> float:
    """How much slower this machine is at the moment than the one of the figures; at least 1."""
    found = least({0: lambda: sum(number * number for number in range(20_000))}, 10)
    return max(found[0] / _REFERENCE, 1.0)


def views(app: Flask) -> dict[str, tuple[float, float, float]]:
    """What each view costs as HTML, as JSON, and as a poll that finds nothing new."""
    client = app.test_client()
    asked: dict[Any, Callable[[], Any]] = {}
    for path in VIEWS:

        def get(prefix: str = "", path: str = path, **headers: str) -> Any:
            return client.get(f"/tasks{prefix}{path}", headers=headers)

        tag = {"HX-PTag": get("/live").headers["HX-PTag"]}

        def poll(get: Callable[..., Any] = get, tag: dict[str, str] = tag) -> Any:
            answer = get("/live", **tag)
            # As an open page does: some of it changes with the time.
            tag["HX-PTag"] = answer.headers.get("HX-PTag", tag["HX-PTag"])
            return answer

        page = get()
        if page.status_code != 200 or 304 not in {poll().status_code, poll().status_code}:
            raise RuntimeError(f"{path}: {page.status}")
        asked[path, 0] = get
        asked[path, 1] = partial(get, **JSON)
        asked[path, 2] = poll
    found = least(asked)
    return {path: (found[path, 0], found[path, 1], found[path, 2]) for path in VIEWS}


def queries(app: Flask) -> dict[str, float]:
    """What each query of the lists costs."""
    store = app.extensions["delay"].store
    journal = store._opened()
    seven, rare = ["shop.tasks.work7"], ["shop.tasks.none"]
    asked: dict[str, Callable[[], Any]] = {
        f"{kind}{of}": partial(journal.listed, kind, names, 51)
        for kind in ("ready", "held", "running", "ended", "failed")
        for of, names in (("", None), (" of a name", seven), (" of no name", rare))
    }
    asked["failed of a class"] = lambda: journal.listed(
        "failed", None, 51, classes=["shop.Missing3"]
    )
    asked["failed of no class"] = lambda: journal.listed("failed", None, 51, classes=["shop.No"])
    asked["classes"] = lambda: journal.classes(None, 0)
    asked["classes of a name"] = lambda: journal.classes(seven, 0)
    asked["tasks()"] = lambda: journal.rows([], None, 100, None)
    asked["tasks(name)"] = lambda: journal.rows([], seven, 100, None)
    for state in (
        "ready",
        "scheduled",
        "running",
        "blocked",
        "parked",
        "finished",
        "failed",
        "dead",
    ):
        asked[f"tasks({state})"] = partial(journal.rows, [state], None, 100, None)
    for step in (5, 120, 3_600):
        asked[f"steps of {step} s"] = partial(journal.steps, step)
    asked["figures"] = lambda: journal.figures([])
    asked["minutes"] = lambda: journal.minutes(int(time.time()) // 60 - 29)
    asked["workers"] = journal.workers
    asked["stats"] = journal.stats
    asked["version"] = journal.version
    return least(asked)


def nothing() -> None:
    """Do nothing, as a task."""


class Cost(NamedTuple):
    """What a plain task costs that does nothing."""

    processor: float
    """Microseconds."""
    per_second: float
    """Tasks."""


def per_task(
    pages: Sequence[bool] = (False, True), rounds: int = 15, count: int = 2_000
) -> list[Cost]:
    """What a task costs in an app with a page or without: the medians of rounds taken in turn."""
    runs = [_runner(count, has_page=has_page) for has_page in pages]
    found: list[list[Cost]] = [[] for _ in pages]
    for _ in range(rounds):
        for run, costs in zip(runs, found, strict=True):
            before, began = time.process_time(), time.perf_counter()
            run()
            used, took = time.process_time() - before, time.perf_counter() - began
            costs.append(Cost(used * 1e6 / count, count / took))
    return [Cost(*map(median, zip(*costs, strict=True))) for costs in found]


def _runner(count: int, *, has_page: bool) -> Callable[[], None]:
    app = Flask("tasks")
    executor = Delay(app)
    if has_page:
        app.register_blueprint(executor.dashboard_blueprint(authorize=None), url_prefix="/tasks")
        # From the first request on, its plots have samples.
        app.test_client().get("/tasks/")

    def run() -> None:
        with app.app_context():
            for future in [executor.delay(nothing) for _ in range(count)]:
                future.result()

    run()
    return run


def main() -> None:
    """Print all of it."""
    # Before there is a page in this process.
    (without,) = per_task([False])
    costs = {"before there is a page": without}
    costs |= zip(("without a page", "with a page"), per_task(), strict=True)
    for when, cost in costs.items():
        print(f"{when}: {cost.processor:.2f} µs for a task, {cost.per_second:,.0f} tasks/s")
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder) / "journal.db", space(), rows)
        app = make_app(Path(folder))
        print(f"{rows:,} rows; milliseconds of the processor\n")
        for query, took in queries(app).items():
            print(f"{query:<40}{took:>8.2f}")
        print(f"\n{'page':<40}{'HTML':>8}{'JSON':>8}{'304':>8}")
        for path, (html, data, idle) in views(app).items():
            print(f"{path:<40}{html:>8.2f}{data:>8.2f}{idle:>8.2f}")


if __name__ == "__main__":
    main()
