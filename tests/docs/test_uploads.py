"""The page on uploads is run: all of its code, as one program; its table is compared."""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_delay.config import settings

PAGE = Path(__file__).parents[2] / "docs" / "uploads.md"
TEXT = PAGE.read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
DEADLINE = 20.0


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """The names that the page's code defines."""
    names: dict[str, Any] = {"__name__": __name__}
    (tmp_path / "instance").mkdir()
    monkeypatch.setattr(Flask, "auto_find_instance_path", lambda _: str(tmp_path / "instance"))
    for block in BLOCKS:
        exec(compile(block, str(PAGE), "exec"), names)
    yield names
    names["background"].shutdown()


def result(page: dict[str, Any], id: str) -> Any:
    return page["background"].get(id).result(DEADLINE)


def test_a_file(page: dict[str, Any]) -> None:
    rows = b"a,b\n" * 300_000
    client = page["app"].test_client()
    answer = client.post("/reports", data={"report": (io.BytesIO(rows), "a.csv")})
    answer.request.environ["wsgi.input"].close()
    assert result(page, answer.get_json()["task"]) == 300_000


def test_files(page: dict[str, Any], tmp_path: Path) -> None:
    files = [(io.BytesIO(b"1"), "a.mp4"), (io.BytesIO(b"2"), "b.mp4")]
    answer = page["app"].test_client().post("/videos", data={"video": files}).get_json()
    found = [result(page, id) for id in answer["tasks"]]
    folder = re.escape(str(tmp_path / "instance/delay/uploads"))
    assert all(re.fullmatch(rf"ffmpeg -i {folder}/\S+/0\.mp4 -crf 23", it) for it in found)


def test_settings() -> None:
    told = dict(re.findall(r"^\| `(DELAY_\w+)` \| `(.*?)` \|", TEXT, re.MULTILINE))
    known = {it.key: repr(it.default) for it in settings("DELAY_") if "UPLOAD" in it.key}
    assert told == known


def test_every_block_is_code_of_the_page() -> None:
    assert len(BLOCKS) == 2
