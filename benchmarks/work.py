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
