"""People who retry failed tasks and pause functions while processes are killed, and what must hold.

Retries: each attempt of a task that failed has been asked for, and each that was asked for comes.
Pauses: between the answer to a pause and the wish to end it no task of the function is claimed, in
whichever process. A claim raises the epoch of its row, so two looks at the file tell it exactly.
"""

import contextlib
import json
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

from tests.journal.fleet import Fleet
from tests.journal.record import STEP, TIDY, Event, Told, reading

ONE = "pausable"
FAILED = 7


@dataclass
class Acts:
    """What was asked for, and what was seen meanwhile."""

    asked: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    """When a task was asked to run again, by its number."""
    granted: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    """The same, of those that were answered with yes."""
    pauses: int = 0
    """How many pauses were looked at."""
    held: int = 0
    """How many tasks waited at the end of one."""
    problems: list[str] = field(default_factory=list)


@contextlib.contextmanager
def acting(fleet: Fleet, seed: int) -> Iterator[Acts]:
    """People at work until the block ends. Then nothing is paused any more."""
    acts, chance = Acts(), random.Random(seed)
    over = threading.Event()
    faults: list[BaseException] = []

    def act(work: Callable[[], None]) -> None:
        try:
            while not over.wait(0.05):
                work()
        except BaseException as error:
            faults.append(error)

    works = (partial(retry_failed, fleet, acts), partial(hold, fleet, acts, chance))
    threads = [threading.Thread(target=act, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield acts
    finally:
        over.set()
        for thread in threads:
            thread.join()
    if faults:
        raise faults[0]


def finish(fleet: Fleet, acts: Acts) -> bool:
    """Have all tasks run again until none has failed; whether that came."""
    for _ in range(20):
        if not fleet.wait_until_idle():
            return False
        if not retry_failed(fleet, acts):
            return True
    return False


def retry_failed(fleet: Fleet, acts: Acts) -> int:
    """Ask for another attempt of each task that has failed by itself; how many."""
    query = (
        "SELECT id, arguments FROM task JOIN function USING (function)"
        " WHERE state = ? AND name LIKE '%.flawed'"
    )
    with reading(fleet.journal) as connection:
        rows = connection.execute(query, (FAILED,)).fetchall()
    for id, arguments in rows:
        number = json.loads(arguments)["args"][0]
        now = time.monotonic()
        acts.asked[number].append(now)
        with contextlib.suppress(OSError):
            status, answer = fleet.ask("POST", f"/retry/{id}")
            if status == 200:
                acts.granted[number].append(now)
            else:
                # It was not answered before, and runs again or has ended by now.
                assert status in {409, 503}, answer
    return len(rows)


def hold(fleet: Fleet, acts: Acts, chance: random.Random) -> None:
    """Pause for a moment: no task may be claimed in between."""
    name = chance.choice([ONE, ONE, "all"])
    insist(fleet, f"/pause/{name}")
    before = epochs(fleet, name)
    time.sleep(chance.uniform(0.1, 0.8))
    after = epochs(fleet, name)
    acts.problems += [
        f"the task {id} was claimed while {name} was paused"
        for id, epoch in after.items()
        if epoch != before.get(id, 0)
    ]
    acts.pauses += 1
    acts.held += fleet.count(0, 5)
    insist(fleet, f"/resume/{name}")


def insist(fleet: Fleet, path: str) -> None:
    """Ask until there is an answer."""
    while True:
        with contextlib.suppress(OSError):
            status, answer = fleet.ask("POST", path)
            if status == 200:
                return
            assert status == 503, answer
        time.sleep(0.02)


def epochs(fleet: Fleet, name: str) -> dict[str, int]:
    """How often each task of a function was claimed; of all functions, with "all"."""
    # What holds a place of the machine for a plain task is never claimed, and no pause is for it.
    query = "SELECT id, epoch FROM task JOIN function USING (function) WHERE published < 2"
    if name != "all":
        query += f" AND name LIKE '%.{name}'"
    with reading(fleet.journal) as connection:
        return dict(connection.execute(query).fetchall())


def judge(acts: Acts, told: Told, events: list[Event]) -> list[str]:
    """What is wrong with the retries and the pauses, once all has ended."""
    of_task: dict[int, list[Event]] = defaultdict(list)
    for event in events:
        of_task[event.number].append(event)
    problems = list(acts.problems)
    for number, mine in of_task.items():
        if any(it.event == "of=flawed" for it in mine):
            problems += _retries(number, mine, acts, told)
            problems += _tidying(number, mine, of_task, told)
    return problems


def figures(acts: Acts) -> dict[str, object]:
    return {
        "retried by hand": sum(map(len, acts.granted.values())),
        "pauses": acts.pauses,
        "waited in a pause": acts.held,
    }


def _retries(number: int, events: list[Event], acts: Acts, told: Told) -> Iterator[str]:
    """The attempts after a failure that were not asked for, and those that did not come."""
    failure: Event | None = None
    for event in events:
        if event.event == "fail":
            failure = event
        elif event.event == "start" and failure is not None:
            is_asked = any(failure.at < it < event.at for it in acts.asked.get(number, ()))
            # It was killed before that end was stored.
            died = told.killed.get(failure.pid, float("inf"))
            if not is_asked and died > event.at:
                yield f"task {number} has failed and was started again in {event.pid}, unasked"
            failure = None
    starts = [it.at for it in events if it.event == "start"]
    for granted in acts.granted.get(number, ()):
        if not any(it > granted for it in starts):
            yield f"task {number} was to run again, and did not"


def _tidying(
    number: int, events: list[Event], of_task: Mapping[int, list[Event]], told: Told
) -> Iterator[str]:
    """Whether what follows any end has come after one. That it came once is seen elsewhere."""
    last = number - STEP
    if last not in told.accepted:
        return
    tidying = of_task.get(last + TIDY * STEP, [])
    ends = [it.at for it in events if it.event in {"fail", "end"}]
    starts = [it.at for it in tidying if it.event == "start"]
    if not any(it.event == "end" for it in tidying):
        yield f"nothing was tidied up after task {number}"
    if starts and not (ends and starts[0] > ends[0]):
        yield f"it was tidied up after task {number} before its end"
