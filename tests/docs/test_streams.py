"""The page on streams is run: all of its code, as one program."""

import asyncio
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from flask_delay import Retry, StreamLagged, current_task, delay, using
from flask_delay.config import settings

PAGE = Path(__file__).parents[2] / "docs" / "streams.md"
TEXT = PAGE.read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
DEADLINE = 20.0
WORDS = ["I", "am", "well"]


class Model:
    """What the page's `model` is for."""

    def ask(self, _question: str) -> Iterator[str]:
        yield from WORDS


@pytest.fixture
def page() -> Iterator[dict[str, Any]]:
    """The names that the page's code defines, and those that it leaves to the reader."""
    names: dict[str, Any] = {"__name__": __name__, "model": Model(), "text": "?"}
    for block in BLOCKS:
        exec(compile(block, str(PAGE), "exec"), names)
    with names["app"].app_context():
        yield names
    names["executor"].shutdown()


def test_a_page_that_asks_again_gets_all_words(page: dict[str, Any]) -> None:
    client = page["app"].test_client()
    id = client.post("/questions").json["task"]
    found: list[str] = []
    last, done = 0, False
    while not done:
        reply = client.get(f"/questions/{id}?after={last}").json
        found += reply["words"]
        last, done = reply["last"], reply["done"]
    assert found == WORDS
    assert page["executor"].get(id).result(DEADLINE) == len(WORDS)


def test_readers(page: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    future = delay(page["answer"], "?")
    page["show"](future)
    asyncio.run(page["show_async"](future))
    page["go_on"](future, 1)
    assert capsys.readouterr().out.split() == [*WORDS, *WORDS, "2", "am", "3", "well"]


def test_a_decorator_that_iterates(page: dict[str, Any]) -> None:
    future = delay(page["timed"](page["answer"]), "?")
    assert list(future.stream()) == WORDS
    assert future.result(DEADLINE) == len(WORDS)


def test_a_slow_reader(page: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    future = delay(range_of, 1010)
    future.result(DEADLINE)
    with pytest.raises(StreamLagged):
        next(future.stream())
    page["show_most"](future)
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "... 10 words missed, on from number 11 ..."
    assert told[1:] == [str(number) for number in range(10, 1010)]


def range_of(most: int) -> Iterator[int]:
    yield from range(most)


def test_one_that_waits(page: dict[str, Any]) -> None:
    stream = page["rows"].delay().stream()
    assert list(stream) == list(range(5000))


def test_only_the_last_attempt(page: dict[str, Any]) -> None:
    def work() -> Iterator[int]:
        yield 1
        if current_task.attempt == 1:
            raise ValueError("made to fail")
        yield 2

    assert page["latest"](using(retry=Retry(1, backoff=0)).delay(work)) == [1, 2]


def test_the_settings() -> None:
    named = dict(re.findall(r"\| `DELAY_(\w+)` \| ([\d,]+) \|", TEXT))
    known = {it.key: it.default for it in settings("") if it.key.startswith("STREAM_")}
    assert {name: int(value.replace(",", "")) for name, value in named.items()} == known


def test_in_the_browser(page: dict[str, Any]) -> None:
    client = page["app"].test_client()
    id = client.post("/questions").json["task"]
    assert page["executor"].get(id).result(DEADLINE) == len(WORDS)
    events = client.get(f"/streams/{id}/events").text
    assert re.findall(r"^event: item\nid: (\d)\ndata: (.*)$", events, re.MULTILINE) == [
        (str(number + 1), f'"{word}"') for number, word in enumerate(WORDS)
    ]
    assert "function followTask(" in client.get("/streams/stream.js").text
    assert client.get(f"/own/streams/{id}/events").status_code == 403
    page["app"].secret_key = "secret"
    with client.session_transaction() as session:
        session["answers"] = [id]
    assert client.get(f"/own/streams/{id}/items").json["ended"] is True


def test_what_the_page_calls_is_in_the_script() -> None:
    script = (files("flask_delay.streams") / "stream.js").read_text()
    told = re.findall(r"^\| `(\w+)\((?:\w+(?:, )?)+\)` \|", TEXT, re.MULTILINE)
    assert told == ["item", "progress", "attempt", "lagged", "unreadable", "end", "error"]
    assert all(f'"{name}"' in script for name in told)
