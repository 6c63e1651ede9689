"""The page on the backends says of their options what the backends do."""

import re
from pathlib import Path

import pytest
from tests.backends.installed import Site

from flask_delay.backends import base
from flask_delay.options import KNOWN

PAGE = (Path(__file__).parents[2] / "docs/backends.md").read_text()


def row(name: str) -> list[str]:
    """The cells of a row: threads, processes, Celery."""
    found = re.search(rf"^\| {re.escape(name)} \|(.*)\|$", PAGE, re.MULTILINE)
    assert found, name
    return [cell.strip() for cell in found[1].split("|")]


@pytest.mark.parametrize(("place", "name"), [(1, "processes"), (2, "celery")])
def test_options(place: int, name: str) -> None:
    pytest.importorskip({"processes": "cloudpickle", "celery": "celery"}[name])
    told = re.findall(r"`(\w+)`", row("options")[place])
    assert sorted(told) == sorted(base.kind(name).cannot)
    assert set(told) <= KNOWN.keys()


def test_all_rows_tell_of_all_three() -> None:
    told = PAGE.split("## What changes")[1].split("## Write your own")[0]
    rows = re.findall(r"^\| (?:[a-z`].*) \|$", told, re.MULTILINE)
    assert len(rows) > 10
    assert {row.count(" | ") for row in rows} == {3}


USE = """
from flask import Flask
from flask_delay import Delay, current_task, using

app = Flask("shop")
app.config.update(DELAY_BACKEND="gpu", DELAY_GPUS=2)
background = Delay(app)

def where():
    import threading
    return threading.current_thread().name, current_task.id

if __name__ == "__main__":
    with app.app_context():
        future = background.delay(where)
        print(future.result(20)[0].partition("_")[0], future.result()[1] == future.id)
        try:
            using(request=True).delay(where)
        except ValueError as error:
            print(error)
    background.shutdown()
    print(sorted(background.stats()["tasks"]))
"""


def test_a_backend_of_your_own(tmp_path: Path) -> None:
    module, entry_point = re.findall(r"```(?:python|toml)\n(.*?)```", PAGE, re.DOTALL)
    site = Site(tmp_path)
    site.install("shop_gpu", module, entry_point)
    site.write("shop.py", USE)
    assert site.run("shop.py") == (
        "delay-gpu True\n"
        "the option 'request' is not for this backend: a task on the GPU has no request: pass the"
        " values that it needs\n"
        "['where']\n"
    )
    shown = site.run("-m", "flask", "--app", "shop", "delay", "config", "--explain")
    assert re.search("^DELAY_BACKEND +'gpu' +app.config$", shown, re.MULTILINE)
    assert re.search("^DELAY_GPUS +2 +app.config$", shown, re.MULTILINE)
    assert "    How many GPUs there are.\n    Allowed: an integer of at least 1.\n" in shown
    assert re.search('Allowed: "threads",.* "gpu"', shown)
