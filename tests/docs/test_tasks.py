"""The page on tasks is run: all of its code, as one program."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from flask_delay import task_failed
from flask_delay.options import KNOWN

PAGE = Path(__file__).parents[2] / "docs" / "tasks.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
DEADLINE = 20.0


class Connection:
    """What the page's `connect` is for."""

    closed = False

    def archive(self, order_id: int) -> int:
        assert not self.closed
        return order_id

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def page() -> Iterator[dict[str, Any]]:
    """The names that the page's code defines."""
    connections: list[Connection] = []

    def connect() -> Connection:
        connections.append(Connection())
        return connections[-1]

    names: dict[str, Any] = {"__name__": __name__, "connect": connect, "made": connections}
    for block in BLOCKS:
        exec(compile(block, str(PAGE), "exec"), names)
    names["client"] = names["app"].test_client()
    yield names
    task_failed.disconnect(names["note"])
    names["background"].shutdown()


def test_after_a_commit(page: dict[str, Any]) -> None:
    class Base(DeclarativeBase):
        pass

    class Report(Base):
        __tablename__ = "report"
        id: Mapped[int] = mapped_column(primary_key=True)

    filled: list[int] = []
    engine = create_engine("sqlite://")
    with page["app"].app_context(), Session(engine) as session:
        Base.metadata.create_all(session.connection())
        page.update(db=SimpleNamespace(session=session), fill=filled.append)
        page["begin"](Report()).result(DEADLINE)
    engine.dispose()
    assert filled == [1]


def test_contexts(page: dict[str, Any]) -> None:
    id = page["client"].post("/orders/7/archive").get_json()["task"]
    assert page["background"].get(id).result(DEADLINE) == 7
    (connection,) = page["made"]
    assert connection.closed


def test_an_id_of_your_own(page: dict[str, Any]) -> None:
    id = page["client"].post("/exports").get_json()["task"]
    assert page["background"].get(id).result(DEADLINE) is None
    assert page["jobs"] == {id: {"state": "exported"}}


def test_the_request_copied(page: dict[str, Any]) -> None:
    answer = page["client"].post("/audit", json={"name": "x"}, headers={"User-Agent": "me"})
    assert answer.get_json()["name"] == "x"
    future = page["background"].get(answer.get_json()["task"])
    assert future.result(DEADLINE) == ("POST", "/audit", "me", {"name": "x"})


def test_task(page: dict[str, Any]) -> None:
    results: list[str] = []
    page["background"].add_default_done_callback(lambda future: results.append(future.result()))
    answer = page["client"].post("/pictures/a.png").get_json()
    assert answer == {"now": "a.png@200", "sizes": ["a.png@50", "a.png@400"]}
    assert page["background"].drain(DEADLINE)
    assert sorted(results) == ["a.png@100", "a.png@400", "a.png@50", "ann did POST /pictures/a.png"]
    assert page["thumbnail"].__doc__ == "Make a small picture."


def test_methods(page: dict[str, Any]) -> None:
    answer = page["client"].post("/mail").get_json()
    assert answer == {"sent": "ann to ben", "ping": "ping to all"}


def test_signals(page: dict[str, Any]) -> None:
    with page["app"].app_context():
        future = page["delay"](divmod, 1, 0)
    error = future.exception(DEADLINE)
    assert page["background"].drain(DEADLINE)
    assert page["failures"] == [("divmod", error)]


def test_sentry(page: dict[str, Any]) -> None:
    if importlib.util.find_spec("sentry_sdk") is None:
        pytest.skip("sentry-sdk is not installed")
    assert page["background"].delay(page["charge"], "ann").result(DEADLINE) == "ann charged"


def test_options_are_those_there_are() -> None:
    table = (
        PAGE.read_text()
        .partition("\n## Options\n")[2]
        .partition("\n| --- |")[2]
        .partition("\n\n")[0]
    )
    told = [
        name for row in table.splitlines()[1:] for name in re.findall(r"`(\w+)=", row.split("|")[1])
    ]
    assert sorted(set(told)) == sorted(KNOWN)


def test_every_block_is_code_of_the_page() -> None:
    assert len(BLOCKS) == 8
