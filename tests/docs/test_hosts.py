"""Nothing in here names the host of a package registry: which one it is, the machine knows."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOST = re.compile(r"deb\.debian\.org|pypi\.org|pythonhosted\.org|npmjs\.org|static\.rust-lang\.org")


@pytest.mark.parametrize(
    "folder", ["benchmarks", "docs", "examples", "python", "requirements", "src", "tests"]
)
def test_no_host_of_a_registry(folder: str) -> None:
    named = [
        str(path)
        for path in [*(ROOT / folder).rglob("*"), ROOT / "Makefile", ROOT / "pyproject.toml"]
        if path.is_file() and HOST.search(path.read_text(errors="replace"))
    ]
    assert named == []
