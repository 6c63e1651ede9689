"""Who runs a job at a tick: one of many processes, and another one after that."""

import fcntl
import gc
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
import weakref
from pathlib import Path

import pytest

from flask_delay import DuplicateTask
from flask_delay.periodic.job import Jobs
from flask_delay.periodic.leader import lead
from flask_delay.servers import role

from .helpers import DEADLINE, Gate
from .jobs import OFTEN, RARELY, Count, Run, note, start, take


def test_who_comes_first_runs_it(tmp_path, elsewhere):
    folder, run = tmp_path / "new", Run()
    mine = lead(folder, "job", "shop.tidy")
    assert take(mine, 10).runs
    mine.hold(run)
    assert note(folder) == {
        "job": "shop.tidy",
        "tick": 10,
        "pid": os.getpid(),
        "left_out": 0,
        "paused": False,
    }
    # Once at each tick.
    assert not take(mine, 10).runs
    assert elsewhere(folder, 10).startswith("False 0")
    # While a run goes on nobody runs it; the ticks are counted, by whoever sees them first.
    assert elsewhere(folder, 20) == f"False 1 {os.getpid()}"
    assert take(mine, 20).left_out == 0
    assert take(mine, 30)[:3] == (False, 2, os.getpid())
    # To read it here lets go of the locks; at the next tick they are had again.
    next(folder.iterdir()).read_text()
    assert take(mine, 35).left_out == 3
    assert elsewhere(folder, 40) == f"False 4 {os.getpid()}"
    run.end()
    # What was left out is not run afterwards.
    assert elsewhere(folder, 40).startswith("False 0")
    assert elsewhere(folder, 50).startswith("True 0")
    assert not take(mine, 50).runs
    assert take(mine, 60).runs


def test_runs_that_may_overlap_hold_nothing(tmp_path, elsewhere):
    mine = lead(tmp_path, "job", "job")
    assert take(mine, 10, alone=False).runs
    assert take(mine, 20, alone=False).runs
    assert elsewhere(tmp_path, 20).startswith("False 0")
    assert elsewhere(tmp_path, 30).startswith("True")


def test_a_run_that_never_began(tmp_path, elsewhere):
    mine = lead(tmp_path, "job", "job")
    assert take(mine, 10).runs
    mine.end()
    assert elsewhere(tmp_path, 20).startswith("True")


def test_an_earlier_run_does_not_end_a_later_one(tmp_path, elsewhere):
    mine, first, second = lead(tmp_path, "job", "job"), Run(), Run()
    assert take(mine, 10).runs
    mine.hold(first)
    first.ended = True
    # It is done, and its callbacks take their time.
    assert take(mine, 20).runs
    mine.hold(second)
    first.end()
    assert elsewhere(tmp_path, 30).startswith("False 1")
    second.end()
    assert elsewhere(tmp_path, 40).startswith("True")


def test_one_process_has_one_of_each(tmp_path):
    first = lead(tmp_path, "job", "job")
    assert lead(tmp_path, "job", "job") is first
    assert lead(tmp_path, "other", "job") is not first
    assert take(first, 1).runs
    gone = weakref.ref(first)
    del first
    gc.collect()
    assert gone() is None
    assert take(lead(tmp_path, "job", "job"), 2).runs


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


def test_several_owners_in_one_folder(tmp_path, executor):
    one, two = (Jobs(executor, folder=tmp_path, owner=owner) for owner in ("one ", "two "))
    first, second = (start(jobs, int, every=RARELY) for jobs in (one, two))
    assert first.id != second.id
    assert first._lead is not second._lead
    assert len(list(tmp_path.iterdir())) == 2


PROCESS = """
import os, sys, time
from pathlib import Path
from flask_delay import Executor
from flask_delay.periodic.job import Jobs
from flask_delay.options import Chosen, submitter

def run():
    os.write(1, f"{os.getpid()} {time.time()}\\n".encode())

jobs = Jobs(Executor(1), folder=Path(sys.argv[1]))
submitter(Chosen({"every": 0.1}), jobs, None)(run)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kills by POSIX signals")
def test_when_one_dies_others_go_on(tmp_path):
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

    dead = []
    try:
        for _ in range(3):
            wait_for(lambda found: sum(pid not in dead for pid, _ in found) >= 4)
            dead.append(runs()[-1][0])
            (victim,) = (each for each in processes if each.pid == dead[-1])
            victim.send_signal(signal.SIGKILL)
            victim.wait()
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert len(set(dead)) == 3
    # Each tick once.
    times = [at for _, at in runs()]
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
    monkeypatch.setattr(role, "watches_only", lambda: not job.cancel())
    job._tick(time.time_ns())
    assert job.cancelled
    assert executor.drain(DEADLINE)
    assert takes(folder, run_script)
    assert job.last is None or job.last.done()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_child_has_the_jobs_too(run_script, tmp_path):
    done = run_script(
        textwrap.dedent("""
            import os, time
            from pathlib import Path
            from flask_delay import Executor
            from flask_delay.periodic.job import Jobs
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
            # Whichever comes first; without the parent it is the child.
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
            from flask_delay.periodic.job import Jobs
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
            import logging, multiprocessing, os, tempfile, time
            from flask import Flask
            from flask_delay import Delay, using

            # On a busy machine it says that a run takes longer than the time between two.
            logging.getLogger("flask_delay").setLevel(logging.ERROR)
            app = Flask(__name__, instance_path=tempfile.mkdtemp())
            Delay(app)

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
    monkeypatch.setattr(role, "watches_only", lambda: True)
    one = Jobs(jobs.executor, folder=tmp_path)
    count = Count()
    job = start(one, count, every=OFTEN, key="count")
    while job._ticker.next is not None:
        time.sleep(0.001)
    assert not count.times
    assert take(job._lead, 1).runs, "it holds no lock"
    # It still tells, for the processes that it watches.
    assert job.next_run is not None


# --- Processes that are busy, or hang -------------------------------------------------

BUSY = """
import os, sys, threading, time
from pathlib import Path
from flask_delay import Executor
from flask_delay.periodic.job import Jobs
from flask_delay.options import Chosen, submitter

def run():
    os.write(1, f"{os.getpid()} ran\\n".encode())

jobs = Jobs(Executor(1), folder=Path(sys.argv[1]))
go = threading.Event()
submitter(Chosen({"every": 0.1}), jobs, None)(run)
for line in sys.stdin:
    if line == "busy\\n":
        jobs.executor.submit(go.wait)
        os.write(1, f"{os.getpid()} busy\\n".encode())
go.set()
"""


def lines(process, until):
    """What a process writes, up to a line that ends so."""
    found = []
    while not found or not found[-1].endswith(until):
        found.append(process.stdout.readline().strip())
        assert found[-1], found
    return found


def test_a_busy_process_holds_no_job_back(tmp_path):
    """The one that has run it last has no thread free, and another one is idle."""
    script = tmp_path / "script.py"
    script.write_text(BUSY)
    command = [sys.executable, str(script), str(tmp_path / "delay")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as busy:
        lines(busy, "ran")
        busy.stdin.write("busy\n")
        busy.stdin.flush()
        lines(busy, "busy")
        with subprocess.Popen(command, **pipes) as idle:
            for _ in range(3):
                lines(idle, "ran")
            idle.stdin.close()
        busy.stdin.close()


def test_a_stopped_process_holds_no_job_back(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(BUSY)
    command = [sys.executable, str(script), str(tmp_path / "delay")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as stopped:
        try:
            lines(stopped, "ran")
            (path,) = (tmp_path / "delay").iterdir()
            with path.open("r+") as file:
                while True:
                    stopped.send_signal(signal.SIGSTOP)
                    try:
                        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        # In the middle of a run; then the job waits for that.
                        stopped.send_signal(signal.SIGCONT)
                        time.sleep(0.001)
                    else:
                        break
            with subprocess.Popen(command, **pipes) as other:
                for _ in range(3):
                    lines(other, "ran")
                other.stdin.close()
        finally:
            stopped.kill()


def test_a_run_that_hangs_is_said_by_others(tmp_path, executor, caplog, run_script):
    """In a process that cannot say so itself."""
    gate = Gate()
    other = Jobs(executor, folder=tmp_path)
    hangs = start(other, gate, every=RARELY, key="gate")
    hangs._tick(1)
    assert gate.entered.wait(DEADLINE)
    with pytest.raises(
        DuplicateTask,
        match=f"{hangs} goes on in process {os.getpid()}".replace("(", "[(]").replace(")", "[)]"),
    ):
        hangs.run_now()
    code = f"""
        import logging
        from pathlib import Path
        from flask_delay import Executor
        from flask_delay.periodic.job import Jobs
        from tests.core.helpers import Gate
        from tests.core.jobs import start

        logging.basicConfig(format="%(message)s")
        jobs = Jobs(Executor(1), folder=Path({str(tmp_path)!r}))
        job = start(jobs, Gate(), every={RARELY}, key="gate")
        for tick in range(2, 14):
            job._tick(tick)
        assert job.last is None
    """
    done = run_script(textwrap.dedent(code), env={"PYTHONPATH": str(Path(__file__).parents[2])})
    gate.open()
    assert (done.rc, done.out) == (0, ""), done.err
    said = f"job {hangs} is left out, since its last run goes on in process {os.getpid()} (so far"
    first, tenth = done.err.splitlines()
    assert first.startswith(f"{said} 1 in a row")
    assert tenth.startswith(f"{said} 10 in a row")
    assert "'timeout'" in first


def test_ticks_that_nobody_took_are_said(tmp_path, executor, caplog):
    job = start(Jobs(executor, folder=tmp_path), int, every=RARELY)
    now = time.time_ns()
    second = 10**9
    hour = RARELY * second
    job._since = now - 10 * hour
    with caplog.at_level(logging.WARNING, "flask_delay"):
        for at in (now - 5 * hour, now - 4 * hour):
            job._tick(at - at % hour)
            assert executor.drain(DEADLINE)
        assert not caplog.records
        job._tick(now - now % hour)
        assert executor.drain(DEADLINE)
    (record,) = caplog.records
    assert f"job {job} did not run at " in record.getMessage()
    caplog.clear()
    # Where nobody had the job, nobody is to blame.
    again = start(Jobs(executor, folder=tmp_path), int, every=RARELY)
    again._since = now + 2 * hour
    again._tick(now - now % hour + 3 * hour)
    assert executor.drain(DEADLINE)
    assert not caplog.records
