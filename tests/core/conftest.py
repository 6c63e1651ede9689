"""What tests of one subject in several files share; a file may have an `executor` of its own."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flask_delay import Executor
from flask_delay.periodic.job import Jobs


@pytest.fixture
def executor() -> Iterator[Executor]:
    executor = Executor(2)
    yield executor
    executor.shutdown(cancel_futures=True)


@pytest.fixture
def jobs(executor: Executor) -> Iterator[Jobs]:
    jobs = Jobs(executor)
    yield jobs
    jobs.cancel()


_TAKE = """
import sys
from pathlib import Path
from flask_delay.periodic.leader import lead
for line in sys.stdin:
    folder, tick, id = line.split()
    tick = int(tick)
    # Dropped again, and with it what it has locked.
    answer = lead(Path(folder), id, "").take(tick, lambda last: last >= tick, alone=True)
    print(answer.runs, answer.left_out, answer.by, flush=True)
"""


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Callable[..., str]]:
    """What another process is told of a job's tick: whether it runs it, and why it does not."""
    command = [sys.executable, "-c", _TAKE]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def ask(folder: Path, tick: int, id: str = "job") -> str:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{folder} {tick} {id}\n")
            process.stdin.flush()
            return process.stdout.readline().strip()

        yield ask
        process.stdin.close()
