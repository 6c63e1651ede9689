"""The page on composition is run: all of its code, as one program."""

import re
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "composition.md"
TEXT = PAGE.read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
DEADLINE = 20.0


@pytest.fixture
def page() -> Iterator[dict[str, Any]]:
    """The names that the page's code defines, and those that it leaves to the reader."""
    saved: list[str] = []
    reported: list[Future[Any]] = []
    removed: list[str] = []

    def fetch(name: str) -> str:
        return f"<{name}>"

    def save(page: str) -> str:
        if not saved:
            saved.append("not yet")
            raise ConnectionError
        saved.append(page)
        return page

    def price(name: str) -> int:
        if name == "gone":
            raise LookupError(name)
        return len(name)

    names: dict[str, Any] = {
        "__name__": __name__,
        "fetch": fetch,
        "fetch_draft": fetch,
        "parse": str.upper,
        "save": save,
        "saved": saved,
        "price": price,
        "remove": removed.append,
        "removed": removed,
        "report": reported.append,
        "reported": reported,
    }
    for block in BLOCKS:
        # Seconds would only make the test slow.
        exec(compile(block.replace("backoff=0.5", "backoff=0.001"), str(PAGE), "exec"), names)
    names["client"] = names["app"].test_client()
    with names["app"].app_context():
        yield names
    names["background"].shutdown()


def test_then(page: dict[str, Any]) -> None:
    id = page["client"].post("/pages/x").get_json()["task"]
    future = page["background"].get(id)
    assert future.result(DEADLINE) == "<X>"
    assert future.attempts == 2
    assert page["background"].drain(DEADLINE)
    assert page["reported"] == [future]
    assert page["saved"] == ["not yet", "<X>"]


def test_in_any_case(page: dict[str, Any]) -> None:
    id = page["client"].post("/uploads/x").get_json()["task"]
    assert page["background"].get(id).result(DEADLINE) == "<x>"
    assert page["background"].drain(DEADLINE)
    assert page["removed"] == ["x"]


def test_gather(page: dict[str, Any]) -> None:
    assert page["client"].get("/totals/a+bc+def").get_json() == {"total": 6}
    answer = page["client"].get("/available/a+gone+def").get_json()
    assert answer == {"available": ["a", "def"]}


def test_chain(page: dict[str, Any]) -> None:
    ids = [page["client"].post(f"/drafts/{name}").get_json()["task"] for name in "xyz"]
    futures = [page["background"].get(id) for id in ids]
    assert [future.result(DEADLINE) for future in futures] == ["<X>", "<Y>", "<Z>"]


def test_every_block_is_code_of_the_page() -> None:
    assert len(BLOCKS) == 5


def test_links_lead_somewhere() -> None:
    headings = {it.lower().replace(" ", "-") for it in re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)}
    links = re.findall(r"\]\(#([\w-]+)\)", TEXT)
    assert len(links) == 4
    assert set(links) <= headings
