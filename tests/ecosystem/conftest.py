"""Other people's libraries, driven by our executor: each test proves where the work ran."""

import threading
from collections.abc import Callable, Iterator

import pytest

from flask_delay import Executor

DEADLINE = 20.0
PREFIX = "ours"


@pytest.fixture
def executor() -> Iterator[Executor]:
    with Executor(4, PREFIX) as executor:
        yield executor


@pytest.fixture
def where() -> Callable[..., str]:
    """A task that says on which thread it runs."""

    def where(*_args: object) -> str:
        return threading.current_thread().name

    return where


@pytest.fixture
def is_ours() -> Callable[[str], bool]:
    """Whether a thread of this name is one of the executor's."""
    return lambda name: name.startswith(f"{PREFIX}_")
