"""What tests of one subject in several files share; a file may have an `executor` of its own."""

from collections.abc import Iterator

import pytest

from flask_delay import Executor
from flask_delay.jobs import Jobs


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
