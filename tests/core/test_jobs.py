"""Jobs: what runs again and again, in one process and in one of many."""

import functools
import gc
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from flask_delay import Executor, Job, supervision
from flask_delay._native import _Rhythm, _Ticker
from flask_delay.jobs import Jobs
from flask_delay.leader import lead
from flask_delay.options import Chosen, submitter

from .helpers import DEADLINE, Gate, Thing

OFTEN = 0.05
RARELY = 3600


@pytest.fixture
def executor():
    executor = Executor(2)
    yield executor
    executor.shutdown(cancel_futures=True)


@pytest.fixture
def jobs(executor):
    jobs = Jobs(executor)
    yield jobs
    jobs.cancel()


def start(jobs, fn, /, *args, **options):
    """Make a job of `fn(*args)` with these options."""
    return submitter(Chosen(options), jobs, None)(fn, *args)


class Count:
    """Counts its calls, with the times; may be waited for."""

    def __init__(self):
        self.times, self._more = [], threading.Condition()

    def __call__(self, *_):
        with self._more:
            self.times.append(time.time())
            self._more.notify_all()

    def wait_for(self, count):
        with self._more:
            return self._more.wait_for(lambda: len(self.times) >= count, DEADLINE)


# --- When it runs -------------------------------------------------------------------


@pytest.mark.parametrize("every", [OFTEN, timedelta(seconds=OFTEN)])
def test_it_runs_at_each_tick_without_drift(jobs, every):
    count = Count()
    job = start(jobs, count, every=every, key="count")
    assert isinstance(job, Job)
    assert count.wait_for(6)
    job.cancel()
    for at in count.times:
        # Counted from 1970, not from the run before: each is a little late, and no more.
        assert at % OFTEN < OFTEN / 2 or OFTEN - at % OFTEN < 1e-5, count.times


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
        ({"every": float("inf")}, ValueError, "'every' is inf"),
        ({"every": "60"}, TypeError, "'every' is '60'"),
        ({"every": True}, TypeError, "'every' is True"),
        ({"cron": "* * * * * *"}, ValueError, "'cron' is .* five fields"),
        ({"cron": "* * * *"}, ValueError, "'cron' is .* five fields"),
        ({"cron": "61 * * * *"}, ValueError, "'cron' is .*61"),
        ({"cron": ""}, ValueError, "'cron' is"),
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
        assert first.id in record.getMessage()
        assert job.name in record.getMessage()
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
            import threading, time
            from flask_delay import using

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


# --- Which one it is ------------------------------------------------------------------


def test_the_same_job_is_the_one_that_is_there(jobs):
    job = start(jobs, pow, 2, 3, every=RARELY)
    assert start(jobs, pow, 2, 3, every=RARELY) is job
    assert start(jobs, pow, 2, 3, every=timedelta(hours=1)) is job
    others = [
        start(jobs, pow, 2, 4, every=RARELY),
        start(jobs, max, 2, 3, every=RARELY),
        start(jobs, pow, 2, 3, every=RARELY / 2),
        start(jobs, pow, 2, 3, cron="0 * * * *"),
        start(jobs, pow, 2, 3, cron="0 * * * *", timezone="Asia/Tokyo"),
        start(jobs, pow, 2, 3, every=RARELY, key="mine"),
        start(jobs, pow, 2, 3, every=RARELY, key=lambda *args: args),
    ]
    assert len({id(each) for each in [job, *others]}) == 8
    assert len({each.name for each in [job, *others]}) == 8
    assert job.name == "builtins.pow(2, 3) every 3600 s"


def test_two_that_look_the_same(jobs):
    def make():
        return lambda: None

    job = start(jobs, make(), every=RARELY)
    with pytest.raises(ValueError, match="another function or with other arguments.*'key'"):
        start(jobs, make(), every=RARELY)
    assert jobs.all() == [job]
    assert start(jobs, make(), every=RARELY, key="two") is not job


@pytest.mark.parametrize(
    "call",
    [
        (int, object()),
        (Thing().method,),
        (functools.partial(lambda: None),),
        (lambda thing: thing, Thing()),
        # In an order that depends on the process.
        (max, {"one", "two"}),
        (len, [({"a": frozenset({"one", "two"})},)]),
    ],
)
def test_what_has_another_name_in_each_process(jobs, call):
    with pytest.raises(ValueError, match="another name in each process.*'key'"):
        start(jobs, *call, every=RARELY)
    assert start(jobs, *call, every=RARELY, key="one").next_run


def test_a_key_that_has_another_name_in_each_process(jobs):
    with pytest.raises(ValueError, match="another name in each process.*'key'"):
        start(jobs, int, every=RARELY, key=frozenset({"one", "two"}))
    assert start(jobs, max, {"one"}, every=RARELY).name == "builtins.max({'one'}) every 3600 s"


def test_the_main_module_has_one_name(jobs):
    """Also in processes that multiprocessing has started anew, where it is imported."""

    def fn():
        pass

    names = set()
    for module in ("__main__", "__mp_main__"):
        fn.__module__ = module
        job = start(jobs, fn, every=RARELY)
        names.add(job.name)
        job.cancel()
    assert len(names) == 1


async def _agen():
    yield


@pytest.mark.parametrize("wrong", [None, 5, "name", _agen])
def test_what_is_no_function(jobs, wrong):
    with pytest.raises(TypeError, match="callable|async generator"):
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


# --- Who runs it ----------------------------------------------------------------------


def never(last):
    return False


def test_who_has_the_lock_runs_it(tmp_path, run_script):
    mine = lead(tmp_path / "new", "job")
    assert mine.take(10, lambda last: last >= 10)
    # Once at each tick.
    assert not mine.take(10, lambda last: last >= 10)
    assert mine.take(20, lambda last: last >= 20)
    (file,) = (tmp_path / "new").iterdir()
    assert json.loads(file.read_text()) == {"job": "job", "pid": os.getpid(), "tick": 20}
    assert file.name.startswith("job-")
    # To read it here has let go of the lock; the next tick notices.
    assert mine.take(25, lambda last: last >= 25)
    # Another process gets it once this one has let go.
    code = f"""
        from pathlib import Path
        from flask_delay.leader import lead
        print(lead(Path({str(tmp_path / "new")!r}), "job").take(30, lambda last: last >= 30))
    """
    assert run_script(textwrap.dedent(code)).out == "False\n"
    mine.let_go()
    assert run_script(textwrap.dedent(code)).out == "True\n"
    # What that has run is not run again.
    assert not mine.take(30, lambda last: last >= 30)
    assert mine.take(40, lambda last: last >= 40)


def test_a_name_may_be_long(tmp_path):
    mine = lead(tmp_path, "job" * 10_000)
    assert mine.take(10, lambda last: last >= 10)
    assert not mine.take(10, lambda last: last >= 10)


def test_one_process_has_one_of_each(tmp_path):
    first = lead(tmp_path, "job")
    assert lead(tmp_path, "job") is first
    assert lead(tmp_path, "other") is not first
    assert first.take(1, never)
    gone = weakref.ref(first)
    del first
    gc.collect()
    assert gone() is None
    assert lead(tmp_path, "job").take(2, never)


def test_two_apps_in_one_process_run_it_once(tmp_path, executor):
    one, two = (Jobs(executor, folder=tmp_path) for _ in range(2))
    count = Count()
    for jobs in (one, two):
        start(jobs, count, every=OFTEN, key="count")
    assert count.wait_for(10)
    for jobs in (one, two):
        jobs.cancel()
    # One more for those that began with a tick that was late.
    assert len(count.times) <= (count.times[-1] - count.times[0]) / OFTEN + 2


def test_a_file_that_was_deleted(tmp_path):
    mine = lead(tmp_path, "job")
    assert mine.take(1, never)
    (file,) = tmp_path.iterdir()
    file.unlink()
    # By somebody who cleaned up; there is one again, and one process that has it.
    assert mine.take(2, never)
    (file,) = tmp_path.iterdir()
    assert json.loads(file.read_text())["tick"] == 2


@pytest.mark.parametrize("text", ["", "{", "[]", '{"tick": null}', "\0" * 50])
def test_a_file_that_was_half_written(tmp_path, text):
    mine = lead(tmp_path, "job")
    (file,) = tmp_path.iterdir()
    file.write_text(text)
    assert mine.take(1, lambda last: pytest.fail(f"{last} is no tick"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written(tmp_path, executor):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        start(Jobs(executor, folder=tmp_path / "delay"), int, every=RARELY)


def test_a_folder_that_is_none(tmp_path, executor):
    (tmp_path / "delay").write_text("")
    with pytest.raises(OSError, match="delay"):
        start(Jobs(executor, folder=tmp_path / "delay"), int, every=RARELY)


PROCESS = """
import os, sys, time
from pathlib import Path
from flask_delay import Executor
from flask_delay.jobs import Jobs
from flask_delay.options import Chosen, submitter

def run():
    os.write(1, f"{os.getpid()} {time.time()}\\n".encode())

jobs = Jobs(Executor(1), folder=Path(sys.argv[1]))
submitter(Chosen({"every": 0.1}), jobs, None)(run)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kills by POSIX signals")
def test_when_the_leader_dies_another_goes_on(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(PROCESS)
    command = [sys.executable, str(script), str(tmp_path / "delay")]
    output = tmp_path / "out"
    with output.open("w") as out:
        processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out) for _ in range(3)]

    def runs():
        lines = output.read_text().split("\n")[:-1]
        return [(int(pid), float(at)) for pid, at in map(str.split, lines)]

    def wait_for(predicate):
        end = time.monotonic() + DEADLINE
        while not predicate(runs()):
            assert time.monotonic() < end, runs()
            time.sleep(0.01)

    leaders = []
    try:
        for _ in range(3):
            wait_for(lambda found: sum(pid not in leaders for pid, _ in found) >= 4)
            leaders.append(runs()[-1][0])
            (victim,) = (each for each in processes if each.pid == leaders[-1])
            victim.send_signal(signal.SIGKILL)
            victim.wait()
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert len(set(leaders)) == 3
    found = runs()
    # One after another, and each tick once.
    assert [pid for pid, _ in found] == sorted((pid for pid, _ in found), key=leaders.index)
    times = [at for _, at in found]
    assert len(times) <= (times[-1] - times[0]) / 0.1 + 2


def test_a_process_that_ends_leaves_its_jobs_to_others(tmp_path):
    """While it waits for its tasks, which may take longer than it is to the only tick."""
    script, output, go = tmp_path / "script.py", tmp_path / "out", tmp_path / "go"
    script.write_text(
        PROCESS
        + textwrap.dedent("""
            def wait():
                while not Path(sys.argv[2]).exists():
                    time.sleep(0.01)

            jobs.executor.submit(wait)
        """)
    )
    command = [sys.executable, str(script), str(tmp_path / "delay"), str(go)]

    def wait_for(pid):
        end = time.monotonic() + DEADLINE
        while str(pid) not in output.read_text().split():
            assert time.monotonic() < end
            time.sleep(0.01)

    with (
        output.open("w") as out,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out) as first,
    ):
        try:
            wait_for(first.pid)
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out) as second:
                first.stdin.close()
                wait_for(second.pid)
                assert first.poll() is None
                go.touch()
                second.stdin.close()
                assert (first.wait(), second.wait()) == (0, 0)
        finally:
            go.touch()


def takes(tmp_path, run_script):
    """Whether another process gets the lock of the only job."""
    (file,) = tmp_path.iterdir()
    code = f"""
        import fcntl
        with open({str(file)!r}, "r+") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print("no")
            else:
                print("yes")
    """
    return run_script(textwrap.dedent(code)).out == "yes\n"


def test_a_cancelled_job_is_left_to_others_after_its_run(executor, tmp_path, run_script):
    folder = tmp_path / "delay"
    gate = Gate()
    job = start(Jobs(executor, folder=folder), gate, every=RARELY, key="gate")
    job._tick(time.time_ns())
    assert gate.entered.wait(DEADLINE)
    assert job.cancel()
    assert not takes(folder, run_script)
    gate.open()
    job.last.result(DEADLINE)
    assert executor.drain(DEADLINE)
    assert takes(folder, run_script)


def test_cancelled_when_it_is_about_to_run(executor, tmp_path, run_script, monkeypatch):
    folder = tmp_path / "delay"
    job = start(Jobs(executor, folder=folder), int, every=RARELY)
    # Called on the way to the lock.
    monkeypatch.setattr(supervision, "watches_only", lambda: not job.cancel())
    job._tick(time.time_ns())
    assert job.cancelled
    assert executor.drain(DEADLINE)
    assert takes(folder, run_script)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_child_has_the_jobs_too(run_script, tmp_path):
    done = run_script(
        textwrap.dedent("""
            import os, time
            from pathlib import Path
            from flask_delay import Executor
            from flask_delay.jobs import Jobs
            from flask_delay.options import Chosen, submitter

            def run():
                if os.getpid() != parent:
                    Path("child").touch()
                else:
                    Path("parent").touch()

            def wait_for(file):
                end = time.monotonic() + 20
                while not Path(file).exists():
                    assert time.monotonic() < end, file
                    time.sleep(0.01)

            parent = os.getpid()
            jobs = Jobs(Executor(1), folder=Path("delay"))
            submitter(Chosen({"every": 0.05}), jobs, None)(run)
            wait_for("parent")
            child = os.fork()
            if not child:
                wait_for("child")
                os._exit(0)
            # It has the lock, so the child must wait until it lets go.
            time.sleep(0.2)
            assert not Path("child").exists()
            jobs.cancel()
            assert os.waitpid(child, 0)[1] == 0
        """)
    )
    assert (done.rc, done.err) == (0, "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_closed_executor_keeps_no_jobs_from_a_forked_child(run_script):
    done = run_script(
        textwrap.dedent("""
            import os, threading
            from flask_delay import Executor
            from flask_delay.jobs import Jobs
            from flask_delay.options import Chosen, submitter

            ran = [threading.Event() for _ in range(4)]
            kept = [Jobs(Executor(1)) for _ in ran]
            for event, jobs in zip(ran, kept):
                submitter(Chosen({"every": 0.05, "key": 1}), jobs, None)(event.set)
            for jobs in kept[::2]:
                jobs.executor.shutdown()
            for event in ran:
                event.clear()
            child = os.fork()
            if not child:
                # Whatever the order in which they are gone through.
                os._exit(not all(event.wait(20) for event in ran[1::2]))
            assert os.waitpid(child, 0)[1] == 0
        """)
    )
    assert (done.rc, done.out, done.err) == (0, "", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_what_multiprocessing_forks_has_other_things_to_do(run_script):
    done = run_script(
        textwrap.dedent("""
            import multiprocessing, os, time
            from flask_delay import using

            def run():
                if os.getpid() != parent:
                    os.write(1, b"child")

            def work():
                time.sleep(0.3)

            parent = os.getpid()
            using(every=0.05).delay(run)
            process = multiprocessing.get_context("fork").Process(target=work)
            process.start()
            process.join()
            assert process.exitcode == 0
        """)
    )
    assert (done.rc, done.out, done.err) == (0, "", "")


def test_who_only_watches_has_none(jobs, tmp_path, monkeypatch):
    monkeypatch.setattr(supervision, "watches_only", lambda: True)
    one = Jobs(jobs.executor, folder=tmp_path)
    count = Count()
    job = start(one, count, every=OFTEN, key="count")
    while job._ticker.next is not None:
        time.sleep(0.001)
    assert not count.times
    assert job._lead.take(1, never), "has let go of the lock"
    # It still tells, for the processes that it watches.
    assert job.next_run is not None


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
