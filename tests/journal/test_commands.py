"""`flask delay journal` and `flask delay work`, as processes beside an app that serves."""

import json
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

DEADLINE = 30.0


@pytest.fixture
def flask(tmp_path):
    """`flask("journal", "list")`: run `flask delay journal list` for the app of `shop.py`."""
    folder = tmp_path / "commands"
    folder.mkdir()
    (folder / "shop.py").write_text(Path(__file__).with_name("shop.py").read_text())

    def command(*arguments, **config):
        config = {"DELAY_JOURNAL": str(tmp_path / "journal.db"), **config}
        environment = {
            **os.environ,
            "FLASK_APP": "shop",
            "SHOP_CONFIG": repr(config),
            "SHOP_FOLDER": str(folder),
        }
        return subprocess.Popen(
            [sys.executable, "-m", "flask", "delay", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=environment,
        )

    def run(*arguments, code=0, **config):
        with command(*arguments, **config) as process:
            out, err = process.communicate(timeout=DEADLINE)
        assert process.returncode == code, (out, err)
        return out + (err if code else "")

    run.start = command
    return run


def listed(flask, *arguments):
    return json.loads(flask("journal", "list", "--json", *arguments))


class TestList:
    def test_as_json(self, start, flask):
        one = start()
        done = one("add.delay(1).id")
        failed = one("fail.delay('pear').id")
        for id in (done, failed):
            one(f"executor.get({id!r}).exception(20)")
        late = one("add.using(countdown=60).delay(1).id")
        found = listed(flask)
        assert [it["id"] for it in found] == [late, failed, done]
        assert [it["state"] for it in found] == ["scheduled", "failed", "finished"]
        assert (found[0]["waits"], found[0]["until"] > found[0]["enqueued_at"]) == (
            "scheduled",
            True,
        )
        assert found[1]["error"] == {"class": "OutOfStock", "message": "no pear"}
        assert [it["id"] for it in listed(flask, "--state", "failed", "--state", "finished")] == [
            failed,
            done,
        ]
        assert [it["id"] for it in listed(flask, "--task", "add", "--limit", "1")] == [late]
        assert [it["id"] for it in listed(flask, "--before", failed)] == [done]
        error = flask("journal", "list", "--task", "none", code=1)
        assert "Error: no task in the journal is called 'none'" in error

    def test_as_a_table(self, start, flask):
        one = start()
        failed = one("fail.delay('pear').id")
        one(f"executor.get({failed!r}).exception(20)")
        late = one("add.using(countdown=60).delay(1).id")
        head, first, second = flask("journal", "list").splitlines()
        assert head.split() == ["id", "task", "state", "attempts", "submitted"]
        day, time = r"\d{4}-\d\d-\d\d", r"\d\d:\d\d:\d\d"
        pattern = rf"{late}  add +scheduled +0 +{day} {time}  until {day} {time}"
        assert re.fullmatch(pattern, first)
        assert re.fullmatch(rf"{failed}  fail +failed +1 .*  OutOfStock: no pear", second)

    def test_without_a_journal(self, flask):
        assert listed(flask) == []

    def test_one(self, start, flask):
        one = start()
        failed, done = one("fail.delay('pear').id, add.delay((1, 2), right=(3,)).id")
        for id in (failed, done):
            one(f"executor.get({id!r}).exception(20)")
        text = flask("journal", "show", failed)
        assert re.search(r"^error +OutOfStock: no pear$", text, re.MULTILINE)
        assert "raise OutOfStock(sku)" in text
        assert json.loads(flask("journal", "show", done, "--json"))["result"] == [1, 2, 3]
        assert "Error: no task none is known" in flask("journal", "show", "none", code=1)


class TestActs:
    def test_retry(self, start, flask):
        one = start()
        id = one("fail.delay('pear').id")
        one(f"executor.get({id!r}).exception(20)")
        one("fail.__wrapped__.__code__ = (lambda sku='x': sku.upper()).__code__")
        assert flask("journal", "retry", id) == f"{id}  runs again\n"
        assert one(f"executor.get({id!r}).result(20)") == "PEAR"
        text = flask("journal", "retry", id, "none", code=1)
        assert f"{id}  not done: only a task that failed can run again, and {id} is fin" in text
        assert "none  not done: there is no task none in the journal\n" in text

    def test_cancel_and_stop(self, start, flask, until):
        one = start()
        runs, late = one("wait_for.delay('never').id, add.using(countdown=60).delay(1).id")
        until(one, f"executor.get({runs!r}).state == 'running'")
        text = flask("journal", "cancel", late, runs, code=1)
        assert f"{late}  cancelled\n{runs}  not done: the task {runs} runs; --stop stops it" in text
        assert one(f"executor.get({late!r}).cancelled()")
        assert flask("journal", "cancel", "--stop", runs) == f"{runs}  stopped\n"
        until(one, f"executor.get({runs!r}).cancelled()")

    def test_pause_and_resume(self, start, flask, until):
        one = start()
        assert flask("journal", "pause", "add") == "add: paused\n"
        id = one("add.delay(1).id")
        assert listed(flask, "--state", "blocked")[0]["waits"] == "paused"
        counts = json.loads(flask("journal", "--json"))
        assert (counts["blocked"], counts["paused"]) == (1, ["shop.add"])
        assert "\npaused: shop.add\n" in flask("journal")
        assert flask("journal", "resume") == "all durable tasks: resumed\n"
        assert one(f"executor.get({id!r}).result(20)") == 2

    def test_prune(self, start, flask):
        one = start()
        id = one("add.delay(1).id")
        one(f"executor.get({id!r}).result(20)")
        assert flask("journal", "prune", "--older-than", "3600") == "0 tasks are forgotten\n"
        assert json.loads(flask("journal", "prune", "--task", "add", "--json")) == {"forgotten": 1}
        assert listed(flask) == []

    def test_options_come_after_the_command(self, flask):
        text = flask("journal", "--json", "list", code=2)
        assert "Error: options of a command come after it" in text


class TestFile:
    def test_backup_and_check(self, start, flask, tmp_path):
        one = start()
        id = one("add.delay(1).id")
        one(f"executor.get({id!r}).result(20)")
        copy = tmp_path / "copy.db"
        assert re.fullmatch(rf"{copy}: [\d,]+ bytes\n", flask("journal", "backup", str(copy)))
        assert "is there already" in flask("journal", "backup", str(copy), code=1)
        assert f"ok     {tmp_path}/journal.db: the file is sound\n" in flask("journal", "check")
        one.end()
        for part in tmp_path.glob("journal.db*"):
            part.unlink()
        copy.rename(tmp_path / "journal.db")
        assert [it["id"] for it in listed(flask)] == [id]
        found = json.loads(flask("journal", "check", "--json"))
        assert found["ok"]
        assert len(found["lines"]) > 2

    def test_salvage(self, start, flask, tmp_path):
        one = start()
        ids = [one("add.using(countdown=60).delay(1).id") for _ in range(3)]
        saved = tmp_path / "saved.db"
        assert "stop the app before" in flask("journal", "salvage", str(saved), code=1)
        one.end()
        text = flask("journal", "salvage", str(saved))
        assert text == f"{saved}: 3 tasks, of which 3 have not ended\n0 rows are lost\n"
        for part in tmp_path.glob("journal.db*"):
            part.unlink()
        (tmp_path / "journal.db").write_bytes(b"nothing" * 999)
        assert "not a database" in flask("journal", "check", code=1)
        again = tmp_path / "again.db"
        assert "not a database" in flask("journal", "salvage", str(again), code=1)
        (tmp_path / "journal.db").unlink()
        saved.rename(tmp_path / "journal.db")
        assert sorted(it["id"] for it in listed(flask)) == sorted(ids)


@contextmanager
def killed(process):
    """Kill it at the end, also of a test that fails: what waits for it or its output goes on."""
    try:
        yield
    finally:
        process.kill()


class TestWork:
    def test_works_off_the_journal_and_drains_at_sigterm(self, start, flask, wait_until, tmp_path):
        one = start()
        one("executor._state().store.stop()")
        ids = [one("where.delay().id"), one("wait_for.delay('go').id")]
        assert {one(f"executor.get({id!r}).state") for id in ids} == {"pending"}
        with flask.start("work") as worker, ThreadPoolExecutor() as pool, killed(worker):
            first = pool.submit(worker.stdout.readline)
            assert "runs durable tasks of" in first.result(DEADLINE)
            assert one(f"executor.get({ids[0]!r}).result(20)") == worker.pid
            assert wait_until(lambda: one(f"executor.get({ids[1]!r}).running()"))
            worker.send_signal(signal.SIGTERM)
            assert "takes no more tasks" in pool.submit(worker.stdout.readline).result(DEADLINE)
            late = one("where.delay().id")
            assert worker.poll() is None
            (tmp_path / "go").touch()
            assert worker.wait(DEADLINE) == 0
            worker.communicate()
        assert one(f"executor.get({ids[1]!r}).result(20)") == worker.pid
        assert one(f"executor.get({late!r}).state") == "pending"

    def test_a_signal_that_does_not_end_a_sleep(self, start, flask):
        one = start()
        one("executor._state().store.stop()")
        one("signal_here.delay().id")
        with flask.start("work") as worker, killed(worker):
            assert worker.wait(DEADLINE) == 0

    def test_in_a_mode_for_tests(self, flask):
        text = flask("work", code=1, DELAY_MODE="manual")
        assert "there is no journal while the mode is 'manual'" in text


class TestJobs:
    CODE = """
@task
def tidy():
    note("tidy")

@task
def plain():
    note("plain")

with app.app_context():
    using(every=3600, durable=True).delay(tidy)
    using(cron="30 2 * * *").delay(plain)
"""

    @pytest.fixture
    def jobs(self, flask, tmp_path):
        path = tmp_path / "commands" / "shop.py"
        path.write_text(path.read_text() + self.CODE)

        def run(*arguments, **more):
            return flask("jobs", *arguments, **more)

        return run

    def test_the_list(self, start, jobs):
        process = start(code=self.CODE)
        process("using(every=60, durable=True).delay(where).id")
        process("executor.job('tidy').pause()")
        found = json.loads(jobs("--json"))
        assert [(it["name"], it["durable"], it["paused"], it["known"]) for it in found] == [
            ("shop.tidy", True, True, True),
            ("shop.plain", False, False, True),
        ]
        assert found[0]["next_run"] is None
        assert found[1]["next_run"].endswith("T02:30:00+00:00")
        process("executor.job('where').run_now()")
        table = jobs()
        assert re.search(r"^shop.tidy +every 3600 s +durable, paused$", table, re.MULTILINE)
        line = r"^shop.where +every 60 s .* durable, not of the code that this command has loaded$"
        assert re.search(line, table, re.MULTILINE)

    def test_actions(self, start, jobs, until, notes, wait_until):
        process = start(code=self.CODE)
        assert jobs("pause", "tidy") == "shop.tidy (every 3600 s): paused\n"
        assert process("executor.job('tidy').paused")
        assert jobs("resume", "tidy") == "shop.tidy (every 3600 s): resumed\n"
        assert not process("executor.job('tidy').paused")
        (id,) = re.findall(r"task (\S+)$", jobs("run", "tidy"))
        until(process, f"executor.get({id!r}).done()")
        (noted,) = notes()
        assert (noted["id"], noted["pid"]) == (id, process.pid)
        # A plain job runs in the command.
        assert jobs("run", "plain") == "shop.plain (30 2 * * * UTC): has run here\n"
        assert notes()[-1]["pid"] != process.pid
        assert "there is no job 'none'" in jobs("run", "none", code=1)
