"""The page on Celery is run: its code as a module, in a worker too; its tables are compared."""

import importlib
import re
import shlex
import sys
from dataclasses import fields

import pytest
from tests.celery.harness import DEADLINE, ROOT

from flask_delay.backends.celery import Backend
from flask_delay.backends.celery.settings import Settings

pytestmark = pytest.mark.servers

TEXT = (ROOT / "docs" / "celery.md").read_text()
CODE = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)[0]
COMMANDS = re.findall(r"^(?:flask --app|celery -A) .*$", TEXT, re.MULTILINE)


@pytest.fixture
def shop(tmp_path, monkeypatch, own_redis):
    """The module that the page's code is."""
    url = "redis://localhost:6379/0"
    assert url in CODE
    (tmp_path / "shop.py").write_text(CODE.replace(url, own_redis.url))
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("shop")
    yield module
    module.background.shutdown()
    monkeypatch.delitem(sys.modules, "shop")


def test_code(shop, tmp_path, own_redis, start_worker, caplog):
    caplog.set_level("INFO")
    assert len(COMMANDS) == 2
    command = next(it for it in COMMANDS if it.startswith("celery"))
    worker = start_worker(own_redis.url, command=("-m", *shlex.split(command)), path=tmp_path)
    id = shop.app.test_client().post("/images/cat").get_json()["task"]
    future = shop.background.get(id)
    assert future.result(DEADLINE) == "cat is 100 wide"
    assert future.progress.note == "reading"
    assert shop.background.drain(DEADLINE)
    assert f"{id}: finished" in caplog.text
    assert "shop.resize" in worker.output


def test_settings():
    told = set(re.findall(r"^\| `DELAY_(CELERY_\w+)` \|", TEXT, re.MULTILINE))
    assert told == {it.name.upper() for it in fields(Settings)}


def test_options():
    row = next(line for line in TEXT.splitlines() if "there are no such things" in line)
    assert set(re.findall(r"`(\w+)`", row.split("|")[1])) == set(Backend.cannot)
