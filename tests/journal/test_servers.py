"""Durable tasks under a real server whose processes are stopped, poisoned, forked and replaced."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.journal.fleet import ROOT, Fleet, children, sailing
from tests.journal.record import judge, read_record, read_rows
from tests.servers.harness import poll

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gunicorn") is None, reason="gunicorn is not installed"
)


@pytest.fixture
def make_fleet(tmp_path: Path) -> Iterator[Callable[..., Fleet]]:
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(sailing(tmp_path, **settings))


def starts(fleet: Fleet) -> Counter[int]:
    """How often each task was started."""
    return Counter(it.number for it in read_record(fleet.record) if it.event == "start")


def problems(fleet: Fleet) -> list[str]:
    return judge(fleet.told, read_record(fleet.record), read_rows(fleet.journal)).problems


def owner(fleet: Fleet, number: int) -> int:
    """The process that runs this task."""
    assert poll(lambda: starts(fleet)[number]), fleet.log.read_text()
    return [it.pid for it in read_record(fleet.record) if it.number == number][-1]


# --- Stopped is not dead --------------------------------------------------------------


@pytest.mark.parametrize(
    "seconds", [4, pytest.param(60, marks=[pytest.mark.slow, pytest.mark.timeout(150)])]
)
def test_a_stopped_process_is_not_dead(make_fleet, seconds):
    """Its task is run by no other, however long it is stopped; others go on."""
    fleet = make_fleet(JOURNAL_TIMEOUT=1)
    fleet.start(workers=3, shares=False)
    assert fleet.submit(1, "wait_for_file")
    pid = owner(fleet, 1)
    os.kill(pid, signal.SIGSTOP)
    try:
        end = time.monotonic() + seconds
        number = 1
        while time.monotonic() < end:
            number += 1
            assert fleet.submit(number)
            time.sleep(0.05)
        # What the others have accepted they have run.
        assert poll(lambda: starts(fleet).total() == number)
        assert fleet.look(1) == "running"
        (fleet.folder / "go").touch()
        time.sleep(1.5)
        assert fleet.look(1) == "running"
    finally:
        os.kill(pid, signal.SIGCONT)
    assert fleet.wait_until_idle()
    assert set(starts(fleet).values()) == {1}
    assert problems(fleet) == []


# --- Poison ---------------------------------------------------------------------------


@pytest.mark.timeout(120)
def test_poison_ends_as_dead_letters_and_takes_nothing_with_it(make_fleet):
    """Each has exactly as many deaths as are allowed, among many others that run beside it."""
    fleet = make_fleet(JOURNAL_DEATHS=3)
    fleet.start("--preload", workers=4)
    poisonous = range(1_000_000, 1_000_006)
    with fleet.clients(3, pause=0.01):
        for number in poisonous:
            # So that the answer is not killed with the process, unless by another one.
            fleet.submit(number, "poison?countdown=0.3")
            time.sleep(0.2)
        assert poll(lambda: fleet.count(9) >= len(fleet.told.accepted.keys() & set(poisonous)), 60)
    assert fleet.wait_until_idle()
    events = [it for it in read_record(fleet.record) if it.number in poisonous]
    dead = {id: row for id, row in read_rows(fleet.journal).items() if row.state == "dead"}
    # Those whose answer was lost may have been accepted too.
    assert {fleet.told.accepted.pop(it) for it in poisonous if it in fleet.told.accepted} <= set(
        dead
    )
    assert {row.deaths for row in dead.values()} == {3}
    counts = Counter(it.number for it in events)
    assert len(counts) == len(dead) >= 1
    assert set(counts.values()) == {3}
    # Each death is another process's, and nothing else is done again without one.
    fleet.told.killed |= {it.pid: it.at for it in events}
    assert len(fleet.told.killed) == len(events)
    assert problems(fleet) == []


# --- Forks ----------------------------------------------------------------------------

FORKING = '''
import os
import sqlite3
import time

from flask import request

from tests.journal.served import FUNCTIONS, app, executor, work

path = app.config["DELAY_JOURNAL"]


def tell(text):
    with open(os.environ["RECORD"] + ".told", "a") as file:
        file.write(text + "\\n")


@app.post("/fork/<int:number>")
def fork(number):
    """Accept a task in a child, and wait there for one of this process."""
    here = work.delay(number)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            there = work.delay(number + 1)
            tell(f"{number + 1} {there.id}")
            found = executor.get(here.id)
            code = not (there.result(20) == number + 1 and found.result(20) == number
                        and here.result(20) == number)
        finally:
            os._exit(code)
    status = os.waitpid(pid, 0)[1]
    return {"id": here.id, "code": status, "result": here.result(20)}


@app.post("/orphan/<int:number>")
def orphan(number):
    """A child that goes on accepting tasks when its parent has gone."""
    here = work.delay(number)
    if os.fork() == 0:
        # So many after the parent has gone.
        parent, left = os.getppid(), 20
        try:
            while left:
                number += 1
                tell(f"{number} {work.delay(number).id}")
                left -= os.getppid() != parent
                time.sleep(0.005)
            tell("over")
        finally:
            os._exit(0)
    return {"id": here.id, "pid": os.getpid()}


@app.post("/stray/<int:number>")
def stray(number):
    """Open the file by other means, and close it, in this very process."""
    with open(path, "rb") as file:
        file.read()
    other = sqlite3.connect(path)
    found = other.execute("SELECT count(*) FROM task").fetchone()[0]
    other.close()
    return {"id": work.delay(number).id, "pid": os.getpid(), "found": found}
'''


@pytest.fixture
def forking(make_fleet) -> Fleet:
    fleet: Fleet = make_fleet()
    (fleet.folder / "forking.py").write_text(FORKING)
    return fleet


def told_by_children(fleet: Fleet) -> None:
    """Take over what the children have accepted."""
    for line in Path(f"{fleet.record}.told").read_text().splitlines():
        if line != "over":
            number, id = line.split()
            fleet.told.accepted[int(number)] = id


def test_a_fork_in_a_view(forking: Fleet):
    """With the pool and the journal in use before, and again in the child."""
    forking.start(workers=2, app="forking:app")
    with forking.clients(2, pause=0.01):
        for number in range(1_000_000, 1_000_020, 2):
            status, answer = forking.ask("POST", f"/fork/{number}")
            assert (status, answer["code"], answer["result"]) == (200, 0, number)
            forking.told.accepted[number] = answer["id"]
    told_by_children(forking)
    assert forking.wait_until_idle()
    assert problems(forking) == []


@pytest.mark.parametrize("end", ["killed", pytest.param("in order", marks=pytest.mark.servers)])
def test_a_child_that_outlives_its_parent(forking: Fleet, end: str):
    """The parent closes the file, or is killed, and the child's tasks are not lost with that."""
    server = forking.start(workers=2, app="forking:app")
    status, answer = forking.ask("POST", "/orphan/1000000")
    assert status == 200
    forking.told.accepted[1_000_000] = answer["id"]
    told = Path(f"{forking.record}.told")
    assert poll(told.exists)
    if end == "killed":
        forking.slay([answer["pid"]])
    else:
        os.kill(answer["pid"], signal.SIGTERM)
    assert poll(lambda: "over" in told.read_text())
    told_by_children(forking)
    assert forking.wait_until_idle()
    server.end()
    assert len(forking.told.accepted) > 20
    assert problems(forking) == []


def test_a_stray_reader_in_the_process(forking: Fleet):
    """Others open and close the file too, and no commit after that is lost."""
    server = forking.start(workers=2, app="forking:app")
    with forking.clients(2, pause=0.01):
        for number in range(1_000_000, 1_000_012):
            status, answer = forking.ask("POST", f"/stray/{number}")
            assert status == 200, forking.log.read_text()
            forking.told.accepted[number] = answer["id"]
            # A process of its own, which deletes the log if it takes itself for the last.
            script = f"import sqlite3; c = sqlite3.connect({str(forking.journal)!r})"
            script += "; c.execute('SELECT count(*) FROM task').fetchall(); c.close()"
            subprocess.run([sys.executable, "-c", script], check=True)
    assert forking.wait_until_idle()
    server.end()
    assert problems(forking) == []


USED = """
from tests.journal.served import app, executor, work

# Before the workers are forked: the pool and the journal are in use.
with app.app_context():
    for number in range(1_000_000, 1_000_011):
        future = work.delay(number)
        assert executor.get(future.id).id == future.id
        assert executor.delay(pow, 2, 3).result(20) == 8
"""


def test_what_was_used_before_the_workers_are_forked(make_fleet):
    fleet = make_fleet()
    (fleet.folder / "used.py").write_text(USED)
    server = fleet.start("--preload", workers=3, app="used:app")
    with fleet.clients(2, pause=0.01):
        for _ in range(3):
            time.sleep(0.3)
            fleet.slay(server.workers()[:1], alone=True)
    assert fleet.wait_until_idle()
    server.end()
    rows = read_rows(fleet.journal)
    early = {int(row.result or 0) for row in rows.values()} & set(range(1_000_000, 1_000_011))
    assert len(early) == 11
    assert problems(fleet) == []


@pytest.mark.servers
@pytest.mark.skipif(
    shutil.which("uwsgi") is None and importlib.util.find_spec("uwsgidecorators") is None,
    reason="uWSGI is not installed",
)
def test_uwsgi_forks_in_c(make_fleet):
    """No handler of Python's runs at that fork."""
    fleet = make_fleet()
    (fleet.folder / "used.py").write_text(USED)
    uwsgi = [str(Path(sys.executable).with_name("uwsgi")), "--master", "--processes", "3"]
    uwsgi += ["--enable-threads", "--http-socket", fleet.bound, "--module", "used:app"]
    uwsgi += ["--pythonpath", str(ROOT), "--die-on-term"]
    with fleet.log.open("wb") as log:
        process = subprocess.Popen(
            [*uwsgi, "--virtualenv", sys.prefix, "--need-app"],
            cwd=fleet.folder,
            env={**os.environ, **fleet.env},
            stdout=log,
            stderr=log,
        )
    try:
        assert poll(fleet.answers), fleet.log.read_text()
        with fleet.clients(3, pause=0.01):
            for _ in range(4):
                time.sleep(0.5)
                fleet.slay(children(process.pid)[:1], alone=True)
        assert fleet.wait_until_idle()
        process.terminate()
        process.wait(30)
        assert problems(fleet) == []
        assert len(fleet.told.accepted) > 20
    finally:
        process.kill()
        process.wait()


# --- Deploys --------------------------------------------------------------------------


def check_deploys(fleet: Fleet, rounds: int) -> None:
    server = fleet.start(workers=2)
    with fleet.clients(3, pause=0.005):
        for number in range(rounds):
            time.sleep(0.5)
            if number % 2:
                # gunicorn's own way: new workers, then the old ones end.
                server.reload()
            else:
                new = fleet.start(workers=2)
                server.end()
                server = new
    assert fleet.wait_until_idle()
    server.end()
    assert problems(fleet) == []
    # None was killed, so none runs twice.
    assert set(starts(fleet).values()) == {1}
    assert len(fleet.told.accepted) > 50


@pytest.mark.servers
def test_deploys_lose_and_double_nothing(make_fleet):
    check_deploys(make_fleet(), 2)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_many_deploys(make_fleet):
    check_deploys(make_fleet(), 20)


@pytest.mark.parametrize("arguments", [(), ("--preload",)])
def test_a_deploy_does_not_wait_for_a_task_with_checkpoints(make_fleet, arguments):
    """It goes on in the next worker where it was, and its attempt is the first one still."""
    fleet = make_fleet(SHUTDOWN_TIMEOUT=600)
    server = fleet.start(*arguments, workers=1, shares=False)
    assert fleet.submit(1, "go_on_until_file")
    first = owner(fleet, 1)
    begin = time.monotonic()
    server.reload() if not arguments else server.end()
    if arguments:
        fleet.start(*arguments, workers=1, shares=False)
    assert poll(lambda: starts(fleet)[1] == 2)
    # It has 600 s, and 20 by gunicorn.
    assert time.monotonic() - begin < 15
    assert owner(fleet, 1) != first
    (fleet.folder / "go").touch()
    assert fleet.wait_until_idle()
    assert problems(fleet) == []
    events = read_record(fleet.record)
    (row,) = read_rows(fleet.journal).values()
    assert (row.attempt, row.deaths) == (1, 0)
    assert {it.attempt for it in events} == {1}
