"""Tasks of the state machine, which do what they are told by files. Some code lacks one of them."""

import os
import time
from functools import partial
from pathlib import Path

from tests.journal import record

from flask_delay import current_task, task

FOLDER = Path(os.environ.get("ACTED", "."))
note = partial(record.note, FOLDER / "record")


def do(number: int) -> None:
    """The one step of a task."""
    note("did=only", number)


def act(number: int) -> int:
    """Wait until the file of the task says how to go on; it counts once."""
    note("start", number)
    kept = current_task.checkpointed or 0
    note(f"from={kept}", number)
    file = FOLDER / f"{number}.go"
    is_stepped = False
    while True:
        current_task.check()
        try:
            how = file.read_text()
        except FileNotFoundError:
            time.sleep(0.003)
            continue
        if how == "finish":
            note("end", number)
            return number
        if how == "checkpoint":
            kept += 1
            current_task.checkpoint(kept)
            note(f"kept={kept}", number)
        elif how == "step" and not is_stepped:
            is_stepped = True
            current_task.step("only", do, number)
            note("stepped=only", number)
        file.unlink()
        if how in {"checkpoint", "step"}:
            continue
        if how == "retry":
            note("again", number)
            current_task.retry(0)
        note("fail", number)
        raise LookupError(number)


always = task(durable=True, name="always")(act)


@task(durable=True, name="after")
def after(number: int, _before: object = None) -> int:
    """The same, after another task, whose result it may get."""
    return act(number)


if "ACTED_OLD" not in os.environ:

    @task(durable=True, name="newer")
    def newer(number: int) -> int:
        """The same, in a process with newer code only."""
        return act(number)
