"""Which process and which worker runs a durable task, below the options of `using`."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flask_delay import Executor, Future, current_task
from flask_delay._native import _Journal


def add(a: int, b: int = 1) -> int:
    return a + b


class Site:
    """A journal with an executor of one worker; `add` and `ask` are its tasks."""

    def __init__(self, folder: Path) -> None:
        self.executor = Executor(max_workers=1)
        self.functions: dict[str, Callable[..., Any]] = {"add": add, "ask": self.ask}
        self.path = folder / "journal.db"
        self.journal = self.open()
        self.journal.know(list(self.functions))
        self.journal.start()

    def open(self) -> _Journal:
        return _Journal(
            self.executor,
            str(self.path),
            app="test",
            sync="never",
            keep=3600,
            limit=1000,
            deaths=3,
            max_bytes=1_000_000,
            timeout=30,
            waiting=0,
            code="0",
            publish=False,
            revive=lambda name, options: (self.functions[name], None, None),
            lane=lambda fn: fn.__name__,
            encode_error=lambda error: json.dumps(str(error)),
            decode_error=RuntimeError,
            dead=lambda id, name, deaths, error: None,
            obey=lambda number, verb, target, actor, is_open: None,
            show=lambda: None,
        )

    def submit(self, name: str, *args: Any, **kwargs: Any) -> Future[Any]:
        fn = self.functions[name]
        return self.journal.submit(name, 0, None, None, None, False, None, fn, *args, **kwargs)

    def ask(self, number: int) -> Any:
        """Submit a task and wait for it."""
        return self.submit("add", number).result(10)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.executor.shutdown()
    made.journal.close()


def test_task_waits_for_another_on_the_only_worker(site: Site) -> None:
    for number in range(20):
        assert site.submit("ask", number).result(10) == number + 1


def test_plain_task_waits_for_a_durable_one(site: Site) -> None:
    assert site.executor.submit(site.ask, 5).result(10) == 6


def test_tasks_follow_each_other_without_a_pause(site: Site) -> None:
    site.functions["nap"] = lambda: time.sleep(0.01)
    site.journal.know(["nap"])
    began = time.monotonic()
    for future in [site.submit("nap") for _ in range(50)]:
        future.result(30)
    # The journal looks for work each second; without wake-ups this would take 50 s.
    assert time.monotonic() - began < 10


def test_worker_that_was_busy_takes_what_waits(site: Site) -> None:
    busy = site.executor.submit(time.sleep, 0.3)
    durable = [site.submit("add", number) for number in range(5)]
    assert [future.result(10) for future in durable] == [1, 2, 3, 4, 5]
    assert busy.done()


def test_journal_that_two_threads_have_opened(site: Site) -> None:
    """One of them drops its own, and that must not be the one that workers wake."""
    gate = threading.Event()
    site.functions["hold"] = lambda: gate.wait(10)
    site.journal.know(["hold"])
    future = site.submit("hold")
    assert site.open().get(future.id) is future
    gate.set()
    assert future.result(10) is True


def test_last_progress_is_kept(site: Site) -> None:
    def count() -> None:
        for number in range(1, 5):
            current_task.progress(number, 4)

    site.functions["count"] = count
    site.journal.know(["count"])
    future = site.submit("count")
    future.result(10)
    view = site.journal.view(future.id)
    assert view is not None
    assert view["progress"] == (4, 4, "")


def test_handle_of_a_task_that_has_ended(site: Site) -> None:
    future = site.submit("add", 1, b=2)
    assert future.result(10) == 3
    found = site.journal.get(future.id)
    assert found is not None
    assert (found.result(0), found.state, found.attempts, found.name) == (3, "finished", 1, "add")
    assert site.journal.get("no such id") is None
