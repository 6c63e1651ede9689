"""Jobs in the journal: durable ones, and plain ones of an app that has set a journal."""

import signal
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from tests.journal.conftest import Raised, noted, run_flask
from tests.journal.record import reading

from flask_delay import DuplicateTask, JournalUnavailable, current_task, task, using
from flask_delay.journal.periodic import DurableLead

OFTEN = 0.05
RARELY = 3600

JOB = """
@task
def tidy(room="hall"):
    note("tidy", tick=current_task.tick and current_task.tick.timestamp())
    return room

@task
def plain_tidy():
    note("plain")

def start(fn=tidy, **options):
    options = {"durable": True, **options}
    return using(**options).delay(fn).id

def job():
    return executor.jobs[0]

def can_run():
    try:
        return job().run_now() is not None
    except flask_delay.DuplicateTask:
        return False
"""


@task
def clean(room):
    return room, current_task.tick


@task(cron="30 2 * * *", durable=True, missed="run")
def nightly(room):
    return room


@task
def decline():
    raise ConnectionError


@pytest.fixture
def app(make_app):
    app = make_app()
    with app.app_context():
        yield app


@pytest.fixture
def rows(tmp_path):
    """The tasks in the file: their ticks, states and functions."""

    def rows():
        query = (
            "SELECT tick, state, name FROM task JOIN function USING (function) ORDER BY sequence"
        )
        with reading(tmp_path / "journal.db") as connection:
            return connection.execute(query).fetchall()

    return rows


@pytest.fixture
def file(rows, set_job):
    return rows, set_job


@pytest.fixture
def set_job(tmp_path):
    """Change the row of the only job, as the past would have."""

    def change(what):
        with closing(sqlite3.connect(tmp_path / "journal.db", timeout=30)) as connection:
            connection.execute(f"UPDATE periodic SET {what}")
            connection.commit()

    return change


def micros(moment):
    return int(moment.timestamp() * 1e6)


class TestOptions:
    @pytest.mark.parametrize("when", [{"every": 60}, {"cron": "30 2 * * *"}])
    @pytest.mark.parametrize("missed", ["run", "skip"])
    @pytest.mark.parametrize("durable", [True, "disk"])
    def test_durable_jobs(self, when, missed, durable):
        assert using(durable=durable, missed=missed, **when)
        assert using(durable=durable, **when)

    @pytest.mark.parametrize(
        ("options", "error", "text"),
        [
            (
                {"every": 60, "missed": "run"},
                ValueError,
                "'missed' is 'run', but the job is not du",
            ),
            ({"every": 60, "missed": "skip"}, ValueError, "'missed' is 'skip', but the job is not"),
            (
                {"durable": True, "missed": "run"},
                ValueError,
                "but neither 'every' nor 'cron' is se",
            ),
            ({"missed": "run"}, ValueError, "but neither 'every' nor 'cron' is set"),
            (
                {"every": 60, "durable": True, "missed": "all"},
                ValueError,
                "the option 'missed' is 'all', but must be \"run\" or \"skip\"",
            ),
            ({"every": 60, "durable": True, "missed": True}, TypeError, 'must be "run" or "ski'),
            ({"every": 60, "durable": True, "once": "k"}, ValueError, "a task of its own"),
            ({"every": 60, "durable": True, "countdown": 1}, ValueError, "'every' makes a job"),
            ({"every": 60, "durable": True, "backend": "celery"}, ValueError, "the backend is 'ce"),
            ({"every": 60, "durable": True, "request": True}, ValueError, "no one time, request"),
        ],
    )
    def test_what_is_refused(self, options, error, text):
        with pytest.raises(error, match=text):
            using(**options)
        with pytest.raises(error, match=text):
            task(**options)

    def test_a_decorated_one(self, app):
        job = nightly.delay("hall")
        assert job.schedule == "30 2 * * * UTC"
        assert job.run_now().result(20) == "hall"
        with pytest.raises(ValueError, match="so nobody knows what it missed"):
            nightly.using(durable=False)

    def test_what_cannot_be_found(self, app):
        with pytest.raises(TypeError, match="it is a lambda"):
            using(every=RARELY, durable=True).delay(lambda: 1)

    def test_what_cannot_be_stored(self, app):
        with pytest.raises(TypeError, match="object"):
            using(every=RARELY, durable=True, key="k").delay(clean, object())
        with pytest.raises(TypeError, match="missing 1 required positional argument"):
            using(every=RARELY, durable=True).delay(clean)


class TestOneProcess:
    def test_each_tick_is_a_task(self, app, rows, wait_until):
        before = datetime.now(UTC)
        job = using(every=OFTEN, durable=True).delay(clean, "hall")
        assert wait_until(lambda: len([it for it in rows() if it[1] == 6]) >= 3)
        job.cancel()
        found = rows()
        ticks = [tick for tick, _, _ in found]
        assert ticks == sorted(set(ticks))
        assert all(tick % 50_000 == 0 and tick >= micros(before) for tick in ticks)
        assert wait_until(lambda: job.last.done())
        room, tick = job.last.result(0)
        assert (room, micros(tick)) == ("hall", ticks[-1])
        assert tick.tzinfo is UTC
        assert micros(job.last_tick) == ticks[-1]
        assert job.next_run is None

    def test_it_is_found_and_shown_as_any_task(self, app, wait_until):
        job = using(every=OFTEN, durable=True).delay(clean, "hall")
        assert wait_until(lambda: job.last is not None and job.last.done())
        job.cancel()
        executor = app.extensions["delay"].owner
        assert executor.get(job.last.id).result(0)[0] == "hall"
        assert executor.tasks()[0].name == "clean"

    def test_run_now(self, app, rows):
        job = using(every=RARELY, durable=True).delay(clean, "hall")
        future = job.run_now()
        assert future.result(20) == ("hall", None)
        assert job.last.id == future.id
        assert [tick for tick, _, _ in rows()] == [None]
        # It is no tick.
        assert job.last_tick is None
        assert self.jobs(app)[0]["runs"] == 1

    def test_a_run_that_fails(self, app):
        job = using(every=RARELY, durable=True).delay(decline)
        assert isinstance(job.run_now().exception(20), ConnectionError)
        assert isinstance(job.run_now().exception(20), ConnectionError)

    def test_a_pause(self, app, make_app, rows, wait_until, caplog):
        job = using(every=OFTEN, durable=True).delay(clean, "hall")
        job.pause()
        assert job.paused
        assert job.next_run is None
        count = len(rows())
        job.run_now().result(20)
        time.sleep(5 * OFTEN)
        assert len(rows()) <= count + 2
        other = make_app()
        with other.app_context():
            again = using(every=OFTEN, durable=True).delay(clean, "hall")
            assert again.paused
            assert "is paused: it does not run before its resume()" in caplog.text
            count = len(rows())
            again.resume()
        assert not job.paused
        assert wait_until(lambda: len(rows()) > count + 1)
        # The log keeps the job, and with it the journal of an app that is gone.
        other.extensions["delay"].shutdown(True, cancel_futures=True)

    def test_what_was_missed_is_made_up_once(self, app, make_app, file, wait_until, caplog):
        rows, set_job = file
        options = {"every": RARELY, "durable": True, "missed": "run"}
        using(**options).delay(clean, "hall")
        assert wait_until(lambda: self.jobs(app))
        time.sleep(0.2)
        # Nothing is made up for a job that was never seen.
        assert rows() == []
        app.extensions["delay"].shutdown(True, cancel_futures=False)
        set_job(f"tick = tick - {100 * RARELY} * 1000000")
        other, third = make_app(), make_app()
        for each in (other, third):
            with each.app_context():
                using(**options).delay(clean, "hall")
        assert wait_until(lambda: [it[1] for it in rows()] == [6])
        time.sleep(1.5)
        ((tick, _, _),) = rows()
        newest = time.time() // RARELY * RARELY
        assert tick in {newest * 1e6, (newest - RARELY) * 1e6}
        assert caplog.text.count("missed its last tick") == 1
        for each in (other, third):
            each.extensions["delay"].shutdown(True, cancel_futures=True)

    @staticmethod
    def jobs(app):
        return app.extensions["delay"].store.jobs()

    def test_skip_makes_up_for_nothing(self, app, make_app, rows, set_job, wait_until):
        job = using(every=RARELY, durable=True).delay(clean, "hall")
        job.run_now().result(20)
        set_job(f"tick = {int(time.time() - 100 * RARELY)} * 1000000")
        other = make_app()
        with other.app_context():
            using(every=RARELY, durable=True).delay(clean, "hall")
        time.sleep(1.5)
        assert len(rows()) == 1

    def test_a_tick_without_a_journal_is_logged_and_made_up(
        self, app, rows, wait_until, caplog, monkeypatch
    ):
        job = using(every=RARELY, durable=True, missed="run").delay(clean, "hall")
        assert wait_until(lambda: self.jobs(app))
        working = DurableLead._take
        failures = []

        def fail(lead, at, *, missed):
            if len(failures) < 3:
                failures.append(missed)
                raise JournalUnavailable("the disk is full")
            return working(lead, at, missed=missed)

        monkeypatch.setattr(DurableLead, "_take", fail)
        tick = time.time_ns() // 10**9 * 10**9
        job._tick(tick)
        assert "cannot be run: the disk is full" in caplog.text
        assert "Traceback" not in caplog.text
        assert wait_until(lambda: failures == [False, True, True])
        assert wait_until(lambda: job._owed is None)

    def test_forty_missed_ticks_of_one_process_are_one_run(self, app, rows, wait_until):
        job = using(every=RARELY, durable=True).delay(clean, "hall")
        # As after the machine has slept: the ticker asks for the last tick alone.
        job._tick((time.time_ns() // 10**9 - 40 * RARELY) * 10**9)
        job._tick(time.time_ns() // 10**9 * 10**9)
        assert wait_until(lambda: [it[1] for it in rows()] == [6, 6] or len(rows()) == 1)

    def test_it_is_left_out_while_the_last_run_goes_on(self, start, until, notes, wait_until):
        code = JOB + "\n@task\ndef long():\n    wait_for.__wrapped__('go')\n"
        process = start(code=code)
        process(f"start(long, every={OFTEN})")
        until(process, "job().left_out >= 2")
        assert len(noted(notes, "begins")) == 1
        assert "is left out, since its last run" in process.log()
        with pytest.raises(Raised, match="DuplicateTask: the last run of job"):
            process("job().run_now()")
        process("go('go')")
        assert wait_until(lambda: len(noted(notes, "ends")) >= 2)

    def test_a_mode_without_time(self, make_app, tmp_path):
        app = make_app(DELAY_MODE="immediate", DELAY_JOURNAL=True)
        with app.app_context():
            rooms = ["hall"]
            job = using(every=OFTEN, durable=True, missed="run").delay(clean, rooms)
            rooms.append("attic")
            assert job.run_now().result(0) == (["hall"], None)
            with pytest.raises(TypeError, match="it is a lambda"):
                using(every=OFTEN, durable=True).delay(lambda: 1)
        assert not (tmp_path / "instance").exists()

    def test_tick_is_that_of_a_durable_job_alone(self, app):
        assert using(durable=True).delay(clean, "hall").result(20) == ("hall", None)
        assert clean.using(durable=False).delay("hall").result(20) == ("hall", None)
        with pytest.raises(RuntimeError, match="no task runs on this thread"):
            current_task.tick  # noqa: B018

    def test_after_shutdown(self, app):
        job = using(every=RARELY, durable=True).delay(clean, "hall")
        app.extensions["delay"].shutdown(True, cancel_futures=False)
        with pytest.raises(RuntimeError):
            job.run_now()
        with pytest.raises(RuntimeError):
            using(every=RARELY, durable=True).delay(clean, "attic")

    def test_without_the_setting_the_default_file_is_made(self, make_app, tmp_path, wait_until):
        app = make_app(DELAY_JOURNAL=None)
        path = tmp_path / "instance" / "delay" / "journal.db"
        with app.app_context():
            job = using(every=OFTEN, durable=True).delay(clean, "hall")
            assert path.exists()
            assert wait_until(lambda: job.last is not None and job.last.done())
        app.extensions["delay"].shutdown(True, cancel_futures=True)


class TestProcesses:
    def test_whichever_process_is_first(self, start, notes, wait_until):
        processes = [start(code=JOB) for _ in range(3)]
        ids = {process(f"start(every={OFTEN})") for process in processes}
        assert len(ids) == 1
        assert wait_until(lambda: len(noted(notes, "tidy")) >= 20)
        ticks = [it["tick"] for it in noted(notes, "tidy")]
        assert len(set(ticks)) == len(ticks)

    def test_any_process_sees_pauses_and_triggers(self, start, notes, until):
        one, two = start(code=JOB), start(code=JOB)
        for process in (one, two):
            process(f"start(every={RARELY})")
        one("job().pause()")
        assert two("job().paused")
        two("job().resume()")
        assert not one("job().paused")
        id = two("job().run_now().id")
        until(one, "job().last is not None and job().last.done()")
        assert one("job().last.id") == id
        assert one("job().last.result(10)") == "hall"

    def test_a_run_that_was_killed_goes_on_and_is_for_the_same_tick(
        self, start, notes, wait_until, until
    ):
        code = JOB + (
            "\n@task\ndef fall():\n    note('fell', tick=current_task.tick.timestamp())\n"
            "    if current_task.attempt == 1: os.kill(os.getpid(), 9)\n"
        )
        process = start(code=code)
        process.send(f"start(fall, every={OFTEN}, overlap=False)")
        assert process.wait() == -signal.SIGKILL
        other = start(code=code)
        other("executor.tasks()")
        assert wait_until(lambda: len(noted(notes, "fell")) == 2)
        first, second = noted(notes, "fell")
        assert first["tick"] == second["tick"]
        assert first["pid"] != second["pid"]

    def test_a_forked_process_goes_on(self, start, notes, wait_until):
        process = start(code=JOB)
        process(f"start(every={RARELY})")
        assert process("fork(lambda: job().run_now().id)") == process("job().last.id")

    def test_a_command_submits_and_another_process_runs(
        self, tmp_path, start, notes, wait_until, until
    ):
        code = JOB + f"\nwith app.app_context(): start(every={RARELY})\n"
        process = start(code=code)
        folder = tmp_path / "process-0"
        (folder / "run.py").write_text(
            "from shop import *\nimport click\n@app.cli.command()\n"
            "def trigger():\n"
            "    job().pause()\n"
            "    click.echo(job().run_now().result(20))\n"
        )
        done = run_flask(
            folder,
            "trigger",
            app="run:app",
            SHOP_FOLDER=str(folder),
            SHOP_CONFIG=repr({"DELAY_JOURNAL": str(tmp_path / "journal.db")}),
        )
        assert done.stdout == "hall\n", done.stderr
        assert noted(notes, "tidy")[0]["pid"] == process.pid
        assert process("job().paused")

    def test_old_and_new_code_have_their_own_schedules(self, start, notes, wait_until):
        old, new = start(code=JOB), start(code=JOB)
        assert old(f"start(every={OFTEN})") != new(f"start(every={2 * OFTEN})")
        assert wait_until(lambda: len(noted(notes, "tidy")) >= 6)
        with pytest.raises(Raised, match="LookupError"):
            old("executor.job('other')")


class TestPlainJobs:
    """With a journal set, plain jobs agree by it, and make no files."""

    def test_they_run_once_and_leave_no_files(self, start, notes, wait_until, tmp_path):
        processes = [start(code=JOB) for _ in range(3)]
        for process in processes:
            process(f"start(plain_tidy, every={OFTEN}, durable=False)")
        assert wait_until(lambda: len(noted(notes, "plain")) >= 10)
        count = len(noted(notes, "plain"))
        (job,) = processes[0]("executor._state().store.jobs()")
        assert job["runs"] >= count
        assert not list(tmp_path.rglob("*.lock"))

    def test_the_overlap_holds_across_processes(self, start, notes, wait_until, until):
        code = JOB + "\n@task\ndef long():\n    plain_wait.__wrapped__('go')\n"
        one, two = start(code=code), start(code=code)
        for process in (one, two):
            process(f"start(long, every={RARELY}, durable=False)")
        one("job().run_now()")
        with pytest.raises(Raised, match="DuplicateTask: .* goes on in process"):
            two("job().run_now()")
        one("go('go')")
        until(one, "job().last.done()")
        until(two, "can_run()")
        until(two, "job().last.done()")
        # The death of its process ends a run.
        two("os.unlink(folder / 'go')")
        two("job().run_now()")
        with pytest.raises(Raised, match="DuplicateTask"):
            one("job().run_now()")
        two.kill()
        assert wait_until(
            lambda: one("go('go')") is None and one("job().run_now().result(20)") is None
        )

    def test_a_pause_is_that_of_all(self, start):
        one, two = start(code=JOB), start(code=JOB)
        for process in (one, two):
            process(f"start(plain_tidy, every={OFTEN}, durable=False)")
        one("job().pause()")
        assert two("job().paused")
        two("job().resume()")
        assert not one("job().paused")

    def test_it_cannot_be_run_twice_at_once(self, app):
        job = using(every=RARELY, key="k").delay(time.sleep, 0.3)
        run = job.run_now()
        with pytest.raises(DuplicateTask):
            job.run_now()
        run.result(20)
        job.run_now().result(20)
        assert job.last_tick is None
        assert job.next_run - datetime.now(UTC) <= timedelta(seconds=RARELY)
