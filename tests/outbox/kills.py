"""Kill processes between their commits and the journal, and see that each row has one task.

`python -m tests.outbox.kills COUNT [DATABASE] [SEED]`, or `make kills-outbox`. DATABASE is "sqlite"
or "postgres". Processes insert orders and submit a task for each, in transactions that are
committed, rolled back, or partly rolled back. They are killed at random moments, by the test and,
at the very moments that matter, by themselves: before the journal hears of a task, and before the
row of a task is deleted. Exit code 1 if an order has not exactly one task, or a task no order.
"""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, func, select
from tests.outbox import postgres, shop
from tests.outbox.shop import Order, db

from flask_delay import task, using
from flask_delay.journal import outbox

ROOT = Path(__file__).parents[2]
PROCESSES = 2
# Of one transaction; and the chance of a process to die at each moment that matters.
MOST, DEATH = 4, 0.06
# The rows of many tasks are deleted at once.
RARE_DEATH = 0.2
# Seconds between two looks at the processes; and the chance of one to be killed at a look.
PAUSE, STRIKE = 0.02, 0.05
# Far more than it takes: it turns a hang into a failure.
DEADLINE = 120.0


@task(name="outbox.mark")
def mark(number: int) -> int:
    note(Path(os.environ["OUTBOX_FOLDER"]) / "marks", number)
    return number


def note(path: Path, what: object) -> None:
    """Add a line that survives a kill."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, f"{what}\n".encode())
    os.close(file)


def read(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


# --- A process ----------------------------------------------------------------------


class Life:
    """The random choices of one process."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder
        self.chance = random.Random(seed)

    def may_end(self, where: str, chance: float = DEATH) -> None:
        """Perhaps die here and now."""
        if self.chance.random() < chance:
            note(self._folder / "deaths", where)
            os.kill(os.getpid(), signal.SIGKILL)

    def die_where_it_matters(self) -> None:
        accept, delete, begin = outbox.Outbox._accept, outbox._delete, outbox.Outbox.committed

        def may_end_then_begin(*args):
            self.may_end("after-the-commit")
            begin(*args)

        def may_end_then_accept(*args):
            self.may_end("before-the-journal")
            accepted = accept(*args)
            self.may_end("after-the-journal")
            return accepted

        def may_end_then_delete(*args):
            self.may_end("before-the-delete", chance=RARE_DEATH)
            delete(*args)

        for owner, name, replaced in (
            (outbox.Outbox, "committed", may_end_then_begin),
            (outbox.Outbox, "_accept", may_end_then_accept),
            (outbox, "_delete", may_end_then_delete),
        ):
            setattr(owner, name, replaced)

    def work(self, first: int) -> None:
        """Order, and submit, until something ends it."""
        number = first
        while True:
            nested = db.session.begin_nested() if self.chance.random() < 0.2 else None
            for _ in range(self.chance.randint(1, MOST)):
                number += 1
                self.order(number)
            if nested is not None:
                nested.rollback()
                number += 1
                self.order(number)
            if self.chance.random() < 0.2:
                db.session.rollback()
            else:
                db.session.commit()

    def order(self, number: int) -> None:
        db.session.add(Order(number=number))
        using(durable=True, within=db.session).delay(mark, number)


def live(folder: Path, url: str, seed: int) -> None:
    """Be a process of the app. With 0 for a seed, end when there is nothing left to do."""
    # Writers wait for each other from the first statement on.
    shop.BEGIN = "BEGIN IMMEDIATE"
    app = shop.make(
        folder,
        url,
        DELAY_JOURNAL=str(folder / "journal.db"),
        DELAY_JOURNAL_SYNC="never",
        # Random kills look like poison.
        DELAY_JOURNAL_DEATHS=1_000_000,
        DELAY_JOURNAL_KEEP=10_000_000,
        DELAY_JOURNAL_LIMIT=10_000_000,
    )
    with app.app_context():
        app.test_client().get("/")
        if seed:
            note(folder / "begun", os.getpid())
            life = Life(folder, seed)
            life.die_where_it_matters()
            life.work(seed * 10_000)
        end = time.monotonic() + DEADLINE
        store = app.extensions["delay"].store
        while time.monotonic() < end:
            stats = store._journal().stats()
            if not shop.rows() and not any(stats[it] for it in ("ready", "scheduled", "running")):
                break
            time.sleep(0.1)
        app.extensions["delay"].shutdown(wait=True, cancel_futures=False)


def nurse(path: str, url: str) -> None:
    """Fork processes of the app: to load it anew for each would take most of the time.

    For each line with a seed, writes a pid. For an empty line, the pids and wait statuses of those
    that have ended.
    """
    children: set[int] = set()
    for line in sys.stdin:
        if line.strip():
            pid = os.fork()
            if pid == 0:
                _live_and_exit(Path(path), url, int(line))
            children.add(pid)
            answer: object = pid
        else:
            ends = [os.waitpid(pid, os.WNOHANG) for pid in children]
            answer = [end for end in ends if end[0]]
            children.difference_update(pid for pid, _ in ends)
        print(json.dumps(answer), flush=True)
    for pid in children:
        os.kill(pid, signal.SIGKILL)


def _live_and_exit(folder: Path, url: str, seed: int) -> None:
    code = 1
    try:
        os.environ["OUTBOX_FOLDER"] = str(folder)
        os.dup2(2, 1)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        live(folder, url, seed)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


# --- The test -----------------------------------------------------------------------


@dataclass
class Verdict:
    figures: dict[str, object]
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{name}: {figure}" for name, figure in self.figures.items()]
        return "\n".join([*lines, *(f"PROBLEM: {it}" for it in self.problems[:20])])


class Fleet:
    """The processes of one run."""

    def __init__(self, folder: Path, url: str, seed: int) -> None:
        self._folder = folder
        self.chance = random.Random(seed)
        self._seed = 0
        self.log = folder / "log"
        self.pids: set[int] = set()
        self.kills = 0
        # Not by -m: the task would be that of another module.
        program = "from tests.outbox import kills; kills.nurse(*kills.sys.argv[1:])"
        with self.log.open("w") as log:
            self._nurse = subprocess.Popen(
                [sys.executable, "-c", program, str(folder), url],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def _ask(self, line: object) -> Any:
        assert self._nurse.stdin is not None
        assert self._nurse.stdout is not None
        print(line, file=self._nurse.stdin, flush=True)
        answer = self._nurse.stdout.readline()
        assert answer, self.log.read_text()[-3000:]
        return json.loads(answer)

    def _count_dead(self) -> None:
        for pid, status in self._ask(""):
            assert status == signal.SIGKILL, f"status {status}\n{self.log.read_text()[-3000:]}"
            self.pids.remove(pid)
            self.kills += 1

    def strike(self) -> None:
        """Replace the dead ones, or kill one of those that have begun."""
        self._count_dead()
        while len(self.pids) < PROCESSES:
            self._seed += 1
            self.pids.add(self._ask(self._seed))
        able = sorted(self.pids.intersection(map(int, read(self._folder / "begun"))))
        if able and self.chance.random() < STRIKE:
            # Its parent has not waited for it, so the pid is no other's.
            os.kill(self.chance.choice(able), signal.SIGKILL)

    def end(self) -> int:
        """Kill all, and have a last process do what is left; its wait status."""
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)
        while self.pids:
            self._count_dead()
            time.sleep(PAUSE)
        last = self._ask(0)
        ends: list[list[int]] = []
        while not ends:
            time.sleep(PAUSE)
            ends = self._ask("")
        [[pid, status]] = ends
        assert pid == last
        return int(status)

    def close(self) -> None:
        """Kill what is left, after a failure too."""
        # Closes its input.
        with self._nurse:
            pass


def run(folder: Path, url: str, kills: int, seed: int) -> Verdict:
    """Kill that many times; wait for the tasks of what was committed, and judge."""
    engine = create_engine(url)
    db.Model.metadata.create_all(engine)
    fleet = Fleet(folder, url, seed)
    began = time.monotonic()
    try:
        while fleet.kills < kills and time.monotonic() - began < kills * 2 + DEADLINE:
            fleet.strike()
            time.sleep(PAUSE)
        status = fleet.end()
    finally:
        fleet.close()
    with engine.connect() as connection:
        numbers = sorted(connection.execute(select(Order.number)).scalars())
        left = connection.execute(select(func.count()).select_from(shop.table)).scalar_one()
    engine.dispose()
    verdict = judge(numbers, journaled(folder / "journal.db"), read(folder / "marks"))
    if left:
        verdict.problems.append(f"{left} rows are left in the outbox")
    if status or fleet.kills < kills or not numbers:
        log = fleet.log.read_text()[-3000:]
        verdict.problems.append(f"{fleet.kills} kills, last status {status}\n{log}")
    deaths = Counter(read(folder / "deaths"))
    verdict.figures |= {
        "kills": fleet.kills,
        "of them at the moments that matter": dict(deaths),
        "seconds": round(time.monotonic() - began),
    }
    return verdict


def journaled(path: Path) -> list[tuple[int, int]]:
    """The number of the order of each task, and its state; nobody has the journal open."""
    connection = sqlite3.connect(path)
    rows = connection.execute("select arguments, state from task").fetchall()
    connection.close()
    return [(json.loads(arguments)["args"][0], state) for arguments, state in rows]


FINISHED = 6


def judge(orders: list[int], tasks: list[tuple[int, int]], marks: list[str]) -> Verdict:
    """What is wrong with that."""
    counts = Counter(number for number, _ in tasks)
    marked = Counter(map(int, marks))
    problems = [f"order {it} has {counts[it]} tasks" for it in orders if counts[it] != 1]
    committed = set(orders)
    problems += [f"task {it} has no order" for it in counts if it not in committed]
    problems += [f"task {it} is in state {state}" for it, state in tasks if state != FINISHED]
    problems += [f"order {it} was not marked" for it in orders if it not in marked]
    figures: dict[str, object] = {
        "orders": len(orders),
        "tasks": len(tasks),
        "run more than once": sum(count > 1 for count in marked.values()),
    }
    return Verdict(figures, problems)


def main(kills: int, database: str, seed: int) -> int:
    print(f"{kills} kills, {database}, seed {seed}", flush=True)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kills-")))
        url = f"sqlite:///{folder / 'shop.db'}"
        if database == "postgres":
            url = stack.enter_context(postgres.running())
        verdict = run(folder, url, kills, seed)
    print(verdict)
    return 1 if verdict.problems else 0


if __name__ == "__main__":
    given = sys.argv[1:]
    count, database, seed = (*given, *("500", "sqlite", "0")[len(given) :])
    sys.exit(main(int(count), database, int(seed) or random.randrange(1 << 30)))
