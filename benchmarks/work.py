"""The measured tasks; in a module, because queues and processes import them."""

import os
import threading
import time
from pathlib import Path


def nop() -> None:
    """Do nothing."""


def nap(seconds: float) -> None:
    """Sleep, as while waiting for a network."""
    time.sleep(seconds)


def mark(file: str, number: int, seconds: float) -> int:
    """Note a start in a file, then sleep."""
    with Path(file).open("a") as record:
        record.write(f"{number} {os.getpid()} {time.monotonic()}\n")
    time.sleep(seconds)
    return number


def keep(count: int) -> tuple[list[float], list[float]]:
    """In a durable task: the seconds of that many checkpoints, and of a tenth as many steps."""
    from flask_delay import current_task  # noqa: PLC0415 (workers of other queues import this file)

    checkpoints, steps = [], []
    for number in range(count):
        start = time.perf_counter()
        current_task.checkpoint({"row": number})
        checkpoints.append(time.perf_counter() - start)
    for number in range(count // 10):
        start = time.perf_counter()
        current_task.step(str(number), nop)
        steps.append(time.perf_counter() - start)
    return checkpoints, steps


_stop = threading.Event()


def burn() -> int:
    """Compute in pure Python until `stop_burning` is called."""
    count = 0
    while not _stop.is_set():
        for _ in range(1000):
            count += 1
    return count


def stop_burning() -> None:
    """End `burn`."""
    _stop.set()


def spin(rounds: int) -> int:
    """Compute a fixed amount in pure Python."""
    total = 0
    for number in range(rounds):
        total += number & 3
    return total


def block(barrier: threading.Barrier, gate: threading.Event) -> None:
    """Keep a worker busy: wait at the barrier, then for the gate."""
    barrier.wait()
    gate.wait()
