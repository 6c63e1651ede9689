"""docs/migration.md: its code is run, and what it says there is, is there."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import flask_delay
from flask_delay import config
from flask_delay.backends import table
from flask_delay.compat import flask_executor
from flask_delay.compat.flask_executor import Settings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/migration.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
# The left column tells of others, the right one of us.
OURS = [
    span
    for row in re.findall(r"^\|[^|]*\|(.*)\|$", PAGE, re.MULTILINE)
    for span in re.findall(r"`([^`]+)`", row)
]
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
    assert len(BLOCKS) == 4


def test_coming_from_flask_executor() -> None:
    names = run(BLOCKS[0])
    client, executor = names["app"].test_client(), names["executor"]
    assert client.post("/greet/ann").get_json() == {"started": "ann"}
    assert executor.extension.drain(20)
    assert client.get("/greet/ann").get_json() == {"result": "POST /greet/ann: hello ann"}
    assert client.get("/greet/ann").get_json() == {"state": None}
    executor.shutdown()


def test_coming_from_thread_pool_executor() -> None:
    names = run(BLOCKS[1], BLOCKS[2])
    assert names["powers"] == [2**n for n in range(8)]
    assert names["squares"] == [n * n for n in range(8)]
    assert 1 <= len(names["log"]) <= 4


def test_coming_from_celery() -> None:
    names = run(BLOCKS[3])
    client, executor = names["app"].test_client(), names["executor"]
    task = client.post("/add/1/2").get_json()["id"]
    assert executor.drain(20)
    assert client.get(f"/result/{task}").get_json() == {"value": 3}
    assert client.get("/result/other").status_code == 404
    executor.shutdown()


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


def test_all_of_the_compatibility_layer_is_mapped() -> None:
    left = "\n".join(re.findall(r"^\|([^|]*)\|", PAGE, re.MULTILINE))
    for cls in (flask_executor.Executor, flask_executor.ExecutorJob):
        for name, _ in inspect.getmembers(cls, inspect.isfunction):
            if not name.startswith("_"):
                assert re.search(rf"[.@]?\b{name}\b", left), name
    for name in flask_executor.__all__:
        assert name in left
