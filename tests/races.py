"""Races run often enough to mean something: lost wake-ups, and forks under load.

`python tests/races.py` prints what was raced, how often, and what was lost. Exit code 1 if
anything was.
"""

import asyncio
import concurrent.futures
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Sequence

from flask_delay import Executor, Future

ROUNDS, TASKS, CHILDREN, LIMIT = 300, 20, 200, 20.0

Futures = Sequence[Future[None]]


def task() -> None:
    # Some end at once, some while they are waited for.
    if random.random() < 0.5:
        time.sleep(random.random() / 2000)


def by_wait(futures: Futures) -> int:
    return len(concurrent.futures.wait(futures, LIMIT).done)


def by_as_completed(futures: Futures) -> int:
    return sum(1 for _ in concurrent.futures.as_completed(futures, LIMIT))


def by_wrap_future(futures: Futures) -> int:
    async def main() -> int:
        wrapped = [asyncio.wrap_future(future) for future in futures]
        done, _ = await asyncio.wait(wrapped, timeout=LIMIT)
        return len(done)

    return asyncio.run(main())


def by_await(futures: Futures) -> int:
    async def one(future: Future[None]) -> None:
        await future

    async def main() -> int:
        waits = [asyncio.ensure_future(one(future)) for future in futures]
        done, _ = await asyncio.wait(waits, timeout=LIMIT)
        return len(done)

    return asyncio.run(main())


def race(how: Callable[[Futures], int]) -> int:
    """How many of the tasks' ends were missed."""
    with Executor(4) as executor:
        return sum(
            TASKS - how([executor.submit(task) for _ in range(TASKS)]) for _ in range(ROUNDS)
        )


def child(executor: Executor) -> int:
    futures = [executor.submit(pow, number, 2) for number in range(TASKS)]
    return 0 if [future.result(LIMIT) for future in futures] == [n * n for n in range(TASKS)] else 1


def fork_under_load() -> int:
    """How many of the children did not finish their own tasks."""
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            concurrent.futures.wait([executor.submit(task) for _ in range(TASKS)])

    failed = 0
    with Executor(4) as executor:
        threads = [threading.Thread(target=load) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(CHILDREN):
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    code = child(executor)
                finally:
                    os._exit(code)
            failed += os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0
        stop.set()
        for thread in threads:
            thread.join()
    return failed


def main() -> int:
    """Run all races."""
    lost = 0
    for how in (by_wait, by_as_completed, by_wrap_future, by_await):
        missed = race(how)
        lost += missed
        print(f"{how.__name__[3:]}: {ROUNDS} rounds of {TASKS} tasks, {missed} wake-ups lost")
    failed = fork_under_load()
    print(f"{CHILDREN} forks under load from two threads: {CHILDREN - failed} children finished")
    return 1 if lost or failed else 0


if __name__ == "__main__":
    sys.exit(main())
