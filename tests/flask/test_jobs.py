"""Jobs and delayed tasks of an app: contexts, the instance folder, and `Delay`'s own names."""

import gc
import io
import threading
import weakref
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from flask import Flask, current_app, g, has_request_context, request
from flask.cli import FlaskGroup

from flask_delay import Delay, Job, task, using
from flask_delay.submit import Periodic
from flask_delay.tasks import PeriodicTask

from .conftest import DEADLINE

OFTEN = 0.05
RARELY = 3600


class Seen:
    """What a job has seen when it ran."""

    def __init__(self):
        self.runs, self.more = [], threading.Event()

    def __call__(self, *args):
        g.count = g.get("count", 0) + 1
        self.runs.append((current_app.name, has_request_context(), g.count, args))
        self.more.set()

    def wait(self):
        assert self.more.wait(DEADLINE)


def test_each_run_has_a_fresh_app_context_and_no_request(make_app):
    app, seen = make_app("mine"), Seen()

    @app.get("/start")
    def start():
        job = using(every=OFTEN, key="seen").delay(seen, 1)
        return {"job": job.id}

    torn_down = []
    app.teardown_appcontext(lambda _: torn_down.append(current_app.name))
    assert app.test_client().get("/start").get_json()["job"]
    for _ in range(3):
        seen.more.clear()
        seen.wait()
    assert set(seen.runs) == {("mine", False, 1, (1,))}
    assert len(torn_down) >= 3


def test_delay_and_its_jobs(make_app, tmp_path):
    background = Delay(name="reports")
    app, seen = make_app(extension=background), Seen()
    # There is one app, which need not be current.
    made = background.using(every=OFTEN, key="seen")
    assert isinstance(made, Periodic)
    job = made.delay(seen)
    assert background.jobs == [job]
    assert background.using(every=OFTEN, key="seen").delay(seen) is job
    (file,) = (tmp_path / "instance" / "reports").iterdir()
    assert file.suffix == ".lock"
    seen.wait()
    background.shutdown()
    assert background.jobs == []
    assert job.cancelled
    with app.app_context(), pytest.raises(RuntimeError, match="after shutdown"):
        background.using(every=RARELY).delay(int)


@pytest.mark.parametrize("place", ["absolute", "relative"])
def test_the_folder_of_the_files(make_app, tmp_path, place):
    folder = {"absolute": tmp_path / "run", "relative": Path("run")}[place]
    app = make_app(DELAY_JOBS_FOLDER=folder)
    with app.app_context():
        job = using(every=RARELY).delay(int)
    made = tmp_path / ("run" if place == "absolute" else "instance/run")
    assert [file.name for file in made.iterdir()] == [f"{job.id}.lock"]
    # Other apps may have theirs there too.
    other = make_app("other", DELAY_JOBS_FOLDER=str(folder))
    with other.app_context():
        assert using(every=RARELY).delay(int).id != job.id
    assert len(list(made.iterdir())) == 2


@pytest.mark.parametrize("value", ["", 5, b"x", "a\0b"])
def test_a_folder_that_is_none(make_app, value):
    with pytest.raises(ValueError, match="DELAY_JOBS_FOLDER is .*the path of a folder"):
        make_app(DELAY_JOBS_FOLDER=value)


def test_jobs_by_name(make_app):
    """As an admin's page would have it: run it now, pause it, let it run again."""
    app = make_app("mine")
    background, seen = app.extensions["delay"].owner, Seen()

    @task(every=RARELY)
    def tidy():
        seen()

    @app.post("/jobs/<name>/<verb>")
    def act(name, verb):
        g.count = 5
        job = background.job(name)
        future = {"run": job.run_now, "pause": job.pause, "resume": job.resume}[verb]()
        return {"id": future.id if future else None, "paused": job.paused}

    with app.app_context():
        job = tidy.delay()
        assert background.job("tidy") is background.job(job.name) is background.job(job.id) is job
        tidy()
        assert seen.runs.pop()[0] == "mine"
    client = app.test_client()
    answer = client.post("/jobs/tidy/run").get_json()
    with app.app_context():
        background.get(answer["id"]).result(DEADLINE)
    assert seen.runs == [("mine", False, 1, ())]
    assert client.post(f"/jobs/{job.id}/pause").get_json()["paused"]
    assert job.next_run is None
    assert not client.post("/jobs/tidy/resume").get_json()["paused"]
    assert job.next_run
    with app.app_context(), pytest.raises(LookupError, match="no job 'tidi'"):
        background.job("tidi")


def test_run_now_in_tests(make_app):
    with make_app(DELAY_MODE="immediate").app_context():
        job = using(every=RARELY).delay(pow, 2, 3)
        assert [job.run_now().result(0) for _ in range(2)] == [8, 8]


def test_a_command_acts_on_the_jobs_of_the_server(make_app, monkeypatch, tmp_path):
    """`flask shell`: a job that it does not run is paused, and run, all the same."""
    monkeypatch.setenv("FLASK_RUN_FROM_CLI", "false")
    made = []

    def create_app():
        app = make_app()
        with app.app_context():
            made.append(using(every=RARELY).delay(pow, 2, 3))
        assert not (tmp_path / "instance").exists()

        @app.cli.command("act")
        def act():
            job = app.extensions["delay"].owner.job("pow")
            assert job.run_now().result(DEADLINE) == 8
            job.pause()

        return app

    FlaskGroup(create_app=create_app).main(["act"], standalone_mode=False)
    with make_app().app_context():
        assert using(every=RARELY).delay(pow, 2, 3).paused
    assert made[0].paused


def test_a_command_runs_its_own_jobs_and_not_those_of_the_app(make_app, monkeypatch, tmp_path):
    """`flask shell` beside a server: it must not take the jobs over."""
    # `FlaskGroup` sets it for good.
    monkeypatch.setenv("FLASK_RUN_FROM_CLI", "false")
    seen, made = Seen(), []

    def create_app():
        app = make_app()
        with app.app_context():
            made.append(using(every=OFTEN, key="app").delay(seen, "app"))

        @app.cli.command("work")
        def work():
            made.append(using(every=OFTEN, key="command").delay(seen, "command"))
            for _ in range(3):
                seen.more.clear()
                seen.wait()

        return app

    FlaskGroup(create_app=create_app).main(["work"], standalone_mode=False)
    assert len(made) == 2
    assert {args for *_, args in seen.runs} == {("command",)}
    # Whoever runs the command need not be who runs the server, and could not write its file.
    (file,) = (tmp_path / "instance" / "delay").iterdir()
    assert file.name == f"{made[1].id}.lock"


def test_periodic_tasks_run_when_they_are_told_to(make_app):
    app, seen = make_app(), Seen()

    @task(every=OFTEN, timeout=DEADLINE)
    def clean(folder):
        """Clean up."""
        seen(folder)
        return "cleaned"

    assert isinstance(clean, PeriodicTask)
    assert clean.__doc__ == "Clean up."
    assert "every=0.05" in repr(clean)
    assert "every=60" in repr(clean.using(every=60))
    assert not app.extensions["delay"].jobs.all()
    with app.app_context():
        assert clean("by hand") == "cleaned"
        seen.more.clear()
        job = clean.delay("tmp")
    assert isinstance(job, Job)
    seen.wait()
    assert seen.runs[-1][-1] == ("tmp",)
    while not (job.last and job.last.done()):
        pass
    assert job.last.result() == "cleaned"


def test_other_options_make_a_task_a_job(make_app):
    @task(timeout=5)
    def work(number=1):
        return number

    with make_app().app_context():
        assert work.using(countdown=0.01).delay(2).result(DEADLINE) == 2
        job = work.using(cron="0 3 * * *", timezone="Europe/Berlin").delay(2)
        assert isinstance(job, Job)
        assert job.next_run > datetime.now(UTC)
        assert job.schedule == "0 3 * * * Europe/Berlin"


class Methods:
    @task(every=RARELY, key="method")
    def method(self):
        return self

    @task(every=RARELY)
    @staticmethod
    def static(x=1):
        return x

    @task(every=RARELY)
    @classmethod
    def of_class(cls):
        return cls


def test_on_classes(make_app):
    it = Methods()
    assert it.method() is it
    assert Methods.static(3) == 3
    assert Methods.of_class() is Methods
    with make_app().app_context():
        jobs = [it.method.delay(), Methods.static.delay(), it.of_class.delay()]
    assert len({job.id for job in jobs}) == 3


def test_an_upload_is_no_argument_of_a_job(make_app):
    app = make_app()

    @app.post("/")
    def start():
        using(every=RARELY, key="upload").delay(print, request.files["file"])

    app.testing = True
    with pytest.raises(TypeError, match="the upload 'a.txt' is closed"):
        app.test_client().post("/", data={"file": (io.BytesIO(b""), "a.txt")})
    with app.app_context(), pytest.raises(TypeError, match="`current_app` is a proxy"):
        using(every=RARELY, key="proxy").delay(print, current_app)


@pytest.mark.parametrize("mode", ["immediate", "manual"])
def test_in_tests_nothing_runs_by_itself(make_app, mode):
    app, seen = make_app(DELAY_MODE=mode), Seen()
    with app.app_context():
        job = using(every=OFTEN, key="seen").delay(seen)
        assert job.next_run > datetime.now(UTC)
        assert not seen.more.wait(3 * OFTEN)
        assert app.extensions["delay"].owner.jobs == [job]
        # A countdown is over at once.
        future = using(countdown=RARELY).delay(pow, 2, 3)
        app.extensions["delay"].owner.run_pending() if mode == "manual" else None
        assert future.result(0) == 8


def test_an_app_that_is_dropped_goes_with_its_jobs(tmp_path):
    app = Flask("dropped", static_folder=None, instance_path=str(tmp_path))
    Delay(app)
    with app.app_context():
        using(every=RARELY).delay(int)
        using(cron="* * * * *").delay(int)
    gone = weakref.ref(app)
    del app
    gc.collect()
    assert gone() is None


def test_eta_and_countdown_carry_all_that_a_task_does(make_app):
    app, seen = make_app("mine"), Seen()
    background = app.extensions["delay"].owner

    @app.get("/")
    def start():
        when = {"eta": datetime.now(UTC) + timedelta(seconds=0.05), "request": True}
        future = using(**when).delay(lambda: request.path)
        future.add_done_callback(lambda future: seen(future.result()))
        return {"id": future.id, "state": future.state}

    answer = app.test_client().get("/").get_json()
    assert answer["state"] == "pending"
    with app.app_context():
        assert background.get(answer["id"]).result(DEADLINE) == "/"
    seen.wait()
    assert seen.runs == [("mine", False, 1, ("/",))]
