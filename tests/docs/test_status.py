"""The code of docs/status.md is run, and answers as the page says."""

import inspect
import json
import re
from pathlib import Path

import pytest

from flask_delay import Retry, track

PAGE = (Path(__file__).parents[2] / "docs/status.md").read_text()


@pytest.fixture
def page():
    """The names that the page's code defines, and those that it leaves to the reader."""
    names = {"__name__": __name__, "login_required": lambda: ("who are you?", 401), "write": str}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(block, "docs/status.md", "exec"), names)
    with names["app"].app_context():
        yield names
    names["executor"].shutdown()


def test_the_example_answers_as_shown(page):
    client = page["app"].test_client()
    address = client.post("/exports").get_json()["status"]
    assert page["executor"].drain(20)
    answer = client.get(address).get_json()
    (shown,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert answer == json.loads(shown) | {"id": answer["id"]}
    assert address == f"/tasks/{answer['id']}"
    assert client.get(f"/reports/tasks/{answer['id']}").status_code == 401


def test_what_an_error_says(page):
    def fail():
        raise ValueError("no table 'orders'")

    id = page["executor"].delay(fail).id
    assert page["executor"].drain(20)
    client = page["app"].test_client()
    messages = [
        client.get(f"{address}/{id}").get_json()["error"]["message"]
        for address in ("/tasks", "/admin/tasks")
    ]
    assert messages == ["the task failed", "no table 'orders'"]
    assert f'The message is "{messages[0]}"' in PAGE


def test_progress_in_steps(page):
    seen = []

    def note(*_):
        seen.append(page["current_task"].future.progress)
        return [1, 2]

    page |= {"read": note, "send": note}
    future = page["delay"](page["close_month"], "May")
    future.result(20)
    assert seen == [(0, 3, "reading"), (2, 3, "sending")]
    assert future.progress == (3, 3, "")


def test_a_new_attempt_goes_on_from_there(page):
    stored = []

    def store(row):
        if row == "b" and page["current_task"].attempt == 1:
            raise ConnectionError
        stored.append(row)

    page["store"] = store
    future = page["executor"].using(retry=Retry(1, backoff=0)).delay(page["copy"], "abc")
    future.result(20)
    assert stored == ["a", "b", "c"]
    assert future.progress == (3, 3, "")


def test_track(page):
    stored = []
    page["store"] = stored.append
    future = page["delay"](page["load"], iter("abc"))
    future.result(20)
    assert stored == ["a", "b", "c"]
    assert future.progress == (3, 3, "loading")
    (told,) = re.findall(r"^`track(\(iterable.*?\))`", PAGE, re.MULTILINE)
    here = inspect.signature(track)
    plain = [it.replace(annotation=it.empty) for it in here.parameters.values()]
    assert told == str(inspect.Signature(plain)).replace("'", '"')
