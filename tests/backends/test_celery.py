"""The promises of tasks in Celery workers: a Redis and a worker, both real."""

import pytest
from tests.backends.contract import Contract, Place
from tests.celery.harness import Worker, run_redis

from flask_delay.backends.celery.backend import Backend


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with run_redis(tmp_path_factory.mktemp("redis")) as redis:
        place = Place(
            "celery",
            settings={"DELAY_CELERY_BROKER_URL": redis.url},
            refused=Backend.cannot,
            lacks={
                "attempts": "what was over before the results were subscribed to is not counted",
                "task_started": "the worker's process tells of it",
                "drain": "what was published is the broker's, and other processes do it",
                "uploads": "the machine that runs a task does not have the file",
            },
        )
        command = ("-m", "flask", "--app", "tests.backends.site", "delay", "worker")
        worker = Worker(redis.url, "-c", "2", command=command, environment=place.environment)
        place.log = lambda: worker.output
        try:
            yield place
            place.close()
            assert worker.stop() == 0
        finally:
            worker.kill()


class TestCelery(Contract):
    pass
