"""The page on durable tasks is run, as the module of a program; its tables are compared."""

import importlib
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from tests.servers.harness import poll

import flask_delay
from flask_delay.config import settings
from flask_delay.observe.view import STATES

PAGE = (Path(__file__).parents[2] / "docs/durable.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
DEADLINE = 20.0


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The page's module, in an app context."""
    (tmp_path / "shop.py").write_text("\n".join(BLOCKS))
    monkeypatch.syspath_prepend(tmp_path)
    # Another page's.
    monkeypatch.delitem(sys.modules, "shop", raising=False)
    shop = importlib.import_module("shop")
    with shop.app.app_context():
        yield shop
        shop.db.engine.dispose()
    shop.executor.shutdown()
    del sys.modules["shop"]


def test_the_first_one(shop: Any, tmp_path: Path) -> None:
    sent: list[tuple[int, str]] = []
    shop.send = lambda order, key: sent.append((order, key))
    client = shop.app.test_client()
    answer = client.post("/orders/7")
    assert answer.status_code == 202
    status = answer.get_json()["status"]
    assert poll(lambda: client.get(status).get_json()["state"] == "finished")
    assert sent == [(7, status.removeprefix("/tasks/"))]
    assert (tmp_path / "instance/delay/journal.db").is_file()


def test_not_accepted(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_order: int) -> None:
        raise flask_delay.JournalUnavailable("no space is left")

    monkeypatch.setattr(shop, "send_receipt", type("Task", (), {"delay": staticmethod(refuse)}))
    answer = shop.app.test_client().post("/orders/7")
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "5"


def collected(shop: Any) -> list[int]:
    """How many mailboxes were open at once, for each that is collected from now on."""
    running: list[str] = []
    most: list[int] = []

    def collect(box: str) -> None:
        running.append(box)
        time.sleep(0.02)
        most.append(len(running))
        running.remove(box)

    shop.collect = collect
    return most


def test_at_most_so_many(shop: Any) -> None:
    most = collected(shop)
    futures = [shop.fetch_mail.delay() for _ in range(4)]
    for future in futures:
        future.result(DEADLINE)
    assert most == [1, 1, 1, 1]
    sent: list[str] = []
    shop.gateway = lambda account, text: sent.append(account)
    futures = [shop.send_sms.delay("a", str(number)) for number in range(101)]
    shop.send_sms.delay("b", "0").result(DEADLINE)
    for future in futures[:100]:
        future.result(DEADLINE)
    assert (sent.count("a"), sent.count("b")) == (100, 1)
    assert shop.executor.tasks()[1].waits == "rate"


def test_plain_tasks_on_the_machine(shop: Any) -> None:
    most = collected(shop)
    tasks = (shop.fetch_mail, shop.clear_mailbox)
    futures = [task.delay() for _ in range(4) for task in tasks]
    for future in futures:
        future.result(DEADLINE)
    assert most == [1] * 8
    asked: list[float] = []
    shop.lookup = lambda address: asked.append(time.monotonic())
    futures = [shop.geocode.delay("here") for _ in range(11)]
    for future in futures:
        future.result(DEADLINE)
    assert max(asked) - min(asked) > 0.9


def test_a_row_that_counts_once(shop: Any, tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE booking (task UNIQUE, customer, points)")
    runs: list[None] = []

    @contextmanager
    def database() -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(path)) as connection, connection:
            yield connection
        runs.append(None)
        if len(runs) == 1:
            raise ConnectionError("after the commit")

    shop.database = database
    shop.book.using(retry=flask_delay.Retry(1, backoff=0)).delay("ann", 5).result(DEADLINE)
    assert len(runs) == 2
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT customer, points FROM booking").fetchall() == [("ann", 5)]


def test_with_a_transaction(shop: Any) -> None:
    shop.db.create_all()
    sent: list[int] = []
    shop.send = lambda order, key: sent.append(order)
    client = shop.app.test_client()
    answer = client.post("/orders", data={"item": "apple"})
    assert answer.status_code == 202
    shop.executor.get(answer.get_json()["task"]).result(DEADLINE)
    assert sent == [1]
    found = shop.executor._state().store._outbox()
    found._hand.submit(found._sweep).result(DEADLINE)
    assert shop.db.session.execute(shop.db.text("select id from delay_outbox")).all() == []


def test_a_loop_that_goes_on(shop: Any) -> None:
    rows: list[int] = []

    def write(row: int) -> None:
        if row == 3 and rows.count(2) == 1 and 3 not in rows:
            rows.append(row)
            raise ConnectionError
        rows.append(row)

    shop.write = write
    retry = flask_delay.Retry(1, backoff=0)
    shop.load.using(retry=retry).delay(5).result(DEADLINE)
    # The row in which it failed comes again.
    assert rows == [0, 1, 2, 3, 3, 4]


def test_a_checkpoint_of_ones_own(shop: Any) -> None:
    copied: list[int] = []

    def copy_some_after(last: int) -> int:
        copied.append(last)
        if len(copied) == 2:
            raise ConnectionError
        return last + 10

    shop.copy_some_after = copy_some_after
    retry = flask_delay.Retry(1, backoff=0)
    shop.copy_orders.using(retry=retry).delay(30).result(DEADLINE)
    assert copied == [0, 10, 10, 20]


def test_steps(shop: Any) -> None:
    called: list[object] = []

    def charge_card(order: int) -> dict[str, int]:
        called.append("charge")
        return {"of": order}

    def mail(order: int, receipt: object) -> None:
        called.append((order, receipt))
        if len(called) == 2:
            raise ConnectionError

    shop.charge_card, shop.mail = charge_card, mail
    retry = flask_delay.Retry(1, backoff=0)
    shop.fulfil.using(retry=retry).delay(7).result(DEADLINE)
    assert called == ["charge", (7, {"of": 7}), (7, {"of": 7})]


def test_a_key_that_stays_the_same(shop: Any) -> None:
    keys: list[str] = []

    def post(_path: str, json: Any, headers: dict[str, str]) -> None:
        keys.append(headers["Idempotency-Key"])
        if len(keys) < 3:
            raise ConnectionError

    shop.post = post
    future = shop.charge.using(retry=flask_delay.Retry(5, backoff=0)).delay(7)
    future.result(DEADLINE)
    assert keys == [future.id] * 3


def test_submitted_again(shop: Any) -> None:
    posts: list[Any] = []
    shop.post = lambda _path, json, headers: posts.append(json)
    client = shop.app.test_client()
    first = client.post("/orders/7/payment").get_json()["task"]
    shop.executor.get(first).result(DEADLINE)
    assert client.post("/orders/7/payment").get_json()["task"] == first
    assert client.post("/orders/8/payment").get_json()["task"] != first
    assert poll(lambda: len(posts) == 2)
    with pytest.raises(Exception, match="charge 7"):
        flask_delay.using(once="charge 7").delay(shop.book, "ann", 5)


def test_one_after_another(shop: Any) -> None:
    told: list[Any] = []
    freed: list[int] = []
    shop.find_shelf = lambda order: order * 10
    shop.wrap = lambda order, shelf: f"{order} from {shelf}"
    shop.tell_customer = told.append
    shop.free_shelf = freed.append
    client = shop.app.test_client()
    id = client.post("/orders/7/parcel").get_json()["task"]
    assert shop.executor.get(id).result(DEADLINE) == "7 from 70"
    id = client.post("/parcels/1+2").get_json()["task"]
    shop.executor.get(id).result(DEADLINE)
    assert told == [["1 from 10", "2 from 20"]]
    assert poll(lambda: freed == [7])


def test_many_at_once(shop: Any) -> None:
    sent: list[int] = []
    shop.send = lambda order, key: sent.append(order)
    answer = shop.app.test_client().post("/receipts", data={"until": "700"})
    assert answer.status_code == 202
    assert poll(lambda: sorted(sent) == list(range(700)))


def test_listed_and_run_again(shop: Any) -> None:
    def refuse(_order: int, key: str) -> None:
        raise ConnectionError(key)

    shop.send = refuse
    future = shop.send_receipt.using(retry=0).delay(7)
    assert isinstance(future.exception(DEADLINE), ConnectionError)
    shop.send = lambda _order, key: key
    client = shop.app.test_client()
    entry = {"id": future.id, "name": "send_receipt", "state": "failed", "waits": None}
    assert client.get("/admin/tasks?state=failed").get_json() == [entry]
    assert client.get(f"/admin/tasks?before={future.id}").get_json() == []
    shop.retry_failed()
    shop.executor.get(future.id).result(DEADLINE)
    assert client.get("/admin/tasks").get_json() == [{**entry, "state": "finished"}]


def test_the_states_of_the_table() -> None:
    section = PAGE.partition("### List tasks")[2].partition("###")[0]
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", section, re.MULTILINE)
    named = re.findall(r"`(\w+)`", " ".join(rows))
    assert set(named) - {"state"} == set(STATES)


def test_stopped_by_its_id(shop: Any) -> None:
    written = threading.Event()

    def write(_row: object) -> None:
        written.set()
        time.sleep(0.01)

    shop.write = write
    client = shop.app.test_client()
    id = client.post("/exports").get_json()["task"]
    assert written.wait(DEADLINE)
    assert client.delete(f"/exports/{id}").get_json() == {"stopped": True}
    assert poll(shop.executor.get(id).cancelled)
    assert client.delete("/exports/none").get_json() == {"stopped": False}


def test_a_name_of_its_own(shop: Any, tmp_path: Path) -> None:
    shop.send = lambda order, key: order
    assert shop.receipt.delay(7).result(DEADLINE) is None
    read = (
        "import sqlite3, sys\n"
        "print(*sqlite3.connect(sys.argv[1]).execute('SELECT name FROM function').fetchall())"
    )
    path = tmp_path / "instance/delay/journal.db"
    command = [sys.executable, "-c", read, str(path)]
    assert "mail.receipt" in subprocess.check_output(command, text=True)


CARRIED = {
    "None": None,
    "bool": True,
    "int": 2**70,
    "float": 0.5,
    "str": "é",
    "bytes": b"\xff",
    "list": [1],
    "tuple": (1, (2,)),
    "dict": {(1, 2): {b"k": 1}},
    "set": {1, "a"},
    "frozenset": frozenset({1}),
    "datetime": datetime(2026, 1, 1, tzinfo=UTC),
    "date": datetime(2026, 1, 1, tzinfo=UTC).date(),
    "time": datetime(2026, 1, 1, 1, 2, tzinfo=UTC).timetz(),
    "timedelta": timedelta(1),
    "Decimal": Decimal("1.10"),
    "UUID": uuid4(),
}


def test_what_is_carried(shop: Any) -> None:
    (row,) = re.findall(r"^\| carried \| (.*) \|$", PAGE, re.MULTILINE)
    assert re.findall(r"`(\w+)`", row) == list(CARRIED)
    received: list[Any] = []
    shop.send = lambda order, key: received.append(order)
    shop.send_receipt.delay(CARRIED).result(DEADLINE)
    assert received == [CARRIED]
    assert [type(it) for it in received[0].values()] == [type(it) for it in CARRIED.values()]


class Word(str):
    __slots__ = ()


def outer() -> Any:
    @flask_delay.task
    def inner(_: object) -> None: ...

    return inner


REFUSED = [
    (object(), TypeError, r"argument 1\b"),
    ({"user": [object()]}, TypeError, r"argument 1\['user'\]\[0\]"),
    (Word("a"), TypeError, "str"),
    (float("nan"), TypeError, "nan"),
    ("\ud800", TypeError, "surrogate"),
    ("a" * 1_000_001, ValueError, "DELAY_JOURNAL_MAX_BYTES"),
]


@pytest.mark.parametrize(("value", "error", "text"), REFUSED, ids=[it[2] for it in REFUSED])
def test_arguments_that_are_refused(shop: Any, value: Any, error: Any, text: str) -> None:
    with pytest.raises(error, match=text):
        shop.send_receipt.delay(value)


@pytest.mark.parametrize("fn", [outer(), lambda _: None, [].append])
def test_functions_that_are_refused(shop: Any, fn: Any) -> None:
    with pytest.raises(TypeError):
        flask_delay.using(durable=True).delay(fn, 1)


@pytest.mark.parametrize("option", ["request", "backend"])
def test_options_that_are_refused(option: str) -> None:
    values: dict[str, Any] = {
        "request": True,
        "backend": "celery",
    }
    with pytest.raises(ValueError, match=option):
        options: Any = {option: values[option]}
        flask_delay.using(durable=True, **options)


def test_once_is_refused_without_durable(shop: Any) -> None:
    with pytest.raises(ValueError, match="durable"):
        flask_delay.using(once="a").delay(print)


def test_a_backup(shop: Any, tmp_path: Path) -> None:
    shop.send = lambda order, key: order
    future = shop.send_receipt.delay(7)
    future.result(DEADLINE)
    journal, copy = tmp_path / "instance/delay/journal.db", tmp_path / "backup.db"
    (statement,) = re.findall(r'journal\.db "(VACUUM INTO .*)"', PAGE)
    program = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute(sys.argv[2])"
    command = [sys.executable, "-c", program, str(journal), statement]
    subprocess.run(command, check=True, cwd=tmp_path)
    # As the journal of the same app in another place.
    place = tmp_path / "restored"
    (place / "instance/delay").mkdir(parents=True, mode=0o700)
    copy.rename(place / "instance/delay/journal.db")
    (tmp_path / "shop.py").rename(place / "shop.py")
    program = "import shop, sys; print(shop.executor.get(sys.argv[1]).result(20))"
    command = [sys.executable, "-c", program, future.id]
    assert subprocess.check_output(command, text=True, cwd=place) == "None\n"


def test_settings_are_those_there_are() -> None:
    told = re.findall(r"^\| `(DELAY_\w+)` \| `(.*?)` \|", PAGE, re.MULTILINE)
    known = {
        it.key: repr(it.default).replace("'", '"')
        for it in settings("DELAY_")
        if it.key.startswith("DELAY_JOURNAL") or it.key in {"DELAY_DURABLE", "DELAY_OUTBOX"}
    }
    assert {key: float(it) if it[0].isdigit() else it for key, it in told} == {
        key: float(it) if it[0].isdigit() else it for key, it in known.items()
    }


def test_levels_are_those_there_are() -> None:
    (allowed,) = (it.allowed for it in settings("") if it.key == "JOURNAL_SYNC")
    told = re.findall(r'^\| `("\w+")` \|', PAGE, re.MULTILINE)
    assert told == re.findall(r'"\w+"', allowed)


def test_a_dead_letter(shop: Any, caplog: pytest.LogCaptureFixture) -> None:
    told: dict[str, Any] = {"id": "7", "name": "die", "deaths": 3, "error": RuntimeError("gone")}
    flask_delay.task_dead.send(shop.app, **told)
    assert caplog.messages == ["die (7) has taken 3 processes with it: gone"]


def test_every_block_is_code_of_the_page() -> None:
    assert len(BLOCKS) == 17
