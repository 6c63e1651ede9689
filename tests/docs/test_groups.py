"""The page on groups is run: all of its code, as one program."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "groups.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
DEADLINE = 20.0
LINKS = {"/": ["/a", "/b"], "/a": ["/", "/c"]}


@pytest.fixture
def page() -> Iterator[dict[str, Any]]:
    """The names that the page's code defines, and those that it leaves to the reader."""

    def unreachable() -> int:
        raise ConnectionError

    names: dict[str, Any] = {
        "__name__": __name__,
        "price_here": lambda _: 3,
        "price_elsewhere": lambda _: 4,
        "download": lambda url: url * 2,
        "URLS": ["a", "bc"],
        "count_orders": unreachable,
        "count_customers": int,
        "links_of": lambda url: LINKS.get(url, []),
        "SEEN": set(),
        "resize": lambda name, size: f"{name}-{size}",
    }
    for block in BLOCKS:
        exec(compile(block, str(PAGE), "exec"), names)
    names["client"] = names["app"].test_client()
    yield names
    names["executor"].shutdown()


def test_all_of_it(page: dict[str, Any]) -> None:
    client = page["client"]
    assert client.get("/offers/x").json == {"ours": 3, "theirs": 4}
    assert client.get("/mirror").json == {"sizes": [2, 4]}
    assert client.get("/report").json == {"failed": 1}
    assert client.post("/crawl").json == {"pages": ["/", "/a", "/b", "/c"]}
    id = client.post("/pictures/cat").json["task"]
    with page["app"].app_context():
        future = page["executor"].get(id)
    assert future.result(DEADLINE) == ["cat-200", "cat-1600"]
