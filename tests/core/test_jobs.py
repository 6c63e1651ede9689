"""Jobs: what runs again and again, in one process."""

import functools
import gc
import logging
import textwrap
import threading
import time
import weakref
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from flask_delay import Executor, Job
from flask_delay._native import _Rhythm, _Ticker
from flask_delay.periodic.job import Jobs

from .helpers import DEADLINE, Gate, Thing
from .jobs import OFTEN, RARELY, Count, start

# --- When it runs -------------------------------------------------------------------


@pytest.mark.parametrize("every", [OFTEN, timedelta(seconds=OFTEN)])
def test_it_runs_at_each_tick_without_drift(jobs, every):
    count = Count()
    job = start(jobs, count, every=every, key="count")
    assert isinstance(job, Job)
    assert count.wait_for(6)
    job.cancel()
    # Counted from 1970, not from the run before: each is a little late, and no more. Some may
    # meet a collection of Python's garbage, which takes as long as that in a test run.
    late = sorted((at + 1e-5) % OFTEN for at in count.times)
    assert late[len(late) // 2] < OFTEN / 2, count.times


def test_each_run_is_a_task(jobs, executor):
    done = []
    executor.add_default_done_callback(done.append)
    job = start(jobs, pow, 2, 3, every=OFTEN)
    assert job.last is None
    while not (job.last and job.last.done()):
        time.sleep(0.001)
    assert job.last.result() == 8
    job.cancel()
    assert executor.drain(DEADLINE)
    # The library's own errands are none.
    assert {future.name for future in done} == {"pow"}


def test_next_run(jobs):
    before = datetime.now(UTC)
    job = start(jobs, int, every=RARELY)
    assert job.next_run.tzinfo is UTC
    assert before < job.next_run <= before + timedelta(seconds=RARELY + 1)
    assert job.next_run.timestamp() % RARELY == 0
    job = start(jobs, int, cron="30 2 * * *", timezone="Asia/Tokyo")
    local = job.next_run.astimezone(ZoneInfo("Asia/Tokyo"))
    assert (local.hour, local.minute, local.second) == (2, 30, 0)
    assert "next run" in repr(job)


def test_time_zones_by_name_and_as_objects(jobs):
    by_name = start(jobs, int, cron="0 9 * * 1", timezone="Europe/Berlin")
    as_object = start(jobs, int, cron="0 9 * * 1", timezone=ZoneInfo("Europe/Berlin"))
    assert as_object is by_name
    assert start(jobs, int, cron="0 9 * * 1").next_run != by_name.next_run


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"every": 0}, ValueError, "'every' is 0,"),
        ({"every": timedelta()}, ValueError, "'every' is datetime.timedelta"),
        ({"every": -1.5}, ValueError, "'every' is -1.5"),
        ({"every": 1e-9}, ValueError, "'every' is 1e-09, but must be .* at least 0.001 s"),
        ({"every": timedelta(microseconds=999)}, ValueError, "at least 0.001 s"),
        ({"every": float("inf")}, ValueError, "'every' is inf"),
        ({"every": "60"}, TypeError, "'every' is '60'"),
        ({"every": True}, TypeError, "'every' is True"),
        ({"cron": "* * * * * *"}, ValueError, "'cron' is .* five fields"),
        ({"cron": "* * * *"}, ValueError, "'cron' is .* five fields"),
        ({"cron": "61 * * * *"}, ValueError, "'cron' is .*61"),
        ({"cron": ""}, ValueError, "'cron' is"),
        ({"cron": "*/90 * * * *"}, ValueError, "first field, the minute, .* from 1 to 60"),
        ({"cron": "0 0 MON * *"}, ValueError, "third field.*MON belongs in the fifth field"),
        ({"cron": "@reboot"}, ValueError, "when the app starts"),
        ({"cron": 5}, TypeError, "'cron' is 5"),
        ({"cron": "0 0 30 2 *"}, ValueError, "'cron' is .* never comes"),
        ({"cron": "* * * * *", "timezone": "Mars/Base"}, ValueError, "'timezone' is .*Mars/Base"),
        ({"cron": "* * * * *", "timezone": UTC}, TypeError, "'timezone' is"),
        ({"cron": "* * * * *", "timezone": 1}, TypeError, "'timezone' is 1"),
        ({"every": 5, "cron": "* * * * *"}, ValueError, "'cron' is .* 'every' is set as well"),
        ({"every": 5, "timezone": "UTC"}, ValueError, "'timezone' is .* counts in UTC"),
        ({"timezone": "UTC"}, ValueError, "neither 'every' nor 'cron' is set"),
        ({"overlap": True}, ValueError, "neither 'every' nor 'cron' is set"),
        ({"every": 5, "overlap": 1}, TypeError, "'overlap' is 1"),
        ({"every": 5, "countdown": 1}, ValueError, "'countdown' is 1, but 'every' makes a job"),
        ({"cron": "@daily", "request": True}, ValueError, "'request' is True, but 'cron' makes"),
    ],
)
def test_bad_values(jobs, options, error, text):
    with pytest.raises(error, match=text):
        start(jobs, int, **options)
    assert jobs.all() == []


# --- One after another ----------------------------------------------------------------


def test_runs_do_not_overlap(jobs, executor, caplog):
    gate = Gate()
    with caplog.at_level(logging.WARNING, "flask_delay"):
        job = start(jobs, gate, every=OFTEN, key="gate")
        assert gate.entered.wait(DEADLINE)
        first = job.last
        other = Count()
        start(jobs, other, every=OFTEN, key="other")
        assert other.wait_for(4)
        assert job.last is first
        (record,) = caplog.records
        text = record.getMessage()
        assert text.startswith(f"job {job} is left out, since its last run goes on in process")
        gate.open()
        # And goes on at the next tick.
        while job.last is first:
            time.sleep(0.001)


@pytest.mark.parametrize("options", [{}, {"priority": 1}, {"overlap": True}], ids=str)
def test_ticks_that_a_busy_pool_has_missed_are_one(options):
    with Executor(1) as executor:
        jobs, gate, count = Jobs(executor), Gate(), Count()
        executor.submit(gate)
        assert gate.entered.wait(DEADLINE)
        start(jobs, count, every=OFTEN, key="count", **options)
        time.sleep(5 * OFTEN)
        behind = executor.submit(int)
        opened = time.time()
        gate.open()
        assert behind.result(DEADLINE) == 0
        assert executor.drain(DEADLINE)
        jobs.cancel()
        # One for all that were missed; further ones come in their time.
        assert 1 <= len(count.times) <= (time.time() - opened) / OFTEN + 2


def test_runs_may_overlap(jobs):
    both = threading.Barrier(2)
    job = start(jobs, both.wait, every=OFTEN, overlap=True, key="barrier", timeout=DEADLINE)
    while not (job.last and job.last.done()):
        time.sleep(0.001)
    assert job.last.result() in {0, 1}


def test_a_failure_is_logged_and_it_goes_on(jobs, caplog):
    calls = Count()

    def fails():
        calls()
        raise LookupError("again")

    start(jobs, fails, every=OFTEN)
    assert calls.wait_for(3)
    assert sum("failed" in record.getMessage() for record in caplog.records) >= 2
    caplog.clear()


def test_options_of_its_tasks(jobs):
    attempts = Count()

    def flaky():
        attempts()
        raise LookupError

    from flask_delay import Retry

    job = start(jobs, flaky, every=RARELY, retry=Retry(2, backoff=0))
    job._tick(time.time_ns())
    assert isinstance(job.last.exception(DEADLINE), LookupError)
    assert len(attempts.times) == 3


def test_what_cannot_be_submitted_is_logged(caplog):
    with Executor(1, queue_size=1, when_full="raise") as executor:
        jobs = Jobs(executor)
        gate = Gate()
        running = executor.submit(gate)
        assert gate.entered.wait(DEADLINE)
        waiting = executor.submit(int)
        job = start(jobs, int, every=RARELY)
        job._tick(time.time_ns())
        (record,) = caplog.records
        assert "could not be run" in record.getMessage()
        assert "QueueFull" in caplog.text
        gate.open()
        assert waiting.result(DEADLINE) == 0
        assert running.result(DEADLINE) is None
        caplog.clear()


# --- Its end --------------------------------------------------------------------------


def test_cancel(jobs):
    count = Count()
    job = start(jobs, count, every=OFTEN, key="count")
    assert jobs.all() == [job]
    assert count.wait_for(1)
    assert not job.cancelled
    assert job.cancel()
    assert not job.cancel()
    assert job.cancelled
    assert job.next_run is None
    assert jobs.all() == []
    seen = len(count.times)
    other = Count()
    start(jobs, other, every=OFTEN, key="other")
    assert other.wait_for(4)
    # One may have been on its way.
    assert len(count.times) <= seen + 1
    # After that it may be made anew.
    again = start(jobs, count, every=OFTEN, key="count")
    assert again is not job
    assert count.wait_for(seen + 2)


def test_it_ends_with_its_executor(caplog):
    executor = Executor(1)
    jobs, count = Jobs(executor), Count()
    job = start(jobs, count, every=OFTEN, key="count")
    assert count.wait_for(1)
    executor.shutdown()
    seen = len(count.times)
    time.sleep(3 * OFTEN)
    assert len(count.times) == seen
    assert job._ticker.next is None
    assert not caplog.records
    with pytest.raises(RuntimeError, match="after shutdown"):
        start(jobs, int, every=OFTEN)


def test_nobody_keeps_it_alive():
    executor = Executor(1)
    jobs, count = Jobs(executor), Count()
    thing = Thing()
    gone = weakref.ref(thing)
    start(jobs, functools.partial(count, thing), every=OFTEN, key="count")
    assert count.wait_for(1)
    assert executor.drain(DEADLINE)
    executor_gone = weakref.ref(executor)
    del thing, jobs, executor
    gc.collect()
    assert gone() is None
    assert executor_gone() is None
    seen = len(count.times)
    time.sleep(3 * OFTEN)
    assert len(count.times) == seen


def test_the_end_of_the_process_does_not_wait_for_it(run_script):
    started = time.monotonic()
    done = run_script(
        textwrap.dedent("""
            import tempfile, threading, time
            from flask import Flask
            from flask_delay import Delay, using

            app = Flask(__name__, instance_path=tempfile.mkdtemp())
            Delay(app)
            ran = threading.Event()
            def often():
                ran.set()
            # Overlapping: on a busy machine a run may last longer than that.
            using(every=0.001, overlap=True).delay(often)
            using(every=3600).delay(often)
            assert ran.wait(20)
        """)
    )
    assert (done.rc, done.out, done.err) == (0, "", "")
    assert time.monotonic() - started < 15


# --- What cannot be one, or does not run ---------------------------------------------


@pytest.mark.parametrize("wrong", [None, 5, "name"])
def test_what_is_no_function(jobs, wrong):
    with pytest.raises(TypeError, match="callable"):
        start(jobs, wrong, every=RARELY)


def test_arguments_are_checked(executor):
    def check(value):
        if value == "bad":
            raise TypeError("this one is bad")

    jobs = Jobs(executor, check=check)
    with pytest.raises(TypeError, match="this one is bad"):
        start(jobs, int, "bad", every=RARELY)


def test_jobs_that_are_not_active(executor, tmp_path):
    jobs = Jobs(executor, folder=tmp_path / "delay", active=False)
    count = Count()
    job = start(jobs, count, every=OFTEN, key="count")
    assert job.next_run > datetime.now(UTC)
    time.sleep(3 * OFTEN)
    assert not count.times
    assert job.cancel()
    # There is nothing to agree on with other processes.
    assert list(tmp_path.iterdir()) == []


# --- The native parts -----------------------------------------------------------------


def test_rhythm():
    rhythm = _Rhythm(every=0.5)
    assert rhythm.after(1_700_000_000_200_000_000) == 1_700_000_000_500_000_000
    assert rhythm.has_come(5, 5, 5)
    assert not rhythm.has_come(6, 5, 6)
    with pytest.raises(ValueError, match="one of"):
        _Rhythm()
    with pytest.raises(ValueError, match="'every' is -1"):
        _Rhythm(every=-1)


def test_ticker_can_be_started_again(executor):
    ticks = []
    more = threading.Event()

    def call(tick):
        ticks.append(tick)
        if len(ticks) >= 3:
            more.set()

    ticker = _Ticker(executor, _Rhythm(every=OFTEN), call)
    assert ticker.next is None
    for _ in range(3):
        ticks.clear()
        more.clear()
        ticker.start()
        ticker.start()
        assert ticker.next > time.time_ns() - 10**9
        assert more.wait(DEADLINE)
        ticker.stop()
        ticker.stop()
        assert ticker.next is None
        assert len(set(ticks)) == len(ticks)
        assert all(tick % 50_000_000 == 0 for tick in ticks)
    assert not ticker.over
    executor.shutdown()
    assert ticker.over
