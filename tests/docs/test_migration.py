"""docs/migration.md: its code is run, and what it says there is, is there."""

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from tests.servers.harness import poll

import flask_delay
from flask_delay import config
from flask_delay.backends import table
from flask_delay.compat import flask_apscheduler, flask_executor, flask_rq, flask_threads
from flask_delay.compat.flask_executor import Settings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/migration.md").read_text()
SECTIONS = {
    part.partition("\n")[0]: re.findall(r"```python\n(.*?)```", part, re.DOTALL)
    for part in re.split(r"^## ", PAGE, flags=re.MULTILINE)
}
# The left column tells of others, the right one of us.
OURS = [
    span
    for row in re.findall(r"^\|[^|]*\|(.*)\|$", PAGE, re.MULTILINE)
    for span in re.findall(r"`([^`]+)`", row)
]
DEADLINE = 20.0
CLASSES = {
    "Delay": flask_delay.Delay,
    "Executor": flask_delay.Executor,
    "current_task": type(flask_delay.current_task),
    "future": flask_delay.Future,
}


def run(*blocks: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "migrated"}
    for block in blocks:
        exec(compile(block, "migration.md", "exec"), names)
    return names


def test_all_code_is_run() -> None:
    assert {name: len(blocks) for name, blocks in SECTIONS.items() if blocks} == {
        "Flask-Executor": 1,
        "Flask-APScheduler": 1,
        "Flask-RQ": 1,
        "Flask-Threads": 1,
        "Dash": 1,
        "`ThreadPoolExecutor`": 2,
        "Celery": 1,
        "Tasks that must not be lost": 6,
    }


def test_coming_from_flask_executor() -> None:
    names = run(*SECTIONS["Flask-Executor"])
    client, executor = names["app"].test_client(), names["executor"]
    assert client.post("/greet/ann").get_json() == {"started": "ann"}
    assert executor.extension.drain(20)
    assert client.get("/greet/ann").get_json() == {"result": "POST /greet/ann: hello ann"}
    assert client.get("/greet/ann").get_json() == {"state": None}
    executor.shutdown()


def test_coming_from_flask_apscheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The folder of a module without a file, where jobs keep their locks.
    monkeypatch.chdir(tmp_path)
    names = run(*SECTIONS["Flask-APScheduler"])
    scheduler = names["scheduler"]
    try:
        scheduler.run_job("clean")
        assert names["cleaned"] == ["migrated"]
        assert scheduler.extension.job("report").schedule == (
            "0 3 * * mon,tue,wed,thu,fri Europe/Berlin"
        )
    finally:
        scheduler.shutdown()
        scheduler.extension.shutdown()


def test_coming_from_flask_rq() -> None:
    names = run(*SECTIONS["Flask-RQ"])
    client, pool = names["app"].test_client(), names["rq"].extension
    id = client.post("/auth/reset/7").get_json()["job"]
    assert pool.drain(DEADLINE)
    told = {"status": "finished", "result": "sent to 7"}
    assert client.get(f"/jobs/{id}").get_json() == told
    pool.shutdown()


def test_coming_from_flask_threads() -> None:
    client = run(*SECTIONS["Flask-Threads"])["app"].test_client()
    assert client.get("/ann").get_json() == {"done": ["ann 2", "ann 3"]}


def test_coming_from_dash() -> None:
    # In a browser: tests/ecosystem/test_dash.py.
    pytest.importorskip("dash")
    names = run(*SECTIONS["Dash"])
    client = names["server"].test_client()
    assert "count" not in client.get("/_dash-dependencies").get_json()[0]["output"]
    assert client.get("/_dash-layout").status_code == HTTPStatus.OK


def test_coming_from_thread_pool_executor() -> None:
    names = run(*SECTIONS["`ThreadPoolExecutor`"])
    assert names["powers"] == [2**n for n in range(8)]
    assert names["squares"] == [n * n for n in range(8)]
    assert 1 <= len(names["log"]) <= 4


def test_coming_from_celery() -> None:
    names = run(*SECTIONS["Celery"])
    client, executor = names["app"].test_client(), names["executor"]
    task = client.post("/add/1/2").get_json()["id"]
    assert executor.drain(20)
    assert client.get(f"/result/{task}").get_json() == {"value": 3}
    assert client.get("/result/other").status_code == 404
    executor.shutdown()


@pytest.fixture
def moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module of the section on durable tasks, in an app context."""
    (tmp_path / "moved.py").write_text("\n".join(SECTIONS["Tasks that must not be lost"]))
    monkeypatch.syspath_prepend(tmp_path)
    moved = importlib.import_module("moved")
    with moved.app.app_context():
        moved.db.create_all()
        yield moved
        moved.db.session.remove()
        moved.db.engine.dispose()
    moved.executor.shutdown()
    del sys.modules["moved"]


def test_coming_from_acks_late_and_delay_on_commit(moved: Any) -> None:
    mailed: list[int] = []
    indexed: list[int] = []
    moved.mail, moved.index = mailed.append, indexed.append
    answer = moved.app.test_client().post("/orders", data={"item": "apple"})
    moved.executor.get(answer.get_json()["task"]).result(DEADLINE)
    assert poll(lambda: indexed == [1])
    assert mailed == [1]
    dropped = [
        moved.using(after_commit=moved.db.session).delay(moved.update_index, 2),
        moved.using(durable=True, within=moved.db.session).delay(moved.send_receipt, 2),
    ]
    moved.db.session.rollback()
    assert all(future.cancelled() for future in dropped)


def test_coming_from_huey(moved: Any) -> None:
    client = moved.app.test_client()
    ids = client.post("/beans/7").get_json()
    for id in ids.values():
        assert client.get(f"/beans/{id}").get_json() == {"result": "counted 7 beans"}
    assert moved.count_beans(1) == "counted 1 beans"


def test_coming_from_rq(moved: Any) -> None:
    def refuse(_picture: str) -> None:
        raise LookupError("no picture")

    moved.convert = refuse
    client = moved.app.test_client()
    future = moved.resize.delay("a.png")
    assert isinstance(future.exception(DEADLINE), LookupError)
    assert poll(lambda: list(client.get("/failed").get_json()) == [future.id])
    assert "no picture" in client.get("/failed").get_json()[future.id]
    moved.convert = str.upper
    assert client.post(f"/failed/{future.id}").get_json() == {"task": future.id}
    assert moved.executor.get(future.id).result(DEADLINE) == "A.PNG"
    assert moved.executor.tasks("failed") == []


def test_coming_from_dbos(moved: Any) -> None:
    paid: list[str] = []

    def pay(_order: int, key: str) -> str:
        paid.append(key)
        return "receipt"

    def fail(_order: int) -> None:
        raise ConnectionError

    moved.pay, moved.send = pay, fail
    client = moved.app.test_client()
    id = client.post("/fulfil/7").get_json()["task"]
    with pytest.raises(ConnectionError):
        moved.executor.get(id).result(DEADLINE)
    # A later attempt does not pay again, nor does a second request.
    moved.send = str
    moved.executor.retry(id)
    assert client.post("/fulfil/7").get_json()["task"] == id
    assert moved.executor.get(id).result(DEADLINE) == ("receipt", "7")
    assert paid == [f"{id} charge"]


def test_coming_from_rails(moved: Any) -> None:
    stored: list[int] = []

    def store(row: int) -> None:
        if row == 2 and stored.count(2) == 0:
            stored.append(row)
            raise LookupError
        stored.append(row)

    moved.load, moved.store = range, store
    first = moved.import_rows.delay(4)
    assert isinstance(first.exception(DEADLINE), LookupError)
    moved.executor.retry(first.id).result(DEADLINE)
    assert stored == [0, 1, 2, 2, 3]
    moved.copy_some_after = lambda last: last + 2
    second = moved.copy_orders.delay(5)
    second.result(DEADLINE)
    [row] = [view for view in moved.executor.tasks() if view.id == second.id]
    assert row.attempts == 1


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_attributes_named_are_there(name: str) -> None:
    found = {
        attribute
        for span in OURS
        for attribute in re.findall(rf"(?<![\w.]){name}(?:\([^)]*\))?\.(\w+)", span)
    }
    assert found, f"the page says nothing of {name}"
    missing = [
        attribute
        for attribute in found
        if not hasattr(CLASSES[name], attribute) and attribute != "__traceback__"
    ]
    assert missing == []


def test_signals_named_are_there() -> None:
    section = PAGE[PAGE.index("`celery.signals`") :]
    rows = re.findall(r"^\|[^|]*\|(.*)\|$", section[: section.index("\n\n")], re.MULTILINE)
    told = {name for row in rows for name in re.findall(r"`(task_\w+)`", row)}
    assert told == {name for name in flask_delay.__all__ if name.startswith("task_")}


@pytest.mark.parametrize(
    ("theirs", "backend"),
    [
        ('`EXECUTOR_TYPE = "process"`', "processes"),
        ("`ProcessPoolExecutor`", "processes"),
        ("`worker_pool`: prefork", "processes"),
        ("Celery itself as the place where tasks run", "celery"),
    ],
)
def test_no_backend_that_is_there_is_denied(theirs: str, backend: str) -> None:
    assert backend in table.names()
    (ours,) = re.findall(rf"^\| {re.escape(theirs)} \|(.*)\|$", PAGE, re.MULTILINE)
    assert f'"{backend}"' in ours
    assert "not yet" not in ours


def test_settings_named_are_there() -> None:
    ours = {setting.key for setting in config.settings("DELAY_")}
    theirs = {setting.key for setting in config.settings("EXECUTOR_", Settings)}
    told = set(re.findall(r"\b(?:DELAY|(?<!MAIL_)EXECUTOR)_[A-Z_]+\b", PAGE))
    assert told - ours - theirs == set()
    # Each key that Flask-Executor has is in the table.
    own = theirs - {key.replace("DELAY_", "EXECUTOR_") for key in ours}
    assert own <= set(re.findall(r"^\| `(\w+)", PAGE, re.MULTILINE))


@pytest.mark.parametrize(
    ("prefix", "kind"),
    [("SCHEDULER_", flask_apscheduler.Settings), ("RQ_", flask_rq.Settings)],
)
def test_settings_of_the_other_layers_are_there(prefix: str, kind: type[config.Config]) -> None:
    general = {setting.name for setting in config.settings(prefix)}
    own = {it.key for it in config.settings(prefix, kind) if it.name not in general}
    told = set(re.findall(rf"`({prefix}[A-Z_]+)\b", PAGE))
    assert own <= told
    assert told - own <= {f"{prefix}{name.upper()}" for name in general} | {"RQ_ASYNC"}


@pytest.mark.parametrize(
    "cls",
    [
        flask_executor.Executor,
        flask_executor.ExecutorJob,
        flask_apscheduler.APScheduler,
        flask_rq.RQ,
        flask_rq.JobWrapper,
        flask_rq.Job,
        flask_threads.AppContextThread,
    ],
)
def test_all_of_a_compatibility_layer_is_mapped(cls: type) -> None:
    left = "\n".join(re.findall(r"^\|([^|]*)\|", PAGE, re.MULTILINE))
    for name, value in inspect.getmembers(cls, inspect.isfunction):
        if not name.startswith("_") and value.__module__.startswith("flask_delay."):
            assert re.search(rf"[.@]?\b{name}\b", left), name
    for name in sys.modules[cls.__module__].__all__:
        assert name in left
