import threading
from datetime import UTC, datetime, timedelta

import pytest

apscheduler = pytest.importorskip("apscheduler")

from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_EXECUTED  # noqa: E402
from apscheduler.executors.pool import BasePoolExecutor  # noqa: E402
from apscheduler.schedulers.background import BackgroundScheduler  # noqa: E402


class OurExecutor(BasePoolExecutor):
    """APScheduler's adapter for pools is made for this: it takes any."""

    def __init__(self, pool):
        super().__init__(pool)


@pytest.fixture
def scheduler(executor):
    scheduler = BackgroundScheduler(executors={"default": OurExecutor(executor)}, timezone=UTC)
    scheduler.start()
    yield scheduler
    if scheduler.running:
        scheduler.shutdown()


def test_job_at_once(scheduler, where, is_ours):
    names, done = [], threading.Event()
    scheduler.add_listener(lambda _: done.set(), EVENT_JOB_EXECUTED)
    scheduler.add_job(lambda: names.append(where()))
    assert done.wait(20)
    assert all(map(is_ours, names))
    assert len(names) == 1


def test_job_that_repeats(scheduler, where, is_ours):
    names, done = [], threading.Event()

    def work():
        names.append(where())
        if len(names) == 3:
            done.set()

    scheduler.add_job(work, "interval", seconds=0.05, next_run_time=datetime.now(UTC))
    assert done.wait(20)
    assert all(map(is_ours, names))


def test_job_that_fails(scheduler, caplog):
    events, done = [], threading.Event()

    def note(event):
        events.append(event)
        done.set()

    scheduler.add_listener(note, EVENT_JOB_ERROR)
    scheduler.add_job(divmod, args=[1, 0], run_date=datetime.now(UTC) + timedelta(seconds=0.01))
    assert done.wait(20)
    assert isinstance(events[0].exception, ZeroDivisionError)


def test_shutdown_waits_for_the_jobs(scheduler):
    started, release, ended = threading.Event(), threading.Event(), threading.Event()

    def work():
        started.set()
        release.wait(20)
        ended.set()

    scheduler.add_job(work)
    assert started.wait(20)
    threading.Timer(0.05, release.set).start()
    scheduler.shutdown(wait=True)
    assert ended.is_set()
