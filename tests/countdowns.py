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
from array import array
from pathlib import Path

from flask_delay import Executor
from flask_delay.options import Chosen, submitter
from flask_delay.periodic.job import Jobs

SPAN = 10.0
LEAD = 3.0
# In seconds. A task's clock is read twice, once for its age and once for its alarm; two that are
# due within that are due at the same time.
SAME = 1e-3


def main(count: int) -> int:
    numbers = list(range(count))
    random.shuffle(numbers)
    # Plain numbers, which are nothing to the garbage collector: what it does to a heap of this
    # script's objects would be measured too.
    due, order, times = array("d", [0.0]) * count, array("q"), array("d")
    executor = Executor(1)
    jobs = Jobs(executor)

    def task(number: int) -> None:
        times.append(time.time())
        order.append(number)

    # Longer than it takes to submit them.
    start = time.time() + LEAD + count * 3e-5
    step = SPAN / count
    began = time.perf_counter()
    for number in numbers:
        countdown = start + number * step - time.time()
        future = submitter(Chosen({"countdown": countdown}), jobs, None)(task, number)
        due[number] = future.enqueued_at.timestamp() + countdown
    submitted = time.perf_counter() - began
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    executor.shutdown()
    late = sorted(at - due[number] for number, at in zip(order, times, strict=True))
    latest, early = 0.0, 0
    for number in order:
        early += due[number] < latest - SAME
        latest = max(latest, due[number])
    print(f"{count:,} tasks submitted in {submitted:.1f} s, due in random order over {SPAN:g} s")
    print(f"ran: {len(order):,}; out of order: {early}; timers: {threads.count('delay-timer')}")
    print(
        f"late: median {statistics.median(late) * 1e6:.0f} us, p99"
        f" {late[int(len(late) * 0.99)] * 1e3:.2f} ms, most {late[-1] * 1e3:.2f} ms;"
        f" too early: {sum(lateness < -1e-5 for lateness in late)};"
        f" load {os.getloadavg()[0]:.2f}"
    )
    return 0 if not early and len(order) == count else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000))
