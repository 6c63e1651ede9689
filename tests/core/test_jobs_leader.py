"""Who runs a job: one of many processes, and another one after that."""

import gc
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import weakref

import pytest

from flask_delay import supervision
from flask_delay.jobs import Jobs
from flask_delay.leader import lead

from .helpers import DEADLINE, Gate
from .jobs import OFTEN, RARELY, Count, start


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
