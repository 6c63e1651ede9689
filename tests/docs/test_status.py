"""The code of docs/status.md is run, and answers as the page says."""

import json
import re
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs/status.md").read_text()


def test_the_example_answers_as_shown():
    names = {"__name__": __name__, "login_required": lambda: ("who are you?", 401)}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(block, "docs/status.md", "exec"), names)
    client = names["app"].test_client()
    address = client.post("/exports").get_json()["status"]
    assert names["executor"].drain(20)
    answer = client.get(address).get_json()
    (shown,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert answer == json.loads(shown) | {"id": answer["id"]}
    assert address == f"/tasks/{answer['id']}"
    assert client.get(f"/reports/tasks/{answer['id']}").status_code == 401
    names["executor"].shutdown()
