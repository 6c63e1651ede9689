"""A fixed loop for `benchmarks.instructions`: `python loop.py TASKS`.

Submits while the only worker is blocked, then lets it run all tasks while this thread sleeps. So
the order of events is fixed, and no optional wake-up or hand-over of the GIL happens.
"""

import itertools
import sys
import threading

from flask_delay import Executor


def nop() -> None:
    """Do nothing."""


def main() -> None:
    """Submit, run and call back."""
    size = int(sys.argv[1])
    count = itertools.count(1)

    def done(_future: object) -> None:
        next(count)

    with Executor(1) as executor:
        held, gate = threading.Event(), threading.Event()

        def hold() -> None:
            held.set()
            gate.wait()

        executor.submit(hold)
        held.wait()
        for _ in range(size):
            executor.submit(nop).add_done_callback(done)
        gate.set()
    # Tasks that did not run would make the figure better.
    if next(count) != size + 1:
        sys.exit("tasks or callbacks were lost")


if __name__ == "__main__":
    main()
