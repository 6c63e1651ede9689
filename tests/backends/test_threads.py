"""The promises of tasks on threads of this process."""

import pytest
from tests.backends.contract import Contract, Place


@pytest.fixture(scope="module")
def place():
    place = Place(
        "threads",
        settings={"DELAY_MAX_WORKERS": "2"},
        lacks={"elsewhere": "tasks are threads of this process, and share its objects"},
    )
    yield place
    place.close()


class TestThreads(Contract):
    pass
