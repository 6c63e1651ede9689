"""Jobs by name: run now, paused, and sent to somebody who may not hear of it."""

import threading
import time
import uuid
from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType

import pytest

from flask_delay import DuplicateTask
from flask_delay._native import _RemoteTask
from flask_delay.options import Chosen, submitter
from flask_delay.periodic.job import Jobs

from .helpers import DEADLINE, Gate
from .jobs import OFTEN, RARELY, Count, start


def test_run_now(tmp_path, executor):
    one = Jobs(executor, folder=tmp_path)
    variable = ContextVar("variable", default="none")
    job = start(one, lambda: variable.get(), every=RARELY)
    due = job.next_run
    variable.set("the caller's")
    # One after another, without a pause.
    for _ in range(20):
        assert job.run_now().result(DEADLINE) == "none"
    assert job.last.done()
    assert job.next_run == due
    # The tick that comes is one all the same.
    job._tick(time.time_ns())
    assert executor.drain(DEADLINE)
    gate = Gate()
    waits = start(one, gate, every=RARELY, key="gate")
    first = waits.run_now()
    with pytest.raises(DuplicateTask, match="goes on in process"):
        waits.run_now()
    gate.open()
    first.result(DEADLINE)
    assert waits.run_now().result(DEADLINE) is None
    both = threading.Barrier(2)
    overlaps = start(one, both.wait, every=RARELY, overlap=True, key="barrier")
    futures = [overlaps.run_now() for _ in range(2)]
    assert {future.result(DEADLINE) for future in futures} == {0, 1}
    overlaps.cancel()
    with pytest.raises(RuntimeError, match="was cancelled"):
        overlaps.run_now()


def test_a_paused_job_runs_in_no_process(tmp_path, executor, elsewhere, caplog):
    one = Jobs(executor, folder=tmp_path)
    count = Count()
    job = start(one, count, every=OFTEN, key="count")
    assert count.wait_for(1)
    assert not job.paused
    job.pause()
    job.pause()
    assert executor.drain(DEADLINE)
    assert job.paused
    assert job.next_run is None
    seen = len(count.times)
    assert elsewhere(tmp_path, time.time_ns(), job.id) == "False 0 None"
    # Neither at the next ticks, nor in a process that comes later, which says so.
    again = start(Jobs(executor, folder=tmp_path), count, every=OFTEN, key="count")
    assert again.id == job.id
    (record,) = caplog.records
    assert f"job {job} is paused" in record.getMessage()
    caplog.clear()
    assert job.run_now().result(DEADLINE) is None
    other = Count()
    others = Jobs(executor)
    start(others, other, every=OFTEN, key="other")
    assert other.wait_for(4)
    assert len(count.times) == seen + 1
    again.resume()
    assert not job.paused
    assert job.next_run
    assert count.wait_for(seen + 2)
    for jobs in (one, again._jobs, others):
        jobs.cancel()
    # What was left out meanwhile is nobody's fault.
    assert not caplog.records


def test_paused_without_files(jobs):
    count = Count()
    job = start(jobs, count, every=OFTEN, key="count")
    assert count.wait_for(1)
    job.pause()
    seen = len(count.times)
    assert job.paused
    other = Count()
    start(jobs, other, every=OFTEN, key="other")
    assert other.wait_for(4)
    # One may have been on its way.
    assert len(count.times) <= seen + 1
    job.resume()
    assert count.wait_for(seen + 2)


def tidy():
    pass


def tidy_again():
    pass


def test_jobs_by_name(jobs):
    with pytest.raises(LookupError, match="no job 'tidy' in this process; those it has: none"):
        jobs.find("tidy")
    plain = start(jobs, tidy, every=RARELY)
    name = f"{__name__}.tidy"
    assert plain.name == name
    assert jobs.find("tidy") is jobs.find(name) is jobs.find(plain.id) is plain
    two = start(jobs, tidy, every=RARELY, key="tidy")
    # Its own key is what it was called on purpose.
    assert jobs.find("tidy") is two
    with pytest.raises(LookupError, match="2 jobs are called") as raised:
        jobs.find(name)
    assert two.id in str(raised.value)
    with pytest.raises(LookupError, match=f"those it has: {name}$"):
        jobs.find("idy")
    with pytest.raises(TypeError, match="must be a string, got <function"):
        jobs.find(tidy)
    two.cancel()
    assert jobs.find(name) is plain


# --- Runs that are sent to somebody else ----------------------------------------------


class Broker:
    """A backend whose messages nobody takes, until somebody does."""

    cannot: Mapping[str, str] = MappingProxyType({})
    executor = None

    def __init__(self, executor):
        self._executor = executor
        self.sent = []

    @staticmethod
    def check(options):
        pass

    def submit(self, policy, options, fn, /, *args, **kwargs):
        handle = _RemoteTask(self._executor, fn, id=str(uuid.uuid4()))
        self.sent.append((handle, options))
        return handle.future


def test_a_run_whose_message_was_lost(tmp_path, executor, caplog, monkeypatch):
    """No worker hears of it, and the job never ran again."""
    broker = Broker(executor)
    jobs = Jobs(executor, folder=tmp_path)
    job = submitter(Chosen({"every": 120}), jobs, None, broker)(tidy)
    job._tick(1)
    ((handle, options),) = broker.sent
    # Nobody begins it when the next one is there.
    assert 60 <= options["expires"] <= 120
    job._tick(2)
    assert len(broker.sent) == 1
    assert "left out" in caplog.text
    caplog.clear()
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + options["expires"] + 61)
    job._tick(3)
    assert len(broker.sent) == 2
    assert handle.future.cancelled()
    (record,) = caplog.records
    assert f"job {job}: its last run was not begun" in record.getMessage()
    caplog.clear()
    # One that has begun may take its time.
    (_, (second, _)) = broker.sent
    second.start()
    monkeypatch.setattr(time, "monotonic", lambda: now + 10_000)
    job._tick(4)
    assert len(broker.sent) == 2
    second.again()
    job._tick(5)
    assert len(broker.sent) == 2
    second.finish(None)
    job._tick(6)
    assert len(broker.sent) == 3
    caplog.clear()
    jobs.cancel()


def test_the_patience_with_a_message_is_an_option(executor):
    broker = Broker(executor)
    jobs = Jobs(executor)
    submit = submitter(Chosen({"every": 1, "expires": 5}), jobs, None, broker)
    submit(tidy).run_now()
    submitter(Chosen({"cron": "@yearly"}), jobs, None, broker)(tidy).run_now()
    submitter(Chosen({"every": 2}), jobs, None, broker)(tidy).run_now()
    submitter(Chosen({"every": 1, "retry": 3}), jobs, None, broker)(tidy_again).run_now()
    *_, (_, retried) = broker.sent
    # It would end the retries as well.
    assert "expires" not in retried
    first, second, third = (options["expires"] for _, options in broker.sent[:3])
    assert first == 5
    assert 60 < second <= 366 * 24 * 3600
    # A worker that is busy for a moment need not lose it.
    assert third == 60
    jobs.cancel()
