"""Tasks with every policy, mixed: nothing is lost, nothing runs or ends twice, memory stays flat.

`python tests/soak_policies.py COUNT`. Three threads submit to four executors, one for each way of
a full queue; some tasks they cancel or stop. Prints its counts in one line; exit code 1 if they
do not add up.
"""

import asyncio
import contextlib
import functools
import gc
import logging
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any, NamedTuple

from flask_delay import (
    Executor,
    Future,
    QueueFull,
    Retry,
    TaskExpired,
    TaskTimeout,
    current_task,
)
from flask_delay.options import Chosen, Submit, submitter
from flask_delay.periodic.job import Jobs

LIMIT = 60.0
AGAIN = Retry(2, backoff=0.0005)


def rss() -> int:
    """Resident memory in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


class Kind(NamedTuple):
    """What a task does, with which options, how often, and how it may end."""

    share: float
    options: Callable[[random.Random], dict[str, Any]]
    ends: tuple[type[BaseException] | None, ...] = (None,)


def keyed(prefix: str, **options: Any) -> Callable[[random.Random], dict[str, Any]]:
    return lambda rng: {"key": f"{prefix}{rng.randrange(50)}", **options}


def fixed(**options: Any) -> Callable[[random.Random], dict[str, Any]]:
    return lambda _: options


KINDS = {
    "plain": Kind(30, fixed()),
    "priority": Kind(15, lambda rng: {"priority": rng.randrange(-3, 4)}),
    "limit": Kind(10, keyed("limit", limit=2)),
    "unique": Kind(10, keyed("unique", unique=True)),
    "rate": Kind(5, keyed("rate", rate="1000/s")),
    "everything": Kind(
        5, keyed("all", limit=1, unique=True, priority=1, timeout=LIMIT, expires=LIMIT, retry=1)
    ),
    "in time": Kind(5, fixed(timeout=LIMIT)),
    "too late": Kind(0.05, fixed(timeout=0.002), (TaskTimeout,)),
    "too late twice": Kind(0.05, fixed(timeout=0.002, retry=Retry(1, 0.001)), (TaskTimeout,)),
    "at the last moment": Kind(0.2, fixed(timeout=0.001), (None, TaskTimeout)),
    "expires": Kind(2, fixed(expires=0.003), (None, TaskExpired)),
    "fails": Kind(1, fixed(), (LookupError,)),
    "fails at first": Kind(3, fixed(retry=AGAIN)),
    "fails for good": Kind(1, fixed(retry=AGAIN), (LookupError,)),
    "asks for a retry": Kind(2, fixed()),
    "waits": Kind(2, fixed(), (None, QueueFull)),
    "coroutine": Kind(5, fixed(timeout=LIMIT)),
    "coroutine that fails": Kind(0.5, fixed(retry=AGAIN), (LookupError,)),
}

UNIQUE = ("unique", "everything")


class Load:
    """The executors under load, and what has happened to each task, by its number."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.executors = [
            Executor(2, f"soak-{when_full}", queue_size=500, when_full=when_full)
            for when_full in ("block", "raise", "caller_runs", "drop_oldest")
        ]
        # Whether each was accepted, how often it was started and called back.
        self.accepted, self.starts, self.ends = bytearray(count), bytearray(count), bytearray(count)
        self.lock, self.claim = threading.Lock(), threading.Lock()
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    def tell(self, what: str) -> None:
        with self.lock:
            self.counts[what] += 1

    # --- Tasks --------------------------------------------------------------------------

    def work(self, number: int, kind: str, executor: Executor) -> int:
        """What all but coroutines do."""
        self.starts[number] += 1
        attempt = current_task.attempt
        if kind.startswith("too late"):
            while True:
                time.sleep(0.0005)
        elif kind == "at the last moment":
            until = time.perf_counter() + random.random() / 500
            while time.perf_counter() < until:
                pass
        elif kind in ("fails", "fails for good") or (kind == "fails at first" and attempt < 3):
            raise LookupError(number)
        elif kind == "asks for a retry" and attempt < 3:
            current_task.retry(after=random.choice((0, 0.0005)))
        elif kind == "waits":
            with contextlib.suppress(CancelledError):
                executor.submit(int).result(LIMIT)
        return number

    async def coroutine(self, number: int, kind: str, _: Executor) -> int:
        """What coroutines do."""
        self.starts[number] += 1
        await asyncio.sleep(0)
        if kind != "coroutine":
            raise LookupError(number)
        return number

    def ended(self, number: int, kind: str, future: Future[int]) -> None:
        """Look at each task's end, which there must be one of."""
        self.ends[number] += 1
        if future.cancelled():
            self.tell("cancelled")
            return
        error = future.exception()
        self.tell("finished" if error is None else type(error).__name__)
        if future.attempts > 1:
            self.tell("tried again")
        expected = (None if error is None else type(error)) in KINDS[kind].ends
        # One whose time is that short may end before its first line.
        most, least = future.attempts, 0 if TaskTimeout in KINDS[kind].ends else future.attempts
        if not (expected and least <= self.starts[number] <= most) or (
            error is None and future.result() != number
        ):
            self.wrong.append(f"{kind} {number}: {error!r} after {future.attempts} attempts")

    # --- Submitters ---------------------------------------------------------------------

    def verbs(self, rng: random.Random) -> Iterator[tuple[str, Executor, Submit]]:
        """Kinds, by their shares, with an executor each."""
        names, shares = list(KINDS), [kind.share for kind in KINDS.values()]
        while True:
            for kind in rng.choices(names, shares, k=1000):
                executor = rng.choice(self.executors)
                chosen = Chosen(KINDS[kind].options(rng))  # type: ignore[arg-type]
                yield kind, executor, submitter(chosen, Jobs(executor), None)

    def accept(self, number: int, kind: str, executor: Executor, submit: Submit) -> Future[int]:
        """Submit one. The first submit of a future has it, others join."""
        body = self.coroutine if kind.startswith("coroutine") else self.work
        with self.claim if kind in UNIQUE else contextlib.nullcontext():
            future: Any = submit(body, number, kind, executor)
            if hasattr(future, "number"):
                self.tell("joined")
                return future
            future.number = number
        self.accepted[number] = 1
        self.tell("accepted")
        future.add_done_callback(functools.partial(self.ended, number, kind))
        return future

    def submit(self, numbers: range) -> None:
        """Submit these, and cancel or stop some of them."""
        rng = random.Random(numbers.start)
        recent: list[Future[int]] = []
        for number, (kind, executor, submit) in zip(numbers, self.verbs(rng), strict=False):
            try:
                recent.append(self.accept(number, kind, executor, submit))
            except QueueFull:
                self.tell("refused")
            if len(recent) >= 50:
                for future in rng.sample(recent, 5):
                    future.cancel()
                for future in rng.sample(recent, 2):
                    future.stop(after=rng.choice((0, 0, 0.001, None)))
                recent.clear()

    def run(self, sample: Callable[[], None]) -> None:
        """Submit all, and wait until all have ended."""
        share = -(-self.count // 3)
        threads = [
            threading.Thread(
                target=self.submit, args=(range(start, min(start + share, self.count)),)
            )
            for start in range(0, self.count, share)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)
                sample()
        for executor in self.executors:
            # Some tasks submit others.
            if not executor.drain(LIMIT):
                self.wrong.append(f"{executor!r} has not come to its end")
            executor.shutdown(cancel_futures=True)
        # Threads that were stuck are on their way out, unless they are forever.
        end = time.monotonic() + LIMIT
        while any(it.stats()["stuck"] for it in self.executors) and time.monotonic() < end:
            time.sleep(0.01)

    def problems(self) -> list[str]:
        """What does not add up."""
        found = self.wrong[:5]
        lost = sum(self.ends[it] < self.accepted[it] for it in range(self.count))
        twice = sum(self.ends[it] > self.accepted[it] for it in range(self.count))
        if lost or twice:
            found.append(f"{lost} lost, {twice} ended twice")
        if self.counts["accepted"] + self.counts["refused"] + self.counts["joined"] != self.count:
            found.append("submits do not add up")
        for executor in self.executors:
            left = {what: number for what, number in executor.stats().items() if number}
            if left:
                found.append(f"left in {executor!r}: {left}")
        return found


def main(count: int) -> int:
    """Run the load, print the counts."""
    logging.getLogger("flask_delay").setLevel(logging.CRITICAL)
    load, memory, start = Load(count), [], time.monotonic()

    def sample() -> None:
        memory.append(rss())

    load.run(sample)
    gc.collect()
    problems = load.problems()
    # The first samples are of a process that is still growing into its work.
    settled = memory[len(memory) // 4 :]
    growth = max(settled[-1] - settled[0], 0) / 1e6
    if growth > 16:
        problems.append("memory grows")
    counts = ", ".join(f"{number} {what}" for what, number in sorted(load.counts.items()))
    print(
        f"{count} tasks in {time.monotonic() - start:.0f} s: {counts};"
        f" memory grew by {growth:.1f} MB after the first quarter;"
        f" {'; '.join(problems) or 'nothing lost, nothing twice'}"
    )
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000))
