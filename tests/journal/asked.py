"""How long it takes until a page has the stack of another process's task, and until it is stopped.

`python -m tests.journal.asked`, 50 times each; the other process has no idle worker.
"""

import statistics
import tempfile
import time
from pathlib import Path

from tests.journal.test_elsewhere import Pair

TIMES = 50
CODE = """
@task
def alert():
    while not current_task.cancelled:
        time.sleep(0.0002)
    (folder / "stopped").write_text(str(time.monotonic()))
    current_task.check()

def timed(what, *arguments):
    began = time.monotonic()
    what(*arguments)
    return began, time.monotonic() - began
"""


def told(what: str, taken: list[float]) -> None:
    """Print them in milliseconds."""
    p50, most = statistics.median(taken) * 1e3, max(taken) * 1e3
    print(f"{what:34} p50 {p50:7.2f} ms   max {most:7.2f} ms   ({len(taken)})")


def main(folder: Path) -> None:
    """Print both."""
    pair = Pair(folder, CODE)
    stacks, answers, stops, own = [], [], [], []
    try:
        for _ in range(TIMES):
            id = pair.worker("(its := delay(alert)).id")
            while not pair.page(f"executor.get({id!r}) and executor.get({id!r}).running()"):
                time.sleep(0.01)
            stacks.append(pair.page(f"timed(stack, {id!r})")[1])
            began, taken = pair.page(f"timed(post, '/tasks/{id}/stop')")
            answers.append(taken)
            while not pair.worker("its.done()"):
                time.sleep(0.01)
            stops.append(float((folder / "stopped").read_text()) - began)
            id = pair.page("(its := delay(alert)).id")
            while not pair.page("its.running()"):
                time.sleep(0.01)
            own.append(pair.page(f"timed(stack, {id!r})")[1])
            pair.page("its.stop(0)")
    finally:
        pair.end()
    told("stack, of another process", stacks)
    told("stack, of the process that answers", own)
    told("stop, until the page has answered", answers)
    told("stop, until the task knows", stops)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        main(Path(made))
