"""The README is run: its code, its links, its commands and its table of settings."""

import re
import threading
from pathlib import Path
from typing import Any

import flask
import pytest

import flask_delay
from flask_delay import config

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
PAGES = [
    path
    for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md", "benchmarks/*.md")
    for path in ROOT.glob(pattern)
    if path.is_file()
]


def test_code_of_the_app() -> None:
    reported = threading.Event()
    names: dict[str, Any] = {"__name__": __name__}
    exec(compile(BLOCKS[0], "README.md", "exec"), names)
    app = names["app"]
    work: list[tuple[float, str | None]] = []
    # The app's own work, of ten seconds, is not shown.
    names["fake_work"] = lambda seconds, num=None: work.append((seconds, num))
    report = names["report"]

    def report_and_tell(future: flask_delay.Future[Any]) -> None:
        report(future)
        reported.set()

    names["report"] = report_and_tell
    answer = app.test_client().get("/test?num=7")
    assert answer.get_json()["msg"] == "ok"
    assert reported.wait(20)
    assert work == [(10, "7")]
    names["executor"].shutdown()


def test_code_inside_a_task() -> None:
    names: dict[str, Any] = {}
    exec(compile(BLOCKS[1], "README.md", "exec"), names)
    with flask_delay.Executor(1) as executor:
        future = executor.submit(names["digest"], [1, 2])
        future.result(20)
    assert future.progress == (2, 2, "sent")


def test_code_with_task_and_using() -> None:
    audited: list[str] = []
    names: dict[str, Any] = {"audit": lambda: audited.append(flask.request.path)}
    app = flask.Flask("readme")
    extension = flask_delay.Delay(app)
    with app.test_request_context("/path"):
        exec(compile(BLOCKS[2], "README.md", "exec"), names)
    assert extension.drain(20)
    extension.shutdown()
    assert audited == ["/path"]
    assert names["thumbnail"]("a.png") is None


def test_code_with_limits_and_deadlines() -> None:
    names: dict[str, Any] = {"task": flask_delay.task, "using": flask_delay.using}
    app = flask.Flask("readme")
    extension = flask_delay.Delay(app)
    with app.app_context():
        exec(compile(BLOCKS[3], "README.md", "exec"), names)
        assert names["push"].delay(7).result(20) is None
    assert extension.drain(20)
    extension.shutdown()


def test_code_with_times(tmp_path: Path) -> None:
    names: dict[str, Any] = {"using": flask_delay.using, "push": int, "tidy": int}
    app = flask.Flask("readme", instance_path=str(tmp_path))
    extension = flask_delay.Delay(app)
    with app.app_context():
        exec(compile(BLOCKS[4], "README.md", "exec"), names)
    assert names["job"].next_run.second == 0
    assert extension.stats()["held"] == 1
    extension.shutdown(cancel_futures=True)
    assert len(BLOCKS) == 5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []


def test_settings_are_those_there_are() -> None:
    told = re.findall(r"^\| `(DELAY_\w+)`", README, re.MULTILINE)
    # Those of a backend are told where that is.
    others = [
        key
        for page in (ROOT / "docs").glob("*.md")
        for key in re.findall(r"^\| `(DELAY_\w+)` \|", page.read_text(), re.MULTILINE)
    ]
    known = [setting.key for setting in config.settings("DELAY_")]
    assert set(told) | set(others) == set(known)
    assert told == [key for key in known if key in told]


def test_commands_are_targets() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    told = re.findall(r"^make (\w+)", README, re.MULTILINE)
    assert told == ["demo", "test"]
    assert set(told) <= set(targets)


def test_it_is_short() -> None:
    assert len(README.splitlines()) < 200
