"""Many countdowns in random order: whether they come in order, and how late each one is.

    python tests/countdowns.py [COUNT]

One executor, one worker, one timer. The tasks are due over ten seconds, from a moment after
the last submit on; what is measured is when a task's own first instruction runs.
"""

import os
import random
import statistics
import sys
import time
from pathlib import Path

from flask_delay import Executor
from flask_delay.jobs import Jobs
from flask_delay.options import Chosen, submitter

SPAN = 10.0
LEAD = 3.0


def main(count: int) -> int:
    numbers = list(range(count))
    random.shuffle(numbers)
    ran: list[tuple[int, float]] = []
    executor = Executor(1)
    jobs = Jobs(executor)

    def task(number: int) -> None:
        ran.append((number, time.time()))

    # Longer than it takes to submit them.
    start = time.time() + LEAD + count * 2e-5
    step = SPAN / count
    began = time.perf_counter()
    for number in numbers:
        countdown = start + number * step - time.time()
        submitter(Chosen({"countdown": countdown}), jobs, None)(task, number)
    submitted = time.perf_counter() - began
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    executor.shutdown()
    late = sorted(at - (start + number * step) for number, at in ran)
    in_order = [number for number, _ in ran] == sorted(numbers)
    print(f"{count:,} tasks submitted in {submitted:.1f} s, due in random order over {SPAN:g} s")
    print(f"ran: {len(ran):,}; in order: {in_order}; timer threads: {threads.count('delay-timer')}")
    print(
        f"late: median {statistics.median(late) * 1e6:.0f} us, p99"
        f" {late[int(len(late) * 0.99)] * 1e3:.2f} ms, most {late[-1] * 1e3:.2f} ms, early:"
        f" {sum(lateness < -1e-6 for lateness in late)}; load {os.getloadavg()[0]:.2f}"
    )
    return 0 if in_order and len(ran) == count else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000))
