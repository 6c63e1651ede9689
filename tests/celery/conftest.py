"""What the tests of Celery share: a Redis, workers, and apps that talk to them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from tests.celery import site
from tests.celery.harness import Redis, Worker, run_redis


@pytest.fixture(scope="module")
def module_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """For workers that know other tasks than those of the shared one."""
    with run_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with run_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[Redis]:
    with run_redis(tmp_path) as server:
        yield server


@pytest.fixture(scope="session")
def worker(shared_redis: Redis) -> Iterator[Worker]:
    """With two processes."""
    started = Worker(shared_redis.url, "-c", "2")
    yield started
    started.kill()


@pytest.fixture
def start_worker() -> Iterator[Callable[..., Worker]]:
    with ExitStack() as stack:

        def start(url: str, *arguments: str, **options: Any) -> Worker:
            started = Worker(url, *arguments, **options)
            stack.callback(started.kill)
            return started

        yield start


@pytest.fixture
def make_site() -> Iterator[Callable[..., Flask]]:
    with ExitStack() as stack:

        def make(url: str, **more: object) -> Flask:
            app = site.make(url, **more)
            stack.callback(app.extensions["delay"].shutdown, wait=True, cancel_futures=False)
            return app

        yield make


@pytest.fixture
def app(make_site: Callable[..., Flask], shared_redis: Redis, worker: Worker) -> Iterator[Flask]:
    """The current app, whose tasks the worker runs."""
    app = make_site(shared_redis.url)
    with app.app_context():
        yield app
