"""The options that `@task` gave a function hold however it is submitted."""

import functools
import logging
import threading

import pytest
from click.testing import CliRunner
from flask import Flask, current_app, request, request_started
from flask.cli import ScriptInfo

from flask_delay import Delay, DuplicateTask, Job, TaskTimeout, chain, delay, options, task, using
from flask_delay.commands import delay as group


@pytest.fixture
def asked(monkeypatch):
    """The options of all that is submitted with some, newest last."""
    found = []
    monkeypatch.setattr(options, "watchers", [lambda _, given, __: found.append(dict(given))])
    return found


@task(timeout=60, retry=2)
def push(order, *more, **named):
    return current_app.name, order, *more, *named.items()


class Mailer:
    @task(priority=3)
    def send(self, to):
        return to

    @task(priority=4)
    @classmethod
    def ping(cls, to):
        return to


def test_the_issues_own_lines(app, asked, deadline):
    with app.app_context():
        assert using(priority=-10, timeout=5).delay(push, 7).result(deadline) == ("app", 7)
        assert delay(push, 7).result(deadline) == ("app", 7)
    assert asked == [{"timeout": 5, "retry": 2, "priority": -10}, {"timeout": 60, "retry": 2}]


@pytest.mark.parametrize(
    "submit",
    [
        lambda background, fn, *args: background.delay(fn, *args),
        lambda background, fn, *args: background.using().delay(fn, *args),
        lambda background, fn, *args: chain(fn).delay(*args),
        lambda background, fn, *args: next(background.map(fn, *([it] for it in args))),
        lambda background, fn, *args: next(background.using().map(fn, *([it] for it in args))),
        lambda background, fn, *args: next(using().map(fn, *([it] for it in args))),
    ],
)
@pytest.mark.parametrize(
    ("fn", "given"),
    [
        (push, {"timeout": 60, "retry": 2}),
        (functools.partial(push, 1), {"timeout": 60, "retry": 2}),
        (functools.partial(Mailer().send), {"priority": 3}),
        (Mailer().send, {"priority": 3}),
        (Mailer.ping, {"priority": 4}),
    ],
)
def test_every_way_to_submit(app, asked, submit, fn, given):
    args, deadline = ("ann",), 20
    background = app.extensions["delay"].owner
    with app.app_context():
        submit(background, fn, *args)
    assert asked[-1] == given
    assert background.drain(deadline)


def test_steps(app, asked, deadline):
    with app.app_context():
        first = delay(int, 7)
        for step in (push, functools.partial(push, 1, then=2)):
            first.then(step).result(deadline)
            chain(int, step).delay(7).result(deadline)
        assert first.then(functools.partial(push, 1, b=2)).result(deadline) == (
            "app",
            1,
            7,
            ("b", 2),
        )
    assert asked == [{"timeout": 60, "retry": 2}] * 5


def test_the_calls_own_options_go_first(app, deadline):
    @task(timeout=0.05)
    def slow():
        release.wait(deadline)

    release = threading.Event()
    with app.app_context():
        with pytest.raises(TaskTimeout):
            delay(slow).result(deadline)
        future = using(timeout=60).delay(slow)
        release.set()
        assert future.result(deadline) is None


def test_the_request(app, deadline):
    @task(request=True)
    def path():
        return request.path

    @app.get("/x")
    def view():
        return [delay(path).result(deadline), using(priority=1).delay(path).result(deadline)]

    assert app.test_client().get("/x").get_json() == ["/x", "/x"]


def test_key_and_unique_go_by_all_arguments_of_a_partial(app):
    keys = []

    @task(key=lambda *args, **kwargs: keys.append((args, kwargs)) or 1, unique="raise")
    def one(*_args, **_kwargs):
        release.wait(20)

    release = threading.Event()
    with app.app_context():
        delay(functools.partial(one, 1, a=2), 3, b=4)
        with pytest.raises(DuplicateTask):
            delay(functools.partial(one, 1), a=2)
        release.set()
    assert keys == [((1, 3), {"a": 2, "b": 4}), ((1,), {"a": 2})]


def test_options_that_exclude_each_other_are_said(app):
    message = "'countdown' is 60, but with 'expires'"
    with app.app_context(), pytest.raises(ValueError, match=message):
        using(countdown=60).delay(task(expires=5)(int))


def test_a_kept_using_checks_a_task_once(app, monkeypatch, deadline):
    made = []
    kept = using(priority=1)
    with app.app_context():
        kept.delay(push, 1).result(deadline)
        monkeypatch.setattr(options, "_parsed", lambda *it: made.append(it))
        kept.delay(push, 1).result(deadline)
    assert made == []


def test_a_task_of_a_delay_runs_there_unless_another_is_named(make_app, deadline):
    reports = Delay(name="reports")
    app = make_app(extension=reports)
    Delay(app)
    background = app.extensions["delay"].owner

    @reports.task(priority=1)
    def where():
        return threading.current_thread().name.partition("_")[0]

    plain = task(where.__wrapped__)
    with app.app_context():
        assert where.delay().result(deadline) == "reports"
        assert delay(where).result(deadline) == "reports"
        assert using(priority=2).delay(where).result(deadline) == "reports"
        assert chain(where).delay().result(deadline) == "reports"
        assert background.delay(where).result(deadline) == "delay"
        assert background.using(priority=2).delay(where).result(deadline) == "delay"
        assert reports.delay(plain).result(deadline) == "reports"


class TestJobs:
    def test_a_declared_job_becomes_one(self, app):
        @task(every=3600)
        def tidy():
            pass

        with app.app_context():
            jobs = [tidy.delay(), delay(tidy), using(priority=1).delay(tidy)]
            assert all(isinstance(job, Job) for job in jobs)
            assert jobs[0] is jobs[1] is jobs[2]
            jobs[0].cancel()

    def test_a_task_becomes_a_job_with_its_options(self, app):
        ran = threading.Event()

        @task(timeout=0.05)
        def stuck():
            release.wait(20)

        release = threading.Event()
        background = app.extensions["delay"].owner
        failures = []
        background.add_default_done_callback(lambda it: failures.append(it) or ran.set())
        with app.app_context():
            job = using(every=0.05).delay(stuck)
            assert ran.wait(20)
            job.cancel()
        release.set()
        assert isinstance(failures[0].exception(), TaskTimeout)

    @pytest.mark.parametrize(
        "use",
        [
            lambda job: delay(int).then(job),
            lambda job: delay(int).then(functools.partial(job)),
            lambda job: chain(int, job),
            lambda job: chain(job),
        ],
    )
    def test_a_job_is_no_step(self, app, use):
        job = task(every=3600)(lambda value=0: value)
        with app.app_context(), pytest.raises(ValueError, match="option 'every' makes it a job"):
            use(job)

    def test_a_job_is_nothing_for_map(self, app):
        job = task(every=3600)(lambda value=0: value)
        with app.app_context():
            for verb in (using(), app.extensions["delay"].owner):
                with pytest.raises(ValueError, match="'every' is 3600.*map"):
                    verb.map(job, [1])


class TestUnstarted:
    """`@task(every=60)` without a call of `delay`."""

    @pytest.fixture
    def serve_once(self):
        def serve(app):
            app.add_url_rule("/", "root", lambda: "")
            for _ in range(2):
                app.test_client().get("/")

        return serve

    def test_it_is_said_at_the_first_request(self, make_app, caplog, serve_once):
        @task(every=3600)
        def forgotten():
            pass

        @task(every=3600)
        def started():
            pass

        @task(every=3600)
        def of_something(_):
            pass

        app = make_app()
        with app.app_context():
            started.delay().cancel()
        with caplog.at_level(logging.WARNING, "flask_delay"):
            serve_once(app)
        said = [record.getMessage() for record in caplog.records]
        mine = [text for text in said if "TestUnstarted" in text]
        assert len(mine) == 1
        assert "forgotten using(every=3600)" in mine[0]
        assert "never started as a job: call its delay()" in mine[0]

    @pytest.mark.parametrize("config", [{"TESTING": True}, {"DELAY_MODE": "immediate"}])
    def test_not_in_tests(self, make_app, caplog, serve_once, config):
        @task(every=3600)
        def forgotten():
            pass

        serve_once(make_app(**config))
        assert "never started" not in caplog.text
        assert forgotten() is None

    def test_the_app_keeps_no_listener(self, make_app, serve_once):
        # Other libraries listen for every app.
        others = list(request_started.receivers_for(Flask("other")))
        app = make_app()
        assert len(list(request_started.receivers_for(app))) == len(others) + 1
        serve_once(app)
        assert list(request_started.receivers_for(app)) == others


def test_check_names_it(app):
    @task(every=3600)
    def forgotten():
        pass

    info = ScriptInfo(create_app=lambda: app)
    answer = CliRunner().invoke(group, ["check"], obj=info)
    assert answer.exit_code == 0
    assert "forgotten using(every=3600)> was never started" in answer.output
    assert forgotten() is None
