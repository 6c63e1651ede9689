"""An app whose clock stands still: the same pages, ids and times at each run."""

import importlib
import linecache
import math
import pkgutil
import random
import sqlite3
import sys
import threading
import time
import types
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from flask import Flask
from werkzeug.serving import make_server

import flask_delay.dashboard
from flask_delay import Delay, chain, delay, using
from flask_delay.dashboard import blueprint, lists, pages, recorder
from flask_delay.dashboard.pages import Pages
from flask_delay.observe.view import TaskView

NOW = datetime(2026, 11, 30, 14, 5, tzinfo=UTC)
DEADLINE = 20.0
PID = 4711
# Where the tasks of the app are, as tracebacks tell.
ORDERS, PLACE = Path(__file__).with_name("orders.py"), "/srv/shop/orders.py"
# Seconds before `NOW`: when a task was submitted, began and ended; or until it is due.
_SPANS: dict[str, tuple[float, float | None, float | None]] = {}
_DUE: dict[str, float] = {}
# The ids of tasks that run, in the order of their starts: which thread takes which is chance.
_threads: list[str] = []


class _Meta(type):
    def __instancecheck__(cls, it: object) -> bool:
        return isinstance(it, datetime)


class _Frozen(datetime, metaclass=_Meta):
    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return NOW.astimezone(tz)


class _Time(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        return NOW.timestamp if name == "time" else getattr(time, name)


@contextmanager
def frozen(*, is_full: bool) -> Iterator[None]:
    """Have the page's own modules see `NOW`, and nothing of this very process.

    Figures of an app that has seen many tasks are shown only if it `is_full`.
    """
    with ExitStack() as stack:

        def put(owner: Any, name: str, value: Any) -> None:
            # What has another name by now would be shown as it is.
            before = getattr(owner, name)
            setattr(owner, name, value)
            stack.callback(setattr, owner, name, before)

        for found in pkgutil.iter_modules(flask_delay.dashboard.__path__):
            module = importlib.import_module(f"flask_delay.dashboard.{found.name}")
            if getattr(module, "datetime", None) is datetime:
                put(module, "datetime", _Frozen)
            if getattr(module, "time", None) is time:
                put(module, "time", _Time("time"))
        put(blueprint, "os", types.SimpleNamespace(getpid=lambda: PID))
        for name, value in (_PROCESS | (_FIGURES if is_full else {})).items():
            put(Pages, name, value)
        if is_full:
            counts, job = Pages.counts, Pages.job
            put(Pages, "counts", lambda *given: {**counts(*given), **_COUNTS})
            put(Pages, "job", lambda self, it: _job(job(self, it)))
            put(lists, "thread_name", lambda run: run and f"delay_{_threads.index(run.future.id)}")
        yield


def _ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


# --- Figures ------------------------------------------------------------------------------

# Of each function: tasks that returned, failed and ran again, and the seconds that half of them
# ran. All in all, it is an afternoon of a shop.
_NAMES = {
    "ask_partner": (46, 0, 0, 0.21),
    "charge": (1_204, 31, 12, 0.64),
    "export_orders": (9, 1, 0, 118.0),
    "fetch_mail": (212, 0, 3, 19.5),
    "index_product": (18_330, 0, 0, 0.008),
    "send_newsletter": (6, 0, 0, 31.0),
    "send_receipt": (3_870, 14, 9, 0.85),
    "thumbnail": (41_512, 6, 0, 0.19),
}


def _histogram(count: int, middle: float) -> dict[str, float]:
    shares = (("mean", 1.2), ("p50", 1), ("p90", 2.1), ("p99", 4.6), ("max", 9.3))
    return {"count": count, **{key: share * middle for key, share in shares}}


def _names(_: Pages) -> dict[str, Any]:
    return {
        name: {
            "done": done,
            "failed": failed,
            "cancelled": 0,
            "retried": retried,
            "dead": 0,
            "wait": _histogram(done + failed, 0.002),
            "run": _histogram(done + failed, middle),
        }
        for name, (done, failed, retried, middle) in _NAMES.items()
    }


def _sparklines(_: Pages) -> dict[str, list[int]]:
    chance = random.Random(7)
    return {
        name: [
            round(done / 200 * (1 + math.sin(n / 4) / 2) * chance.uniform(0.7, 1.3))
            for n in range(30)
        ]
        for name, (done, _failed, _retried, _middle) in _NAMES.items()
    }


def _histograms(_: Pages, name: str) -> dict[str, list[tuple[str, int]]]:
    def bell(middle: float, count: int) -> list[tuple[str, int]]:
        wide = [
            (f"{it:g}", round(count * math.exp(-((math.log10(it / middle)) ** 2) * 4)))
            for it in pages.BOUNDS
        ]
        used = [n for n, (_, number) in enumerate(wide) if number]
        return wide[used[0] : used[-1] + 1]

    done, _failed, _retried, middle = _NAMES[name]
    return {"wait": bell(0.002, done // 3), "run": bell(middle, done // 3)}


def _plots(_: Pages, resolution: str = "15m") -> Any:
    samples = importlib.import_module("flask_delay.dashboard.samples")
    step, chance = samples.STEPS[resolution], random.Random(3)
    count = {"15m": 180, "6h": 180, "7d": 168}[resolution]
    now = int(NOW.timestamp())
    columns: list[list[float | None]] = [[] for _ in samples.Plots._fields[1:]]
    for n in range(count):
        wave = 1 + math.sin(n / count * 9) / 2 + (n > count * 0.8)
        # The last step has just begun.
        done = round(5 * wave * chance.uniform(0.6, 1.4)) * (step if n < count - 1 else 1)
        row = (
            now - now % step - (count - 1 - n) * step,
            done,
            int(chance.random() < 0.04 * wave),
            max(0, round(9 * (wave - 1.6))),
            9 + round(3 * math.sin(n / 60)),
            min(4, round(2 * wave)),
            0.002 * wave,
            0.05 * wave * chance.uniform(0.8, 1.2),
            0.18 * chance.uniform(0.9, 1.1),
            1.4 * wave * chance.uniform(0.8, 1.2),
        )
        for column, value in zip(columns, row, strict=True):
            column.append(value)
    return samples.Plots(step, *columns)


def _process(*_: Any) -> dict[str, Any]:
    return {
        "pid": PID,
        "host": "web-1",
        "server": "gunicorn/23.0.0",
        "python": "3.13.1",
        "since": _ago(7_380),
        "memory": 61_000_000,
        "threads": 4,
        "running": 4,
        "idle": 0,
        "waiting": 0,
        "stuck": 0,
    }


def _workers(*_: Any) -> list[dict[str, Any]]:
    """Four processes, and one that was killed with its task."""
    alive = {**_process(), "is_own": False, "state": "alive", "seen_at": _ago(0), "lost_at": None}
    alive["tasks"] = []
    lost = {"state": "lost", "lost_at": _ago(43), "tasks": [_id_of("export")]}
    return [
        alive | {"is_own": True},
        *(
            alive | {"pid": PID + n, "running": 0, "idle": 4, "memory": (60 - n) * 1_000_000}
            for n in (1, 2)
        ),
        alive | {"pid": PID + 3, "memory": 64_000_000, "running": 1, "idle": 3} | lost,
        alive | {"pid": PID + 90, "since": _ago(42), "running": 0, "idle": 4},
    ]


_FIGURES: dict[str, Callable[..., Any]] = {
    "names": _names,
    "sparklines": _sparklines,
    "histograms": _histograms,
    "plots": _plots,
    "workers": _workers,
}
_COUNTS = {"oldest_waiting_since": _ago(3.4), "failed_15_min": 4}
_PROCESS: dict[str, Callable[..., Any]] = {"process": _process, "processes": lambda _: 4}


def _job(told: dict[str, Any]) -> dict[str, Any]:
    due = {"tidy_carts": 35, "back_up": None, "close_books": 41_100}[told["name"].split(".")[-1]]
    told["next_run"] = due and _ago(-due)
    if told["last_tick"] is not None:
        told["last_tick"] = _ago(25)
    return told


# --- Tasks --------------------------------------------------------------------------------


class Shop:
    """The app with its page, served on loopback."""

    def __init__(self, folder: Path, *, journal: bool = True) -> None:
        self.verdict: Any = "act"
        self.folder = folder
        self.orders = _orders()
        self.executor = Delay()
        self.app = Flask("shop", instance_path=str(folder), static_folder=None)
        self.app.config.update(
            DELAY_JOURNAL=journal or None, DELAY_MAX_WORKERS=4, DELAY_LOG_FAILURES=False
        )
        self.executor.init_app(self.app)
        self.app.register_blueprint(
            self.executor.dashboard_blueprint(
                authorize=lambda: self.verdict,
                actor=lambda: "ann",
                environment=("production", "#b3261e"),
                redact=self._told,
            ),
            url_prefix="/tasks",
        )
        inner: Any = self.app.wsgi_app

        def answer(environ: dict[str, Any], start: Any) -> Any:
            for told, id in self._ids.items():
                environ["PATH_INFO"] = environ["PATH_INFO"].replace(told, id)
            return inner(environ, start)

        self.app.wsgi_app = answer  # type: ignore[method-assign,assignment]
        # The ids by those that are told, and the labels by the ids.
        self._ids: dict[str, str] = {}
        self._labels: dict[str, str] = {}

    @contextmanager
    def served(self) -> Iterator[str]:
        """Serve it; the address of its page."""
        server = make_server("127.0.0.1", 0, self.app, threaded=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/tasks"
        finally:
            server.shutdown()
            thread.join(DEADLINE)
            server.server_close()
            self._close()

    def _close(self) -> None:
        if self.orders.go.locked():
            self.orders.go.release()
        state = self.app.extensions["delay"]
        state.shutdown(wait=False, cancel_futures=True)
        state.drain(DEADLINE)
        state.shutdown(wait=True, cancel_futures=False)
        recorder._recorders.clear()

    def _told(self, view: TaskView) -> TaskView:
        label = self._labels.get(view.id)
        if label is None:
            return view
        submitted, began, ended = _SPANS[label]
        after = view.after
        if after is not None:
            after = after._replace(id=_id_of(self._labels[after.id]))
        return replace(
            view,
            id=_id_of(label),
            enqueued_at=_ago(submitted),
            started_at=view.started_at and (None if began is None else _ago(began)),
            finished_at=view.finished_at and (None if ended is None else _ago(ended)),
            due=view.due and _ago(-_DUE.get(label, 0)),
            after=after,
            pid=view.pid and PID,
        )

    def add(
        self,
        label: str,
        future: Any,
        submitted: float,
        began: float | None = None,
        *,
        ended: float | None = None,
        due: float | None = None,
    ) -> Any:
        """Know a task by a label, and by times in seconds before `NOW`."""
        _SPANS[label] = submitted, began, ended
        if due is not None:
            _DUE[label] = due
        self._labels[future.id] = label
        self._ids[_id_of(label)] = future.id
        return future

    def address(self, label: str) -> str:
        """The path of a task's page."""
        return f"/tasks/{_id_of(label)}"

    def fill(self) -> None:
        """Something for each page."""
        orders = self.orders
        with self.app.app_context():
            self._end_some()
            orders.go.acquire()
            prices = chain(orders.import_prices, orders.publish_prices).delay()
            self.add("publish", prices, 64.0)
            running = _wait(lambda: self.executor.tasks(state="running"))
            self.add("prices", running[0], 64.0, 63.0)
            _threads[:] = [running[0].id]
            run = {
                "export": (orders.export_orders, 2026, 44.0, 42.0),
                "newsletter": (orders.send_newsletter, "Bergen", 21.0, 21.0),
                "mail": (orders.fetch_mail, "INBOX", 10.0, 9.5),
            }
            for label, (fn, argument, submitted, began) in run.items():
                future = self.add(label, fn.delay(argument), submitted, began)
                self._begun(future)
                _threads.append(future.id)
            self._leave_some()

    def _end_some(self) -> None:
        orders = self.orders
        for n, (fn, argument, ended) in enumerate(
            (
                (orders.thumbnail, 8001, 7_200),
                (orders.charge, 5120, 610),
                (orders.send_receipt, 5131, 240),
                (orders.charge, 5133, 95),
                (orders.charge, 5137, 41),
            )
        ):
            future = self.add(
                f"failed {n}", delay(fn, argument), ended + 1.3, ended + 1.2, ended=ended + 0.4
            )
            assert future.exception(DEADLINE) is not None
        for n in range(9):
            fn = (orders.index_product, orders.send_receipt)[n % 3 == 0]
            future = self.add(
                f"done {n}", delay(fn, 2 * n), 93.0 - 9 * n, 92.9 - 9 * n, ended=92.1 - 9 * n
            )
            future.result(DEADLINE)
        self.add("partner 0", delay(orders.ask_partner, "Riga"), 600, 600, ended=599.8).result(
            DEADLINE
        )
        refund = self.add("refund", delay(orders.refund, 5001), 52.0, 51.8, due=1_750)
        _wait(lambda: self.executor.tasks(state="scheduled"))
        assert refund.attempts == 1

    def _leave_some(self) -> None:
        orders = self.orders
        for n, city in enumerate(("Visby", "Kotka")):
            self.add(f"partner {n + 1}", delay(orders.ask_partner, city), 300 - n, due=2_999)
        for n, folder in enumerate(("INBOX", "orders")):
            self.add(f"mail {n}", delay(orders.fetch_mail, folder), 8.0 - n)
        for n in range(2):
            later = using(countdown=86_400).delay(orders.remind, 5133 + n)
            self.add(f"remind {n}", later, 95.0 - n, due=86_305 + n)
        self.executor.pause("rebuild_search")
        for n in range(2):
            self.add(f"search {n}", delay(orders.rebuild_search, n), 5_400 - n)
        self._park(self.add("catalogue", delay(orders.remind, 2025), 172_800))
        for n in range(3):
            self.add(f"receipt {n}", delay(orders.send_receipt, 5140 + 2 * n), 3.4 - n)
        using(every=60).delay(orders.tidy_carts)
        using(cron="30 2 * * *", timezone="Europe/Berlin").delay(orders.close_books)
        using(every=3600).delay(orders.back_up).pause()

    def _park(self, future: Any) -> None:
        """Make it a task of a function that the app has no more. That would take a minute."""
        with sqlite3.connect(self.folder / "delay/journal.db", timeout=DEADLINE) as journal:
            journal.execute(
                "INSERT INTO function (application, name)"
                " SELECT application, 'orders.print_catalogue' FROM task WHERE id = ?",
                (future.id,),
            )
            journal.execute(
                "UPDATE task SET state = 4, reason = ?, parked_at = submitted_at,"
                " function = last_insert_rowid() WHERE id = ?",
                ("no process has the function orders.print_catalogue", future.id),
            )
        journal.close()

    def _begun(self, future: Any) -> None:
        _wait(lambda: future.progress is not None)


def _id_of(label: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"shop:{label}"))


def _wait(look: Callable[[], Any]) -> Any:
    end = time.monotonic() + DEADLINE
    while not (found := look()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return found


def _orders() -> Any:
    """The module of the tasks, as if it were in the shop's own folder."""
    source = ORDERS.read_text()
    linecache.cache[PLACE] = (len(source), None, source.splitlines(keepends=True), PLACE)
    found = sys.modules.get("orders")
    if found is None:
        found = sys.modules["orders"] = types.ModuleType("orders")
        exec(compile(source, PLACE, "exec"), vars(found))
    return found
