"""Tasks in worker processes: what they see, what comes back, what ends them."""

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from functools import partial

import pytest
from flask import Flask
from tests.processes.conftest import DEADLINE, ended, is_gone, python, read, until

from flask_delay import (
    Delay,
    ProcessDied,
    TaskTimeout,
    chain,
    current_task,
    delay,
    gather,
    task,
    using,
)

# Those of the app that most tests share.
pytestmark = [pytest.mark.keeps_threads, pytest.mark.servers]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "told"


# --- What a task sees ---------------------------------------------------------------


def test_a_task_runs_in_a_child_with_the_app(app, crunch):
    future = delay(crunch.whereabouts, 7)
    seen = future.result(DEADLINE)
    assert seen.pop("pid") != os.getpid()
    assert seen.pop("parent") == os.getpid()
    assert seen == {"app": "crunch", "id": future.id, "thread": True, "value": 7}


def test_the_child_is_used_again(make_app, crunch):
    with make_app(DELAY_PROCESSES=1).app_context():
        pids = {delay(os.getpid).result(DEADLINE) for _ in range(5)}
        assert len(pids) == 1


def test_as_many_at_once_as_there_are_processes(app, crunch, tmp_path):
    paths = [tmp_path / name for name in "ab"]
    futures = [delay(crunch.stay, path) for path in paths]
    assert len({read(path) for path in paths}) == 2
    for future in futures:
        assert future.stop(after=0)
        assert ended(future).cancelled()


def test_figures(make_app, crunch):
    background = make_app().extensions["delay"].owner
    for backend in ("processes", "threads", "processes"):
        background.using(backend=backend).delay(crunch.double, 2).result(DEADLINE)
    assert background.drain(DEADLINE)
    stats = background.stats()
    assert stats["done"] == 3
    names = ("double", "double (processes)")
    assert [stats["tasks"][name]["done"] for name in names] == [1, 2]


def test_what_follows_a_task_runs_in_a_child_too(app, crunch):
    pids = delay(crunch.double, 2).then(lambda four: (four, os.getpid()))
    four, pid = pids.result(DEADLINE)
    assert four == 4
    assert pid != os.getpid()
    both = gather(crunch.double.delay(1), crunch.double.delay(3))
    value, _, pid = both.then(task(timeout=DEADLINE)(sum)).then(crunch.coroutine).result(DEADLINE)
    assert value == 8
    assert pid != os.getpid()
    assert chain(crunch.double, crunch.whereabouts).delay(1).result(DEADLINE)["value"] == 2


def test_what_follows_a_task_runs_where_it_is_said(app):
    def where(_):
        return os.getpid()

    here, there = (using(backend=name).delay(int) for name in ("threads", "processes"))
    assert here.then(where).result(DEADLINE) == os.getpid()
    assert there.then(task(backend="threads")(where)).result(DEADLINE) == os.getpid()
    background = app.extensions["delay"].owner
    for decorate in (task, background.task):
        followed = here.then(decorate(backend="processes")(where))
        assert followed.result(DEADLINE) != os.getpid()
        assert followed.name == where.__qualname__


def test_a_step_that_fails_and_runs_again(app, crunch):
    again = using(backend="threads").delay(int).then(task(backend="processes", retry=2)(shaky))
    assert (again.result(DEADLINE), again.attempts) == (2, 2)
    failed = delay(int).then(lambda _: 1 / 0)
    assert isinstance(failed.exception(DEADLINE), ZeroDivisionError)
    assert "in the worker process" in str(failed.exception().__cause__)


def shaky(_):
    if current_task.attempt < 2:
        raise ConnectionError
    return current_task.attempt


def test_a_step_that_cannot_be_sent_is_refused(app):
    lock = threading.Lock()
    future = delay(int)
    with pytest.raises(TypeError, match="the function of task .*cannot be sent"):
        future.then(lambda _: lock)
    with pytest.raises(TypeError, match="async generator"):
        future.then(generate)
    with pytest.raises(ValueError, match="'request' is not for this backend"):
        future.then(task(request=True)(int).using(backend="processes"))
    # Its argument is known too late for that.
    unsendable = using(backend="threads").delay(lambda: lock)
    error = unsendable.then(task(backend="processes")(str)).exception(DEADLINE)
    assert isinstance(error, TypeError)
    assert "argument 1 of task 'str'" in str(error)


async def generate(value):
    yield value


def test_a_dropped_app_takes_its_children_with_it(crunch, recwarn):
    app = crunch.create_app()
    with app.app_context():
        pid = delay(os.getpid).result(DEADLINE)
        assert app.extensions["delay"].owner.drain(DEADLINE)
    dropped = weakref.ref(app)
    del app

    def is_dropped():
        gc.collect()
        return dropped() is None

    until(is_dropped)
    assert is_gone(pid)
    assert [it for it in recwarn.list if "subprocess" in str(it.message)] == []


def test_a_child_ends_after_shutdown_without_waiting(make_app, crunch, path):
    app = make_app()
    with app.app_context():
        idle, future = delay(os.getpid), delay(crunch.whereabouts)
        idle, other = idle.result(DEADLINE), future.result(DEADLINE)["pid"]
        app.extensions["delay"].owner.shutdown(wait=False)
    until(lambda: is_gone(idle) and is_gone(other))


def test_a_child_at_work_ends_after_its_task_when_all_was_shut_down(make_app, crunch, path):
    app = make_app()
    with app.app_context():
        future = delay(crunch.stay, path, 0.3)
        pid = read(path)
        app.extensions["delay"].owner.shutdown(wait=False)
        assert not is_gone(pid)
        future.result(DEADLINE)
    # And is no zombie, though nobody starts another one.
    until(lambda: is_gone(pid))


def test_log_and_output_of_a_child(tmp_path, crunch):
    script = """
from crunch import create_app, log
from flask_delay import delay
with create_app().app_context():
    delay(log)
"""
    run = python(script)
    assert run.stdout.split("\n") == ["printed in there", "run in there", ""]
    assert run.stderr.endswith(" logged in there\n")


def test_a_nested_task_runs_in_the_child(app, crunch, path):
    pid, *others = delay(crunch.nested, path).result(DEADLINE)
    assert others == [pid, pid]
    assert read(path) == pid


def test_no_job_runs_in_a_child(app, crunch, path):
    assert delay(crunch.job, path).result(DEADLINE) is None
    assert not path.exists()


# --- What is carried ----------------------------------------------------------------


def test_closures_lambdas_and_partials(app, crunch):
    here = os.getpid()
    assert delay(lambda value: (value, here), 1).result(DEADLINE) == (1, here)
    assert delay(partial(crunch.double.__wrapped__, 4)).result(DEADLINE) == 8
    assert delay(crunch.double, 3).result(DEADLINE) == 6


def test_methods(app, crunch):
    thing = crunch.Doubler(3)
    assert thing.times.delay(5).result(DEADLINE) == 15


def test_an_argument_that_cannot_be_pickled(app, crunch):
    lock = threading.Lock()
    with pytest.raises(TypeError, match=r"argument 2 of task 'max', <unlocked .*cannot pickle"):
        delay(max, 1, lock)
    with pytest.raises(TypeError, match="the argument 'key' of task 'max', "):
        delay(max, 1, key=lock)
    with pytest.raises(TypeError, match="the function of task '<lambda>'"):
        delay(eval("lambda: lock", {"lock": lock}))


def test_what_is_no_function(app):
    with pytest.raises(TypeError, match="async generator"):
        delay(generate, 1)


def test_a_remote_traceback_is_the_tasks(app, crunch):
    error = ended(delay(crunch.fail, LookupError)).exception()
    assert "in fail\n" in str(error.__cause__)
    assert "flask_delay" not in str(error.__cause__)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_exceptions_that_end_programs(app, crunch, kind):
    before = delay(os.getpid).result(DEADLINE)
    assert type(ended(delay(crunch.fail, kind)).exception()) is kind
    assert not is_gone(before)


def test_an_exception_that_cannot_be_pickled(app, crunch):
    error = ended(delay(crunch.stubborn)).exception()
    assert type(error) is RuntimeError
    assert "crunch.Stubborn: one" in str(error)
    assert "in stubborn\n" in str(error.__cause__)


def test_a_long_message_is_shown_in_part(app, crunch):
    error = ended(delay(fail_at_length)).exception()
    assert len(error.args[0]) == 5_000_000
    assert len(str(error.__cause__)) < 250_000
    assert "characters are left out" in str(error.__cause__)


def fail_at_length():
    raise LookupError("x" * 5_000_000)


# --- Options ------------------------------------------------------------------------


def test_a_timeout_ends_the_child(app, crunch, path):
    begin = time.monotonic()
    future = using(timeout=1.0).delay(crunch.stay, path)
    error = ended(future).exception()
    assert type(error) is TaskTimeout
    assert "1.0 s" in str(error).replace("1 s", "1.0 s")
    assert time.monotonic() - begin < 3
    until(lambda: is_gone(read(path)))
    assert delay(crunch.whereabouts).result(DEADLINE)["app"] == "crunch"


def test_stop_is_heard_in_the_child(app, crunch, path):
    future = delay(crunch.obey, path)
    pid = read(path)
    assert future.stop(after=None)
    assert ended(future).cancelled()
    assert not is_gone(pid)


def test_stop_ends_the_child(app, crunch, path):
    future = delay(crunch.stay, path)
    pid = read(path)
    assert future.stop(after=0.05)
    assert ended(future).cancelled()
    until(lambda: is_gone(pid))


def test_an_app_is_needed(make_app):
    app = make_app(DELAY_APP=None)
    with app.app_context(), pytest.raises(ValueError, match='DELAY_APP is None.*"module:app"'):
        delay(int)


def test_an_app_that_cannot_be_loaded(make_app, capfd):
    with make_app(DELAY_APP="crunch:nothing").app_context():
        error = ended(delay(int)).exception()
    assert type(error) is RuntimeError
    assert "cannot load the app 'crunch:nothing'" in str(error)
    assert "nothing" in str(error.__cause__)


def test_a_tasks_backend_is_kept(app, crunch):
    """`delay(push, 7)` and `using(...).delay(push, 7)` ran on a thread of the server."""
    crunched = task(backend="processes")(crunch.whereabouts)
    threads = app.extensions["delay"].owner.using(backend="threads")
    there = [
        delay(crunched, 7),
        using(timeout=60).delay(crunched, 7),
        delay(partial(crunched, 7)),
        app.extensions["delay"].owner.delay(crunched, 7),
    ]
    assert os.getpid() not in [it.result(DEADLINE)["pid"] for it in there]
    assert threads.delay(crunched, 7).result(DEADLINE)["pid"] == os.getpid()


def test_a_named_delay(crunch):
    app = Flask("named", static_folder=None)
    app.config.update(HEAVY_APP="crunch:create_app()", HEAVY_PROCESSES=1)
    heavy = Delay(app, name="heavy")
    assert heavy.delay(os.getpid).result(DEADLINE) == os.getpid()
    assert heavy.using(backend="processes").delay(os.getpid).result(DEADLINE) != os.getpid()
    heavy.shutdown()


# --- Death and exit -----------------------------------------------------------------


def test_a_killed_child_fails_its_own_task_alone(app, crunch, tmp_path):
    paths = [tmp_path / name for name in "ab"]
    doomed, other = delay(crunch.stay, paths[0]), delay(crunch.stay, paths[1], 0.5)
    pid, survivor = map(read, paths)
    os.kill(pid, signal.SIGKILL)
    error = ended(doomed).exception()
    assert type(error) is ProcessDied
    assert f"process {pid} was killed by signal 9" in str(error)
    assert other.result(DEADLINE) == survivor
    pids = [delay(os.getpid) for _ in range(4)]
    assert pid not in {it.result(DEADLINE) for it in pids}
    assert is_gone(pid)


def test_a_death_is_seen_while_offspring_lives(app, crunch):
    begin = time.monotonic()
    assert type(ended(delay(crunch.die_with_offspring)).exception()) is ProcessDied
    assert time.monotonic() - begin < 4


def test_an_idle_child_that_died_is_replaced(make_app):
    with make_app(DELAY_PROCESSES=1).app_context():
        pid = delay(os.getpid).result(DEADLINE)
        os.kill(pid, signal.SIGKILL)
        # Dead, threads and all, and left for whoever started it to wait for.
        until(lambda: os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG))
        assert delay(os.getpid).result(DEADLINE) != pid


def test_a_child_is_replaced_after_so_many_tasks(make_app):
    with make_app(DELAY_PROCESSES=1, DELAY_PROCESSES_MAX_TASKS=2).app_context():
        pids = [delay(os.getpid).result(DEADLINE) for _ in range(5)]
    assert [pids.index(pid) for pid in pids] == [0, 0, 2, 2, 4]
    assert is_gone(pids[0])


def test_a_child_that_uses_much_memory_is_replaced(make_app, crunch):
    # More than a worker process takes, however many libraries it has imported.
    with make_app(DELAY_PROCESSES=1, DELAY_PROCESSES_MAX_RSS=300_000_000).app_context():
        pids = [delay(os.getpid).result(DEADLINE) for _ in range(2)]
        assert delay(crunch.hold, 300_000_000).result(DEADLINE) == pids[0]
        pids.append(delay(os.getpid).result(DEADLINE))
    assert pids[0] == pids[1] != pids[2]
    assert is_gone(pids[0])


def test_a_bound_on_memory_that_each_child_exceeds_is_reported_once(make_app, caplog):
    with make_app(DELAY_PROCESSES=1, DELAY_PROCESSES_MAX_RSS=1).app_context():
        pids = {delay(os.getpid).result(DEADLINE) for _ in range(5)}
    assert len(pids) == 5
    [record] = [it for it in caplog.records if "PROCESSES_MAX_RSS" in it.getMessage()]
    assert record.getMessage().startswith(
        "DELAY_PROCESSES_MAX_RSS is 1, but the last 3 worker processes had more than that in use"
    )


def test_a_child_that_is_replaced_finishes_what_it_has_accepted(make_app, crunch, tmp_path):
    path = tmp_path / "done"
    with make_app(DELAY_PROCESSES=1, DELAY_PROCESSES_MAX_TASKS=1).app_context():
        delay(crunch.submit_there, path).result(DEADLINE)
        delay(int).result(DEADLINE)
    assert until(path.exists)


@pytest.mark.parametrize("key", ["DELAY_PROCESSES_MAX_TASKS", "DELAY_PROCESSES_MAX_RSS"])
@pytest.mark.parametrize("bad", [0, -1, 1.5, "many", True])
def test_a_bad_bound_on_a_child(make_app, key, bad):
    with pytest.raises(ValueError, match=f"{key} is {bad!r}, but must be"):
        make_app(**{key: bad})


def test_a_bound_on_memory_needs_a_system_that_tells(make_app, monkeypatch):
    def untold(_process):
        raise FileNotFoundError

    monkeypatch.setattr("flask_delay.backends.processes.backend.rss_of", untold)
    app = make_app(DELAY_PROCESSES_MAX_RSS=1)
    with (
        app.app_context(),
        pytest.raises(ValueError, match="DELAY_PROCESSES_MAX_RSS is set, but this system has no"),
    ):
        delay(int)


def test_shutdown_ends_the_children(make_app):
    app = make_app()
    with app.app_context():
        pid = delay(os.getpid).result(DEADLINE)
    app.extensions["delay"].owner.shutdown()
    assert is_gone(pid)


EXIT = """
import sys, time
from pathlib import Path
from crunch import create_app, nested, stay
from flask_delay import delay

folder = Path(sys.argv[1])
with create_app(DELAY_PROCESSES=1, DELAY_SHUTDOWN_TIMEOUT=float(sys.argv[2])).app_context():
    for number in range(3):
        delay(stay, folder / str(number), float(sys.argv[3]))
    delay(nested, folder / "nested")
"""


# The first task is at it when the process ends.
BEGUN = (
    EXIT
    + """
while not (folder / "0").exists():
    time.sleep(0.01)
"""
)


def test_accepted_tasks_end_before_the_exit(tmp_path):
    run = python(EXIT, tmp_path, 15, 0.1)
    assert run.stderr == ""
    pids = {read(path) for path in tmp_path.iterdir()}
    assert len(list(tmp_path.iterdir())) == 4
    assert len(pids) == 1
    assert all(map(is_gone, pids))


def test_what_takes_too_long_at_exit(tmp_path):
    run = python(BEGUN, tmp_path, 1, 60)
    assert "4 tasks did not finish before exit and were cancelled" in run.stderr
    assert "Traceback" not in run.stderr
    [path] = tmp_path.iterdir()
    assert is_gone(read(path))


def test_children_end_with_a_killed_parent(tmp_path):
    script = BEGUN + "import os; os.kill(os.getpid(), 9)"
    run = python(script, tmp_path, 15, 60, check=False)
    assert run.returncode == -9
    pid = read(tmp_path / "0")
    until(lambda: is_gone(pid))


FORK = """
import json, os, sys
from crunch import create_app, double
from flask_delay import delay

with create_app(DELAY_PROCESSES=1).app_context():
    before = delay(os.getpid).result()
    pid = os.fork()
    after = delay(os.getpid).result()
    print(json.dumps([pid == 0, before, after]), flush=True)
if pid:
    assert os.waitpid(pid, 0)[1] == 0
    with create_app().app_context():
        assert double.delay(1).result() == 2
"""


def test_after_a_fork_each_process_has_its_own():
    run = python(FORK)
    assert run.stderr == ""
    results = {
        forked: (before, after)
        for forked, before, after in map(json.loads, run.stdout.split("\n")[:-1])
    }
    before, after = results[False]
    assert before == after
    assert results[True][1] != before


UNGUARDED = """
from flask import Flask
from flask_delay import Delay, task

app = Flask(__name__, static_folder=None)
app.config.update(DELAY_APP="unguarded:app", DELAY_BACKEND="processes")
Delay(app)
print("imported", __name__, flush=True)

@task
def add(one, two):
    # A global that cannot be pickled: it must be the module's own there.
    return app.name, one + two

if __name__ == "__main__":
    with app.app_context():
        print(add.delay(1, 2).result(), flush=True)
else:
    app.run()
"""


def test_a_program_is_not_run_again(tmp_path):
    program = tmp_path / "unguarded.py"
    program.write_text(UNGUARDED)
    run = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    lines = [line for line in run.stdout.split("\n") if line.startswith("imported")]
    assert lines == ["imported __main__", "imported unguarded"]
    assert "('unguarded', 3)\n" in run.stdout


def test_the_backend_is_imported_for_its_first_task(tmp_path):
    script = """
import sys
from flask import Flask
from flask_delay import Delay, delay
app = Flask("plain", static_folder=None)
Delay(app)
with app.app_context():
    assert delay(int).result() == 0
assert not {"cloudpickle", "multiprocessing", "flask_delay.backends.processes"} & set(sys.modules)
"""
    assert python(script).stderr == ""
