"""The page on figures is run: its code, as one program; its tables are compared."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flask_delay import Histogram, PoolStats, Stats, TaskStats

PAGE = (Path(__file__).parents[2] / "docs/figures.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def names_in(heading: str) -> list[str]:
    """The code in the first cells of the table that follows."""
    table = PAGE.partition(heading)[2].partition("\n|")[2].partition("\n\n")[0]
    cells = [row.strip("|").split("|")[0] for row in table.splitlines()[2:]]
    return [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]


def shape(value: object) -> object:
    """What of a figure does not change from run to run."""
    if isinstance(value, dict):
        return {key: shape(it) for key, it in value.items()}
    return value if isinstance(value, int) else float


def test_the_code_tells_what_the_page_says(run_script: Callable[..., Any]) -> None:
    # In a process of its own, because of the registry that the process has.
    assert len(BLOCKS) == 3
    result = run_script(
        BLOCKS[0]
        + BLOCKS[1]
        + "client = app.test_client()\n"
        + "assert client.post('/images/a.png').get_json() == {'image': 'a.png'}\n"
        + "assert background.drain(20)\n"
        + "figures = client.get('/figures').get_data(as_text=True)\n"
        # This makes the journal.
        + "background.pause()\n"
        + "page = client.get('/metrics')\n"
        + "import json\n"
        + "print(json.dumps([json.loads(figures), page.get_data(as_text=True)]))\n"
    )
    assert result.rc == 0, result.err
    figures, page = json.loads(result.out)
    assert figures.keys() == {*names_in("Of now:"), *names_in("Since the process began")}
    (shown,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert shape(figures["tasks"]) == shape(json.loads(shown))
    told = names_in("## Prometheus")
    kinds = dict(re.findall(r"^# TYPE (delay_\w+) (\w+)$", page, re.MULTILINE))
    kept = {name for name in kinds if not name.endswith("_created")}
    assert kept == set(told)
    # The series that one name has.
    most = int(re.findall(r"up to (\d+)\nseries", PAGE)[0])
    assert len(re.findall(r'^delay_.*[{,]task="resize"', page, re.MULTILINE)) == most


def test_types_have_what_there_is() -> None:
    assert Stats.__required_keys__ == {
        *names_in("Of now:"),
        *names_in("Since the process began"),
    }
    assert sorted(PoolStats.__annotations__) == sorted(names_in("Of now:"))
    (shown,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    task = json.loads(shown)["resize"]
    assert TaskStats.__required_keys__ == task.keys()
    assert Histogram.__required_keys__ == task["run"].keys() == task["wait"].keys()
