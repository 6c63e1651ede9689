"""The promises of tasks in worker processes."""

import pytest
from tests.backends.contract import Contract, Place

from flask_delay.backends.processes.backend import Backend


@pytest.fixture(scope="module")
def place():
    place = Place("processes", settings={"DELAY_PROCESSES": "2"}, refused=Backend.cannot)
    yield place
    place.close()


class TestProcesses(Contract):
    pass
