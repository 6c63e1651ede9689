"""The page on the backends says of their options what the backends do."""

import re
from pathlib import Path

import pytest

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
    rows = re.findall(r"^\| (?:[a-z`].*) \|$", PAGE.split("## What changes")[1], re.MULTILINE)
    assert len(rows) > 10
    assert {row.count(" | ") for row in rows} == {3}
