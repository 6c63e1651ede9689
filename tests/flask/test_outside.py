"""Where no app is current, the only app with a Delay is meant."""

import gc
import threading
import weakref
from textwrap import dedent

import pytest
from flask import Flask, current_app, has_app_context

from flask_delay import Delay, Executor, delay, gather, state, task, using
from flask_delay.periodic.job import Jobs


@pytest.fixture(autouse=True)
def _no_other_apps(monkeypatch):
    # Those of other tests live on until they are collected.
    monkeypatch.setattr(state, "_states", weakref.WeakSet())


@task
def name():
    return current_app.name


SUBMITS = [
    lambda: delay(lambda: current_app.name),
    lambda: delay(name),
    lambda: name.delay(),
    lambda: using(priority=1).delay(name),
    lambda: using().delay(lambda: current_app.name),
]


@pytest.mark.parametrize("submit", SUBMITS)
def test_the_only_app(make_app, submit, deadline):
    app = make_app("only")
    Delay(app, name="reports")
    make_app("other", Delay(name="reports"))
    assert submit().result(deadline) == "only"


def test_map_and_gather(make_app, deadline):
    make_app("only")
    assert list(using().map(lambda _: current_app.name, [1], timeout=deadline)) == ["only"]
    assert gather().result(deadline) == []


@pytest.mark.parametrize(
    "start",
    [
        lambda fn: using(every=3600).delay(fn),
        lambda fn: task(every=3600)(fn).delay(),
        lambda fn: delay(task(cron="@hourly")(fn)),
    ],
)
def test_a_job_is_the_only_apps(make_app, tmp_path, start):
    extension = Delay()
    app = Flask("only", static_folder=None, instance_path=str(tmp_path))
    extension.init_app(app)
    job = start(pow)
    assert extension.jobs == [job]
    assert list((tmp_path / "delay").iterdir())
    extension.shutdown()


class TestNone:
    def test_jobs_say_so_at_once(self):
        for start in (using(every=1).delay, lambda fn: task(every=1)(fn).delay()):
            message = r"a job belongs to an app.*Delay\(app\)"
            with pytest.raises(RuntimeError, match=message) as info:
                start(print)
            assert info.value.__context__ is None

    def test_other_tasks_are_the_processs(self, monkeypatch, deadline):
        with Executor(1) as executor:
            monkeypatch.setattr(state, "shared_jobs", lambda: Jobs(executor))
            assert delay(has_app_context).result(deadline) is False
            assert using(priority=1).delay(has_app_context).result(deadline) is False

    def test_a_backend_needs_one(self):
        with pytest.raises(RuntimeError, match=r"'backend' is 'processes'.*Delay\(app\)"):
            using(backend="processes").delay(int)


class TestSeveral:
    @pytest.mark.parametrize("submit", [*SUBMITS, lambda: using(every=1).delay(int), gather])
    def test_it_is_said_which(self, make_app, submit):
        make_app("one")
        make_app("two")
        with pytest.raises(RuntimeError, match=r"'one', 'two'.*app\.app_context\(\)") as info:
            submit()
        assert info.value.__context__ is None

    def test_one_that_is_current_is_meant(self, make_app, deadline):
        make_app("one")
        with make_app("two").app_context():
            assert delay(name).result(deadline) == "two"

    def test_one_that_has_gone_does_not_count(self, make_app, deadline):
        make_app("one")
        Delay(Flask("gone", static_folder=None))
        gc.collect()
        assert delay(name).result(deadline) == "one"


def test_at_import_time_with_a_lock_file(run_script, tmp_path):
    """The README's own line, as a module has it that gunicorn's workers import."""
    done = run_script(
        dedent("""
        import sys, threading
        from flask import Flask, current_app
        from flask_delay import Delay, using
        app = Flask(__name__, instance_path=sys.argv[1])
        Delay(app)
        ran = threading.Event()
        def tidy():
            print(current_app.name, flush=True)
            ran.set()
        job = using(every=0.05).delay(tidy)
        assert ran.wait(20)
        job.cancel()
        """),
        str(tmp_path),
    )
    assert done.rc == 0, done.err
    assert done.out.startswith("script\n")
    assert list((tmp_path / "delay").iterdir())


def test_from_a_thread(make_app, deadline):
    make_app("only")
    found = []
    thread = threading.Thread(target=lambda: found.append(delay(name).result(deadline)))
    thread.start()
    thread.join(deadline)
    assert found == ["only"]
