"""The files by which processes agree on jobs: whose they are, and what may be in them."""

import os
import stat
import subprocess
import sys
import textwrap
import time

import pytest

from flask_delay.periodic.job import Jobs
from flask_delay.periodic.leader import clean, lead
from flask_delay.servers import role

from .helpers import DEADLINE
from .jobs import RARELY, Run, note, start, take


def test_a_file_that_was_deleted(tmp_path, elsewhere):
    mine, run = lead(tmp_path, "job", "job"), Run()
    assert take(mine, 1).runs
    mine.hold(run)
    (file,) = tmp_path.iterdir()
    file.unlink()
    # By somebody who cleaned up; there is one again, and the run goes on by it.
    assert take(mine, 2).left_out == 1
    assert note(tmp_path)["tick"] == 2


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "\0" * 50,
        "[" * 4000,
        '{"tick": 1e999}\n',
        '{"tick": null, "pid": 1, "left_out": "x", "paused": false}\n',
        '{"tick": -5, "pid": 1, "left_out": 0, "paused": false}\n',
        '{"tick": 5, "pid": 1, "left_out": 0, "paused": false}',
        '{"tick": 99999999999999999999, "pid": 1, "left_out": 0, "paused": false}\n',
        '{"tick": true, "pid": 1, "left_out": 0, "paused": false}\n',
        # Of the first version.
        '{"job": "job", "pid": 1, "tick": 5}\n',
        "9" * 100_000,
    ],
)
def test_a_note_that_cannot_be_read_stops_no_job(tmp_path, text):
    mine = lead(tmp_path, "job", "job")
    mine.prepare()
    (file,) = tmp_path.iterdir()
    file.write_text(text)
    answer = mine.take(1, lambda last: pytest.fail(f"{last} is no tick"), alone=True)
    assert answer.runs
    assert answer.unreadable
    assert note(tmp_path)["tick"] == 1
    assert file.stat().st_size < 200
    mine.end()
    assert not take(mine, 2).unreadable


def test_a_huge_file_is_not_read(tmp_path):
    mine = lead(tmp_path, "job", "job")
    mine.prepare()
    (file,) = tmp_path.iterdir()
    with file.open("wb") as out:
        out.truncate(1 << 40)
    assert take(mine, 1).runs
    assert file.stat().st_size < 200


def test_what_is_behind_a_note_is_nothing(tmp_path):
    """Of whoever died between the two steps of writing it."""
    mine = lead(tmp_path, "job", "job")
    assert take(mine, 1000, alone=False).runs
    (file,) = tmp_path.iterdir()
    with file.open("a") as out:
        out.write("se}\n")
    assert not take(mine, 1000).runs


def test_an_unreadable_note_is_said_once(tmp_path, executor, caplog):
    job = start(Jobs(executor, folder=tmp_path), int, every=RARELY)
    (file,) = tmp_path.iterdir()
    file.write_text('{"tick": 1e999}')
    for tick in (1, 2):
        job._tick(time.time_ns() + tick)
        assert executor.drain(DEADLINE)
    (record,) = caplog.records
    assert "the note in its file cannot be read" in record.getMessage()
    caplog.clear()


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_nobody_else_may_look_into_the_files(tmp_path, executor):
    folder = tmp_path / "instance" / "delay"
    before = os.umask(0)
    try:
        job = start(Jobs(executor, folder=folder), print, "hunter2", every=RARELY, key="hunter2")
    finally:
        os.umask(before)
    (file,) = folder.iterdir()
    assert (mode(folder), mode(file)) == (0o700, 0o600)
    # Nor is there anything to be seen.
    job._tick(time.time_ns())
    assert executor.drain(DEADLINE)
    assert "hunter2" not in file.name + file.read_text()
    assert note(folder)["job"] == str(job) == "builtins.print (every 3600 s)"


def test_a_link_is_not_followed(tmp_path, executor):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = tmp_path / "delay"
    job = start(Jobs(executor, folder=folder), int, every=RARELY)
    path = folder / f"{job.id}.lock"
    for make in (path.symlink_to, path.hardlink_to):
        job.cancel()
        path.unlink()
        make(victim)
        with pytest.raises(OSError, match="is a symbolic link|has another name as well"):
            job = start(Jobs(executor, folder=folder), int, every=RARELY)
        assert victim.read_text() == "precious"


def test_what_is_no_file_does_not_hang(tmp_path, executor):
    folder = tmp_path / "delay"
    job = start(Jobs(executor, folder=folder), int, every=RARELY)
    path = folder / f"{job.id}.lock"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(PermissionError, match="is not a plain file"):
        start(Jobs(executor, folder=folder), int, every=RARELY)


def test_a_file_of_another_user(tmp_path, executor, monkeypatch, caplog):
    one = Jobs(executor, folder=tmp_path, remedy="set X to another folder")
    job = start(one, int, every=RARELY)
    me = os.geteuid()
    (file,) = tmp_path.iterdir()
    file.unlink()
    file.touch(0o600)
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    with pytest.raises(PermissionError) as raised:
        start(Jobs(executor, folder=tmp_path, remedy="set X to another folder"), int, every=RARELY)
    assert f"belongs to user {me}" in str(raised.value)
    assert f"user {me + 1} needs a lock file there; set X to another folder" in str(raised.value)
    assert str(file) in str(raised.value)
    # Who began before is told at the ticks, and not at each of them.
    for tick in range(9):
        job._tick(time.time_ns() + tick)
    (record,) = caplog.records
    assert f"job {job} cannot be run: " in record.getMessage()
    assert f"belongs to user {me}" in record.getMessage()
    assert not job.last
    caplog.clear()


def test_a_lock_that_nobody_lets_go_of_is_said(tmp_path, executor, caplog, run_script):
    job = start(Jobs(executor, folder=tmp_path), int, every=RARELY)
    (file,) = tmp_path.iterdir()
    code = f"""
        import fcntl, sys
        with open({str(file)!r}, "r+") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            print("locked", flush=True)
            sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"locked\n"
        for tick in range(2):
            job._tick(time.time_ns() + tick)
        other.stdin.close()
    (record,) = caplog.records
    assert f"job {job} cannot be run: " in record.getMessage()
    assert "another process has its lock" in record.getMessage()
    assert str(file) in record.getMessage()
    job._tick(time.time_ns() + 10)
    assert job.last.result(DEADLINE) == 0
    caplog.clear()


def test_a_folder_that_cannot_be_written(tmp_path, run_script):
    """Code that belongs to root, run as nobody: it was a bare PermissionError at import."""
    folder = tmp_path / "instance"
    folder.mkdir()
    code = f"""
        import os
        from pathlib import Path
        from flask import Flask
        from flask_delay import Delay

        app = Flask("app", instance_path={str(folder)!r}, static_folder=None)
        executor = Delay(app)
        os.chmod({str(folder)!r}, 0o500)
        if os.geteuid() == 0:
            os.setegid(65534)
            os.seteuid(65534)
        try:
            executor.using(every=60).delay(int)
        except PermissionError as error:
            print(error)
    """
    done = run_script(textwrap.dedent(code))
    folder.chmod(0o700)
    assert done.rc == 0, done.err
    user = os.geteuid() or 65534
    assert f"Permission denied: user {user} needs a lock file there; give that user" in done.out
    assert "set DELAY_JOBS_FOLDER" in done.out
    assert str(folder) in done.out


def test_a_folder_that_is_none(tmp_path, executor):
    (tmp_path / "delay").write_text("")
    with pytest.raises(OSError, match=r"needs a lock file there; do this: .*delay"):
        start(Jobs(executor, folder=tmp_path / "delay", remedy="do this"), int, every=RARELY)


def test_root_that_only_starts_others_makes_no_file(tmp_path, executor, monkeypatch):
    """gunicorn's arbiter with `--preload` and `--user`: its file would be nobody else's."""
    monkeypatch.setattr(role, "watches_only", lambda: True)
    prepared = []
    monkeypatch.setattr(
        "flask_delay.periodic.leader._FileLead.prepare", lambda _: prepared.append(1)
    )
    for user, made in [(0, 0), (os.geteuid() or 1000, 1)]:
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        prepared.clear()
        start(Jobs(executor, folder=tmp_path / "delay"), int, every=RARELY)
        assert len(prepared) == made
    assert not (tmp_path / "delay").exists()


def test_a_folder_that_others_can_write_to(tmp_path, executor, caplog):
    tmp_path.chmod(0o770)
    jobs = Jobs(executor, folder=tmp_path)
    for number in range(2):
        start(jobs, int, number, every=RARELY)
    (record,) = caplog.records
    assert str(tmp_path) in record.getMessage()
    assert "can be written by other users" in record.getMessage()
    caplog.clear()


def test_files_that_nobody_needs_are_removed(tmp_path, executor, run_script):
    month = 31 * 24 * 3600
    old = time.time() - month
    names = {
        name: lead(tmp_path, f"{number:032x}", name)
        for number, name in enumerate(["mine", "gone", "paused", "fresh", "running"])
    }
    for one in names.values():
        assert take(one, 1).runs
        one.end()
    names["paused"].pause(True)
    assert take(names["running"], 2).runs
    names["running"].hold(Run())
    (tmp_path / "shop_tidy_hunter2_-0123456789abcdef.lock").write_text('{"job": "shop.tidy()"}\n')
    (tmp_path / "others-0123456789abcdef.lock").write_text("something else")
    (tmp_path / "notes.lock").touch()
    for path in tmp_path.iterdir():
        os.utime(path, (old, old))
    os.utime(tmp_path / f"{3:032x}.lock")
    # In another process, whose are none of the locks.
    done = run_script(
        "import sys; from pathlib import Path; from flask_delay.periodic.leader import clean;"
        f" clean(Path({str(tmp_path)!r}))"
    )
    assert (done.rc, done.err) == (0, "")
    left = {path.name for path in tmp_path.glob("*.lock")}
    assert left == {
        *(f"{number:032x}.lock" for number in (2, 3, 4)),
        "others-0123456789abcdef.lock",
        "notes.lock",
    }
    # Who had it makes another one.
    assert take(names["mine"], 3).runs
    # In the process of the run neither is the file removed nor the lock lost.
    os.utime(tmp_path / f"{4:032x}.lock", (old, old))
    clean(tmp_path)
    assert take(names["running"], 3).left_out == 1
