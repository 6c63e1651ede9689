"""Everything mixed for a long time: what was accepted must add up, and memory stay flat.

`python tests/soak.py SECONDS`. Two threads submit, cancel, wait with limits and add callbacks;
a third one forks children that do the same for a moment. Exit code 1 if anything is lost.
"""

import contextlib
import gc
import logging
import os
import random
import sys
import threading
import time
from collections import Counter
from concurrent.futures import CancelledError, wait
from pathlib import Path

from flask_delay import Executor, Future

CHILD_LIMIT = 30.0


def rss() -> int:
    """Resident memory in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


class Mix:
    """One executor under load, and the counts of what happened to its tasks."""

    def __init__(self) -> None:
        self.executor = Executor(8, "soak", idle_timeout=0.5)
        self.lock = threading.Lock()
        self.counts: Counter[str] = Counter()

    def count(self, what: str, number: int = 1) -> None:
        with self.lock:
            self.counts[what] += number

    def task(self, kind: int) -> int:
        self.count("ran")
        if kind == 0:
            time.sleep(random.random() / 500)
        elif kind == 1:
            raise LookupError(kind)
        elif kind == 2:
            return self.submit(3).result() + 1
        return kind

    def submit(self, kind: int) -> Future[int]:
        future = self.executor.submit(self.task, kind)
        self.count("accepted")
        future.add_done_callback(lambda _: self.count("called back"))
        return future

    def round(self) -> None:
        futures = [self.submit(random.randrange(5)) for _ in range(random.randrange(1, 200))]
        for future in random.sample(futures, len(futures) // 4):
            if future.cancel():
                self.count("cancelled")
        for future in random.sample(futures, len(futures) // 4):
            with contextlib.suppress(CancelledError, LookupError, TimeoutError):
                future.result(random.random() / 1000)
        wait(futures)

    def run(self, until: float) -> None:
        while time.monotonic() < until:
            self.round()

    def add_up(self) -> bool:
        """Whether everything accepted ran or was cancelled, and was called back once."""
        self.executor.shutdown()
        counts = self.counts
        ended = counts["ran"] + counts["cancelled"]
        return counts["accepted"] == ended == counts["called back"]


def child() -> int:
    mix = Mix()
    mix.run(time.monotonic() + 0.05)
    return 0 if mix.add_up() else 1


def fork(mix: Mix, until: float) -> None:
    while time.monotonic() < until:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                # The inherited pool has to work here too.
                code = child() or (mix.executor.submit(pow, 2, 3).result(CHILD_LIMIT) != 8)
            finally:
                os._exit(code)
        mix.count("children")
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0:
            mix.count("children failed")
        time.sleep(0.05)


def main(seconds: float) -> int:
    """Run the mix; print the counts and the memory as it goes."""
    logging.getLogger("flask_delay").setLevel(logging.CRITICAL)
    mix = Mix()
    start = time.monotonic()
    until = start + seconds
    threads = [threading.Thread(target=mix.run, args=(until,)) for _ in range(2)]
    threads.append(threading.Thread(target=fork, args=(mix, until)))
    for thread in threads:
        thread.start()
    memory = []
    while any(thread.is_alive() for thread in threads):
        time.sleep(min(10.0, seconds / 10))
        gc.collect()
        memory.append(rss())
        print(f"{time.monotonic() - start:6.0f} s  {memory[-1] / 1e6:7.1f} MB  {dict(mix.counts)}")
    for thread in threads:
        thread.join()
    adds_up = mix.add_up() and not mix.counts["children failed"]
    # The first samples are of a process that is still growing into its work.
    settled = memory[len(memory) // 4 :]
    growth = settled[-1] - settled[0]
    print(f"counts add up: {adds_up}; memory grew by {growth / 1e6:.1f} MB after the first quarter")
    return 0 if adds_up and growth < 16e6 else 1


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 600.0))
