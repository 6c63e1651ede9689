"""The page on worker processes is run: its code, as the module of a program."""

import importlib
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flask_delay.config import settings

PAGE = (Path(__file__).parents[2] / "docs/processes.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
DEADLINE = 20.0


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The page's module, where its worker processes find it."""
    (tmp_path / "shop.py").write_text(BLOCKS[0])
    monkeypatch.syspath_prepend(tmp_path)
    # Another page's.
    monkeypatch.delitem(sys.modules, "shop", raising=False)
    shop = importlib.import_module("shop")
    yield shop
    shop.background.shutdown()
    del sys.modules["shop"]


def test_the_example(shop: Any) -> None:
    client = shop.app.test_client()
    number = 1_000_003 * 1_000_033
    id = client.post(f"/factors/{number}").get_json()["task"]
    end = time.monotonic() + DEADLINE
    while (answer := client.get(f"/tasks/{id}").get_json())["state"] != "finished":
        assert time.monotonic() < end
        time.sleep(0.01)
    assert answer["result"] == [1_000_003, 1_000_033]


def test_settings() -> None:
    told = dict(re.findall(r"^\| `(DELAY_\w+)` \| `(.*?)` \|", PAGE, re.MULTILINE))
    known = {it.key: repr(it.default).replace("'", '"') for it in settings("DELAY_")}
    assert told == {
        key: known[key]
        for key in known
        if key in {"DELAY_BACKEND", "DELAY_APP"} or key.startswith("DELAY_PROCESSES")
    }


def test_every_block_is_code_of_the_page() -> None:
    assert len(BLOCKS) == 1
