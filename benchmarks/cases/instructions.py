"""Count the instructions of a task.

valgrind counts the instructions of `loop.py` with few tasks and with many; the difference belongs
to the tasks alone. Neither time nor other processes affect it.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.model import Peer, Values

FEW = 2_000
LOOP = Path(__file__).parents[1] / "loop.py"


def needs_valgrind() -> str | None:
    """The reason why instructions cannot be counted."""
    if shutil.which("valgrind"):
        return None
    return "valgrind is not installed; on Debian: apt-get install valgrind"


def _count(tasks: int) -> int:
    """The instructions of one process that runs `tasks` tasks."""
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    done = subprocess.run(
        [*command, sys.executable, str(LOOP), str(tasks)],
        check=False,
        capture_output=True,
        text=True,
        # No other environment variables, and the same dictionaries each time.
        env={"PATH": os.environ.get("PATH", ""), "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"},
    )
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or not found:
        raise RuntimeError(f"valgrind or the loop failed:\n{done.stderr[-2000:]}")
    return int(found[1])


def per_task(_peer: Peer, size: int) -> Values:
    """Instructions per submit, run and done callback."""
    return {"each": (_count(FEW + size) - _count(FEW)) / size}
