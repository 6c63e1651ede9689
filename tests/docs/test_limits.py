"""The page on limits is run: all of its code, as one program; its tables are compared."""

import dataclasses
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_delay import Retry, TaskTimeout
from flask_delay.config import Config, settings
from flask_delay.options import KNOWN, Repetition

PAGE = Path(__file__).parents[2] / "docs" / "limits.md"
TEXT = PAGE.read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
DEADLINE = 20.0
# More than the page's limit, and few enough to be occupied.
WORKERS = 6


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The names that the page's code defines, and those that it leaves to the reader."""
    end = threading.Event()
    names: dict[str, Any] = {"__name__": __name__, "end": end}
    config = {**Flask.default_config, "DELAY_MAX_WORKERS": WORKERS}
    monkeypatch.setattr(Flask, "default_config", config)
    for block in BLOCKS:
        exec(compile(block, str(PAGE), "exec"), names)
    names["client"] = names["app"].test_client()
    with names["app"].app_context():
        yield names
    end.set()
    names["background"].shutdown()


def occupy(page: dict[str, Any]) -> list[threading.Event]:
    """Keep all workers busy, each until its event is set."""
    started, ends = threading.Semaphore(0), [threading.Event() for _ in range(WORKERS)]

    def wait(end: threading.Event) -> None:
        started.release()
        end.wait(DEADLINE)

    for it in ends:
        page["delay"](wait, it)
    for _ in ends:
        assert started.acquire(timeout=DEADLINE)
    return ends


def test_a_bound_on_the_queue(page: dict[str, Any]) -> None:
    ends = occupy(page)
    page["render"] = int
    answers = [page["client"].post(f"/reports/{number}") for number in range(103)]
    assert [it.status_code for it in answers] == [202] * 100 + [503] * 3
    assert answers[-1].headers["Retry-After"] == "5"
    assert page["background"].stats()["queued"] == 100
    for it in ends:
        it.set()


def test_priority(page: dict[str, Any]) -> None:
    started: list[str] = []
    page["reindex"] = lambda number: started.append(f"reindex {number}")
    page["receipt"].__wrapped__ = lambda number: started.append(f"receipt {number}")
    first, *others = occupy(page)
    for number in (1, 2):
        assert page["client"].post(f"/orders/{number}").get_json() == {"order": number}
        page["delay"](started.append, "plain")
    # One worker does it all.
    first.set()
    while page["background"].stats()["queued"]:
        time.sleep(0.001)
    for it in others:
        it.set()
    assert page["background"].drain(DEADLINE)
    assert started == [*("receipt 1", "receipt 2"), *["plain"] * 2, "reindex 1", "reindex 2"]


def test_limit_and_rate(page: dict[str, Any]) -> None:
    running, most = [0], [0]
    lock = threading.Lock()

    def work(_: str) -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.01)
        with lock:
            running[0] -= 1

    fetch = page["fetch"]
    fetch.__wrapped__ = work
    list(fetch.map(["url"] * 30, timeout=DEADLINE))
    assert most[0] <= 4


def test_one_at_a_time_for_each_account(page: dict[str, Any]) -> None:
    sync, begun = page["sync"], threading.Semaphore(0)

    def work(_: int) -> None:
        begun.release()
        page["end"].wait(DEADLINE)

    sync.__wrapped__ = work
    futures = [sync.delay(account) for account in (1, 1, 2)]
    assert begun.acquire(timeout=DEADLINE)
    assert begun.acquire(timeout=DEADLINE)
    assert [it.state for it in futures] == ["running", "pending", "running"]
    assert page["background"].stats()["held"] == 1


def test_unique(page: dict[str, Any]) -> None:
    rebuild = page["rebuild"]
    rebuild.__wrapped__ = lambda _: page["end"].wait(DEADLINE)
    first = rebuild.delay("a")
    assert rebuild.delay("a") is first
    assert rebuild.delay("b") is not first
    page["end"].set()
    first.result(DEADLINE)
    assert rebuild.delay("a") is not first


def test_timeout(page: dict[str, Any]) -> None:
    def read(_: str) -> Iterator[str]:
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            yield from ()

    page |= {"read": read, "clean": str.upper}
    assert isinstance(
        page["scrape"].using(timeout=0.1).delay("url").exception(DEADLINE), TaskTimeout
    )
    page["read"] = lambda _: ["line"]
    assert page["scrape"].delay("url").result(DEADLINE) == ["LINE"]


def test_stopping(page: dict[str, Any]) -> None:
    written = threading.Event()

    def write(_: int) -> None:
        written.set()
        time.sleep(0.001)

    page["write"] = write
    id = page["client"].post("/exports").get_json()["task"]
    assert written.wait(DEADLINE)
    assert page["client"].delete(f"/exports/{id}").get_json() == {"stopped": True}
    assert page["background"].drain(DEADLINE)
    assert page["background"].get(id).cancelled()
    assert page["client"].delete(f"/exports/{id}").get_json() == {"stopped": False}


def test_retries(page: dict[str, Any]) -> None:
    def send(order: int, attempt: int) -> str:
        if attempt < 3:
            raise ConnectionError(attempt)
        return f"{order} sent"

    page["send"] = send
    push = page["push"].using(retry=Retry(5, backoff=0.01, on=ConnectionError))
    future = push.delay(7)
    assert future.result(DEADLINE) == "7 sent"
    assert future.attempts == 3


def test_a_task_that_comes_back(page: dict[str, Any]) -> None:
    answers = [None, None, "done"]
    page["ask"] = lambda _job: answers.pop(0)
    future = page["delay"](page["poll"], "job")
    assert future.result(DEADLINE) == "done"
    assert future.attempts == 3


def test_waiting_for_other_tasks(page: dict[str, Any]) -> None:
    assert page["client"].get("/total/a+bc+def").get_json() == {"total": 6}


def test_every_block_is_code_of_the_page() -> None:
    assert len(BLOCKS) == 9


def rows(heading: str) -> list[list[str]]:
    """The rows below a heading's first table head, cell by cell."""
    table = f"\n{TEXT}".partition(f"\n{heading}")[2].partition("\n|")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()[2:]]


def test_options_are_those_there_are() -> None:
    told = {re.match(r"\[`(\w+)=`\]", row[0])[1] for row in rows("# Limits")}  # type: ignore[index]
    # The others are those of tasks.md, streams.md, durable.md and schedules.md.
    others = {"backend", "request", "id", "countdown", "eta", "durable", "once"}
    others |= {"within", "after_commit", "stream_wait"}
    others |= Repetition.__annotations__.keys()
    assert told == KNOWN.keys() - others


def test_fields_of_retry_are_those_there_are() -> None:
    told = {row[0].strip("`"): row[2].strip("`") for row in rows("## Retries")}
    default = {field.name: field.default for field in dataclasses.fields(Retry)}
    shown = {name: getattr(it, "__name__", str(it)) for name, it in default.items()}
    assert told == shown | {"unless": "none", "waits": "none"}


def test_ways_of_a_full_queue_are_those_there_are() -> None:
    allowed = next(it.allowed for it in settings("") if it.key == "WHEN_FULL")
    told = [row[0].split()[0].strip("`") for row in rows("## A bound")]
    assert told == re.findall(r'"\w+"', allowed)
    assert Config().when_full == "block"
