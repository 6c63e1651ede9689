"""The README is run: its code, its links, its commands and its table of settings."""

import ast
import os
import re
import subprocess
import sys
import threading
import urllib.request
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
    # Ten seconds of it are too long here.
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


def test_first_example_shows_something_under_flask_run(tmp_path: Path) -> None:
    told = re.search(r"`(fake_work: worked) 10 (s on 7)`", README)
    assert told
    (tmp_path / "app.py").write_text(BLOCKS[0].replace("fake_work, 10,", "fake_work, 0.1,"))
    with subprocess.Popen(
        [sys.executable, "-m", "flask", "run", "--port", "0"],
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if not key.startswith("FLASK_")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as server:
        try:
            lines = iter(server.stdout or ())
            (url,) = next(found for line in lines if (found := re.findall(r"http://\S+", line)))
            with urllib.request.urlopen(f"{url}/test?num=7", timeout=20) as answer:
                assert answer.status == 200
            assert next(line for line in lines if line.startswith("fake_work")) == (
                f"{told[1]} 0.1 {told[2]}\n"
            )
        finally:
            server.kill()


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


def test_code_with_a_durable_task(tmp_path: Path) -> None:
    names: dict[str, Any] = {"__name__": __name__, "task": flask_delay.task}
    app = flask.Flask("readme", instance_path=str(tmp_path))
    extension = flask_delay.Delay(app)
    with app.app_context():
        exec(compile(BLOCKS[4], "README.md", "exec"), names)
        future = names["send_receipt"].delay(7)
        assert future.result(20) is None
    assert (tmp_path / "delay" / "journal.db").is_file()
    extension.shutdown()


def test_code_with_times(tmp_path: Path) -> None:
    names: dict[str, Any] = {"using": flask_delay.using, "push": int, "tidy": int}
    app = flask.Flask("readme", instance_path=str(tmp_path))
    extension = flask_delay.Delay(app)
    with app.app_context():
        exec(compile(BLOCKS[5], "README.md", "exec"), names)
    assert names["job"].next_run.second == 0
    assert extension.stats()["held"] == 1
    extension.shutdown(cancel_futures=True)
    assert len(BLOCKS) == 6


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []


def test_settings_are_those_there_are() -> None:
    """All of them, in their order, with the defaults that they have."""
    told = re.findall(r"^\| `(DELAY_\w+)` \| `(.*?)` \|", README, re.MULTILINE)
    known = list(config.settings("DELAY_"))
    assert [key for key, _ in told] == [setting.key for setting in known]
    for (key, shown), setting in zip(told, known, strict=True):
        if key != "DELAY_MAX_WORKERS":
            assert ast.literal_eval(shown) == setting.default, key


def test_commands_are_targets() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    told = re.findall(r"^make (\w+)", README, re.MULTILINE) + re.findall(r"`make ([\w-]+)`", README)
    assert told[:2] == ["demo", "test"]
    assert set(told) <= set(targets)


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 250
