"""The page on schedules is run: all of its code, as one program; its table is compared."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from flask import Flask

from flask_delay.options import KNOWN, Repetition

PAGE = Path(__file__).parents[2] / "docs" / "schedules.md"
TEXT = PAGE.read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
OPTIONS = {"countdown", "eta", *Repetition.__annotations__}
DEADLINE = 20.0


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """The names that the page's code defines."""
    names: dict[str, Any] = {"__name__": __name__}
    monkeypatch.setattr(Flask, "auto_find_instance_path", lambda _: str(tmp_path / "instance"))
    for block in BLOCKS:
        exec(compile(block, str(PAGE), "exec"), names)
    names["client"] = names["app"].test_client()
    yield names
    names["background"].shutdown(cancel_futures=True)


def test_later(page: dict[str, Any]) -> None:
    answer = page["client"].post("/users/ann").get_json()
    stats = page["background"].stats()
    assert (stats["held"], stats["queued"]) == (2, 0)
    future = page["background"].get(answer["reminder"])
    assert future.state == "pending"
    url = f"/reminders/{answer['reminder']}"
    assert page["client"].delete(url).get_json() == {"forgotten": True}
    assert future.cancelled()
    assert page["background"].stats()["held"] == 1


def test_again_and_again(page: dict[str, Any], tmp_path: Path) -> None:
    job, report = page["job"], page["background"].jobs[1]
    assert job.next_run.second == 0
    assert timedelta() < job.next_run - datetime.now(UTC) <= timedelta(seconds=60)
    assert report.next_run.astimezone(ZoneInfo("Europe/Berlin")).strftime("%H:%M") == "02:30"
    bill = page["background"].jobs[2]
    assert set(page["client"].get("/jobs").get_json()) == {job.name, report.name, bill.name}
    with page["app"].app_context():
        assert page["report"].delay() is report
    assert page["report"]() == "the report of last night"
    folder = tmp_path / "instance" / "delay"
    assert len(list(folder.glob("*.lock"))) == 2


def test_a_durable_job(page: dict[str, Any], tmp_path: Path) -> None:
    bill = page["background"].job("bill")
    yesterday = datetime.now(UTC) - timedelta(days=1)
    assert bill.run_now().result(DEADLINE) == f"billed {yesterday:%d %B}"
    assert (tmp_path / "instance" / "delay" / "journal.db").exists()
    assert bill.last.done()


def test_by_name(page: dict[str, Any]) -> None:
    client, background = page["client"], page["background"]
    future = background.get(client.post("/jobs/report/run").get_json()["run"])
    assert future.result(DEADLINE) == "the report of last night"
    assert client.post("/jobs/clean/pause").get_json() == {"paused": True}
    assert background.job("clean").next_run is None
    background.job("clean").resume()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"countdown": "5"}, TypeError),
        ({"eta": 5}, TypeError),
        ({"eta": datetime(2030, 1, 1)}, ValueError),  # noqa: DTZ001
        ({"every": 0}, ValueError),
        ({"every": 0.0009}, ValueError),
        ({"cron": "*/90 * * * *"}, ValueError),
        ({"cron": "@reboot"}, ValueError),
        ({"cron": "* * * * * *"}, ValueError),
        ({"cron": "0 0 30 2 *"}, ValueError),
        ({"cron": "* * * * *", "timezone": "Europe/Berlln"}, ValueError),
        ({"every": 60, "missed": "run"}, ValueError),
    ],
)
def test_bad_values(page: dict[str, Any], options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=f"'{list(options)[-1]}'"):
        page["using"](**options)
    with pytest.raises(error, match=f"'{list(options)[-1]}'"):
        page["task"](**options)


def test_options_are_those_there_are() -> None:
    told = re.findall(r"^\| \[`(\w+)=`\]", TEXT, re.MULTILINE)
    assert set(told) == OPTIONS
    assert KNOWN.keys() > OPTIONS
