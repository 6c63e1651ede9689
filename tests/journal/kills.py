"""Kill the processes of a server at random moments, and see that nothing is lost or doubled.

`python -m tests.journal.kills KILLS [SEED]`, or `make kills`. gunicorn serves `served.py` with four
workers, which is forked with and without `--preload` by turns. Clients submit tasks and ask for
them, and a durable job ticks each second; plain tasks keep to a limit and a rate of the machine.
Processes are killed: a worker, two, the arbiter, all at once. Meanwhile failed tasks are retried by
hand, and functions paused. Exit code 1 if a promise is broken: see `record.judge`, `hands.py` and
`judge_plain`.
"""

import random
import re
import time
from itertools import pairwise
from pathlib import Path

from tests.journal import hands
from tests.journal.fleet import Fleet, Server, sailing
from tests.journal.record import (
    LIMIT,
    RATE,
    Verdict,
    integrity,
    judge,
    judge_run,
    read_record,
    read_rows,
    reading,
)
from tests.servers.harness import poll

WORKERS = 4
# In microseconds.
SECOND = 1_000_000
# Of tasks that are to fail.
EXPECTED = re.compile(r"Traceback.*\n(?:  .*\n)+tests\.journal\.served\.Flaw: .*")
SETTINGS = {
    # Random kills look like poison.
    "JOURNAL_DEATHS": 1_000_000,
    "JOURNAL_LIMIT": 10_000_000,
    "JOURNAL_KEEP": 10_000_000,
    "MAX_WORKERS": 8,
}


class Killer:
    """Kills, and starts what does not come back by itself."""

    def __init__(self, fleet: Fleet, chance: random.Random) -> None:
        self._fleet = fleet
        self._chance = chance
        self._starts = 0
        self._server = self._start()
        self.kinds: dict[str, int] = {}

    def _start(self) -> Server:
        self._starts += 1
        arguments = ["--preload"] if self._starts % 3 else []
        return self._fleet.start(*arguments, workers=WORKERS)

    def strike(self) -> None:
        """Kill somebody."""
        kind = self._chance.choices(["worker", "two", "all", "arbiter"], [80, 12, 5, 3])[0]
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        server, slay = self._server, self._fleet.slay
        workers = server.workers()
        if kind == "worker" and len(workers) > 1:
            slay([self._chance.choice(workers)], alone=True)
        elif kind == "two" and len(workers) > 2:
            slay(self._chance.sample(workers, 2), alone=True)
        elif kind in ("all", "arbiter"):
            begin = time.monotonic()
            slay([server.pid, *workers] if kind == "all" else [server.pid])
            # Workers without their arbiter notice, and end in order, while others come up.
            self._server = self._start()
            assert poll(server.is_gone), self._fleet.log.read_text()
            self._fleet.told.outages.append((begin, time.monotonic()))

    def end(self) -> None:
        self._server.end()


def run(folder: Path, kills: int, seed: int, pause: tuple[float, float] = (0.05, 0.4)) -> Verdict:
    """Kill that many times, wait for all tasks, and judge."""
    chance = random.Random(seed)
    with sailing(folder, **SETTINGS) as fleet:
        fleet.env |= {"TICKS": "yes", "PLAIN": "yes"}
        killer = Killer(fleet, chance)
        began = time.monotonic()
        with fleet.clients(4, pause=0.005, name="mixed"), hands.acting(fleet, seed) as acts:
            while len(fleet.told.killed) < kills:
                time.sleep(chance.uniform(*pause))
                killer.strike()
        is_idle = hands.finish(fleet, acts)
        has_permits = not poll(lambda: count_permits(fleet) == 0)
        for number in chance.sample(sorted(fleet.told.accepted), min(50, len(fleet.told.accepted))):
            fleet.look(number)
        killer.end()
        events = read_record(fleet.record)
        verdict = judge(fleet.told, events, read_rows(fleet.journal))
        problems, ticks = judge_ticks(fleet)
        verdict.problems += problems
        verdict.problems += hands.judge(acts, fleet.told, events)
        verdict.figures |= hands.figures(acts)
        verdict.figures["ticks"] = ticks
        problems, figures = judge_plain(fleet)
        verdict.problems += problems
        verdict.figures |= figures
        if has_permits:
            verdict.problems.append("some plain tasks hold places of the machine, or wait for them")
        if not is_idle:
            verdict.problems.append("some tasks did not end")
        if (told := integrity(fleet.journal)) != "ok":
            verdict.problems.append(f"the file: {told}")
        log = EXPECTED.sub("", fleet.log.read_text())
        if "Traceback" in log:
            verdict.problems.append(
                f"a traceback in the log: {log.partition('Traceback')[2][:2000]}"
            )
        verdict.figures |= {"kinds": killer.kinds, "seconds": round(time.monotonic() - began)}
    return verdict


def judge_ticks(fleet: Fleet) -> tuple[list[str], int]:
    """What is wrong with the ticks of the job, and how many there are.

    Which of them no process was there for is not known here: see `ticks.py`.
    """
    query = "SELECT tick, state FROM task WHERE tick IS NOT NULL ORDER BY sequence"
    with reading(fleet.journal) as connection:
        rows = connection.execute(query).fetchall()
    # One of the last may be left to the next start.
    problems = [f"the task of tick {tick} is {state}" for tick, state in rows[:-3] if state != 6]
    problems += [f"{tick} is no tick" for tick, _ in rows if tick % SECOND]
    problems += [
        f"tick {second} came after tick {first}"
        for (first, _), (second, _) in pairwise(rows)
        if second <= first
    ]
    return problems, len(rows)


def count_permits(fleet: Fleet) -> int:
    """How many plain tasks hold a place of the machine, or wait for one."""
    with reading(fleet.journal) as connection:
        query = "SELECT count(*) FROM task WHERE published = 2"
        (count,) = connection.execute(query).fetchone()
    return int(count)


# Seconds by which a plain task's note may be later than its start.
LATE = 0.5


def judge_plain(fleet: Fleet) -> tuple[list[str], dict[str, object]]:
    """Where more plain tasks ran at once than the limit allows, or have started than the rate."""
    events = read_record(fleet.folder / "plain")
    ends = {it.number: it.at for it in events if it.event == "end"}
    problems = []
    running: list[float] = []
    starts = [it for it in events if it.event == "start"]
    most = 0
    for it in starts:
        # One that has not ended has died with its process.
        over = ends.get(it.number) or fleet.told.killed.get(it.pid, float("inf"))
        running = [*(end for end in running if end > it.at), over]
        most = max(most, len(running))
        if len(running) > LIMIT:
            problems.append(
                f"{len(running)} plain tasks with the limit {LIMIT} ran at once, at {it.at:.3f}"
            )
    rated = [it.at for it in events if it.event == "rated"]
    for seconds in (1, 3, 10, 30):
        for first, last in zip(rated, rated[RATE * seconds :], strict=False):
            if last - first < seconds - LATE:
                problems.append(
                    f"{RATE * seconds + 1} plain tasks with the rate {RATE}/s started in"
                    f" {last - first:.3f} s"
                )
    return problems, {"plain limited": len(starts), "at once": most, "plain rated": len(rated)}


if __name__ == "__main__":
    judge_run(run, "kills", 1_000)
