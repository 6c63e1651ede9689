"""`compat.flask_apscheduler`: the interface of Flask-APScheduler on jobs of ours.

That its cron lines and intervals come when APScheduler's do is tested in tests/ecosystem.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from zoneinfo import ZoneInfo

import pytest
from flask import Flask, current_app, has_request_context

from flask_delay import Delay, DuplicateTask
from flask_delay.compat.flask_apscheduler import (
    PAUSED,
    RUNNING,
    STOPPED,
    APScheduler,
    ConflictingIdError,
    JobLookupError,
    SchedulerAlreadyRunningError,
    SchedulerNotRunningError,
)

from .conftest import DEADLINE, close

OFTEN = 0.05


@pytest.fixture
def make(tmp_path) -> Iterator[Callable[..., tuple[Flask, APScheduler]]]:
    """Make an app with a scheduler, which is shut down when the test is over."""
    with ExitStack() as stack:

        def make(scheduler: APScheduler | None = None, **config):
            app = Flask("app", static_folder=None, instance_path=str(tmp_path / "instance"))
            app.config.update({"SCHEDULER_TIMEZONE": "Europe/Berlin"} | config)
            scheduler = scheduler or APScheduler()
            scheduler.init_app(app)
            stack.callback(close, app)
            return app, scheduler

        yield make


@pytest.fixture
def scheduler(make) -> APScheduler:
    return make()[1]


class Seen:
    """A function of a job, which waits in each run until it may end."""

    def __init__(self):
        self.runs, self.ran = [], threading.Event()
        self.release = threading.Event()
        self.release.set()

    def __call__(self, *args, **kwargs):
        self.runs.append((current_app.name, has_request_context(), args, kwargs))
        self.ran.set()
        assert self.release.wait(DEADLINE)

    def wait(self):
        assert self.ran.wait(DEADLINE)
        self.ran.clear()


@pytest.fixture
def seen() -> Seen:
    return Seen()


def nothing(*_args, **_kwargs):
    pass


def fail():
    raise LookupError("nothing there")


class TestRuns:
    def test_a_decorated_function_runs_in_an_app_context(self, make, seen):
        scheduler = APScheduler()
        task = scheduler.task("interval", id="sync", seconds=OFTEN, args=[1], kwargs={"two": 2})
        assert task(seen) is seen
        app, _ = make(scheduler)
        assert scheduler.get_job("sync").pending
        assert not seen.ran.is_set()
        scheduler.start()
        seen.wait()
        seen.wait()
        assert seen.runs[0] == ("app", False, (1,), {"two": 2})
        assert app.apscheduler is scheduler
        assert scheduler.get_job("sync").next_run_time > datetime.now(UTC) - timedelta(seconds=1)

    def test_jobs_of_the_config(self, make):
        jobs = [
            {"id": "one", "func": f"{__name__}:nothing", "trigger": "interval", "minutes": 5},
            {"id": "two", "func": nothing, "trigger": {"type": "cron", "hour": 3}, "args": (1,)},
        ]
        _, scheduler = make(SCHEDULER_JOBS=jobs)
        scheduler.start()
        one, two = scheduler.get_jobs()
        assert (one.id, one.func, one.job.schedule) == ("one", nothing, "every 300 s")
        assert (two.args, two.job.schedule) == ((1,), "0 3 * * * Europe/Berlin")

    def test_jobs_under_the_older_key(self, make):
        _, scheduler = make(JOBS=[{"id": "one", "func": nothing, "trigger": "cron", "hour": 3}])
        assert [job.id for job in scheduler.get_jobs()] == ["one"]

    def test_one_job_per_id_in_all_processes(self, make, seen):
        # By the id alone, as two processes may differ in what `repr` shows.
        _, scheduler = make()
        scheduler.add_job("it", seen, trigger="interval", hours=1, args=[object()])
        scheduler.start()
        first = scheduler.get_job("it").job
        scheduler.modify_job("it", args=[object()])
        assert scheduler.get_job("it").job.id == first.id
        assert first.cancelled

    def test_a_date_runs_once_and_is_gone(self, scheduler, seen):
        scheduler.start()
        job = scheduler.add_job("once", seen, args=[1])
        seen.wait()
        assert scheduler.extension.drain(DEADLINE)
        assert (scheduler.get_job("once"), len(seen.runs)) == (None, 1)
        assert job.job is None

    def test_a_date_to_come(self, scheduler, seen):
        scheduler.start()
        at = (datetime.now(ZoneInfo("Europe/Berlin")) + timedelta(days=2)).replace(tzinfo=None)
        job = scheduler.add_job("later", seen, trigger="date", run_date=str(at))
        assert job.next_run_time.astimezone(ZoneInfo("Europe/Berlin")).replace(tzinfo=None) == at
        scheduler.pause_job("later")
        assert job.next_run_time is None
        scheduler.resume_job("later")
        assert job.next_run_time is not None
        scheduler.remove_job("later")
        assert scheduler.get_jobs() == []

    def test_a_date_that_is_past_does_not_run(self, scheduler, seen, caplog):
        scheduler.start()
        past = datetime.now(UTC) - timedelta(minutes=1)
        scheduler.add_job("late", seen, run_date=past)
        assert "job late does not run: its run_date was 60 s ago" in caplog.text
        scheduler.add_job("graced", seen, run_date=past, misfire_grace_time=3600)
        seen.wait()
        assert scheduler.extension.drain(DEADLINE)
        assert (len(seen.runs), scheduler.get_jobs()) == (1, [])

    @pytest.mark.parametrize("which", ["the job", "the scheduler"])
    def test_a_date_that_has_begun_is_not_run_again_by_pause_and_resume(self, scheduler, which):
        started, end, runs = threading.Event(), threading.Event(), []

        def slow():
            runs.append(started.set())
            end.wait(DEADLINE)

        scheduler.start()
        scheduler.add_job("it", slow)
        assert started.wait(DEADLINE)
        if which == "the scheduler":
            scheduler.pause()
            scheduler.resume()
        else:
            for method in (scheduler.pause_job, scheduler.resume_job):
                with pytest.raises(JobLookupError, match="those it has: none"):
                    method("it")
        assert scheduler.get_jobs() == []
        end.set()
        scheduler.extension.drain()
        assert len(runs) == 1

    def test_a_date_adds_itself_again(self, scheduler):
        ended = []

        def often():
            if len(ended) < 2:
                scheduler.add_job("it", often)
            ended.append("a function")

        async def replaced():
            if len(ended) < 5:
                scheduler.add_job("it", replaced, replace_existing=True)
            await asyncio.sleep(0)
            ended.append("a coroutine")

        scheduler.start()
        for func in (often, replaced):
            scheduler.add_job("it", func)
            scheduler.extension.drain()
        assert ended == ["a function"] * 3 + ["a coroutine"] * 3

    @pytest.mark.parametrize("started", [True, False])
    def test_run_job_waits_and_raises(self, scheduler, seen, started):
        scheduler.add_job("it", seen, trigger="cron", hour=3)
        scheduler.add_job("fail", fail, trigger="cron", hour=3)
        if started:
            scheduler.start()
        assert scheduler.run_job("it") is None
        assert len(seen.runs) == 1
        with pytest.raises(LookupError, match="nothing there"):
            scheduler.run_job("fail")

    def test_one_run_at_a_time(self, scheduler, seen):
        scheduler.start()
        job = scheduler.add_job("it", seen, trigger="cron", hour=3)
        seen.release.clear()
        first = threading.Thread(target=scheduler.run_job, args=["it"])
        first.start()
        seen.wait()
        try:
            with pytest.raises(DuplicateTask):
                scheduler.run_job("it")
            job.modify(max_instances=2)
            second = threading.Thread(target=scheduler.run_job, args=["it"])
            second.start()
            seen.wait()
        finally:
            seen.release.set()
        first.join(DEADLINE)
        second.join(DEADLINE)
        assert len(seen.runs) == 2


class TestControl:
    def test_pause_and_resume_of_a_job(self, scheduler):
        job = scheduler.add_job("it", nothing, trigger="interval", hours=1)
        with pytest.raises(SchedulerNotRunningError, match="call start"):
            job.pause()
        scheduler.start()
        job.pause()
        assert job.next_run_time is None
        assert scheduler.extension.job("it").paused
        job.resume()
        assert job.next_run_time is not None

    def test_pause_and_resume_of_the_scheduler(self, scheduler, seen):
        scheduler.add_job("it", seen, trigger="interval", seconds=OFTEN)
        scheduler.start(paused=True)
        assert (scheduler.running, scheduler.state) == (True, PAUSED)
        assert scheduler.extension.jobs == []
        scheduler.resume()
        scheduler.resume()
        assert scheduler.state == RUNNING
        seen.wait()
        scheduler.pause()
        assert scheduler.extension.jobs == []
        scheduler.add_job("other", nothing, trigger="cron", hour=3)
        assert scheduler.extension.jobs == []
        scheduler.resume()
        assert len(scheduler.extension.jobs) == 2

    def test_a_job_is_paused_while_the_scheduler_is(self, scheduler, seen):
        soon = datetime.now(UTC) + timedelta(hours=1)
        ids = ("later", "often")
        scheduler.add_job("later", nothing, run_date=soon)
        scheduler.add_job("often", nothing, trigger="interval", hours=1)
        scheduler.start(paused=True)
        for id in ids:
            scheduler.pause_job(id)
        scheduler.resume()
        assert [scheduler.get_job(id).next_run_time for id in ids] == [None, None]
        scheduler.pause()
        scheduler.resume_job("later")
        assert scheduler.get_job("later").next_run_time is None
        scheduler.resume()
        scheduler.resume_job("often")
        assert scheduler.get_job("later").next_run_time == soon
        assert scheduler.get_job("often").next_run_time is not None

    def test_start_and_shutdown(self, make, seen):
        _, scheduler = make()
        assert scheduler.state == STOPPED
        scheduler.start()
        with pytest.raises(SchedulerAlreadyRunningError):
            scheduler.start()
        with pytest.raises(SchedulerAlreadyRunningError, match="shutdown"):
            scheduler.init_app(Flask("other"))
        scheduler.add_job("it", seen, trigger="interval", seconds=OFTEN)
        seen.wait()
        scheduler.shutdown()
        ran = len(seen.runs)
        assert (scheduler.running, scheduler.get_jobs()) == (False, [])
        for stopped in (scheduler.shutdown, scheduler.pause, scheduler.resume):
            with pytest.raises(SchedulerNotRunningError):
                stopped()
        scheduler.start()
        assert len(seen.runs) == ran
        # As in the tests of an app factory: the next app.
        scheduler.shutdown(wait=False)
        other, _ = make(scheduler)
        scheduler.start()
        scheduler.add_job("it", seen, trigger="interval", seconds=OFTEN)
        seen.ran.clear()
        seen.wait()
        assert scheduler.app is other

    def test_start_without_an_app(self):
        with pytest.raises(RuntimeError, match="init_app"):
            APScheduler().start()

    def test_hosts(self, make, caplog):
        caplog.set_level(logging.INFO, "flask_delay")
        _, scheduler = make(SCHEDULER_ALLOWED_HOSTS=["elsewhere"])
        scheduler.start()
        assert not scheduler.running
        assert f"does not start on host {scheduler.host_name}" in caplog.text
        scheduler.allowed_hosts = [scheduler.host_name]
        scheduler.start()
        assert scheduler.running

    def test_ids(self, scheduler):
        scheduler.add_job("it", nothing, trigger="cron", hour=3)
        with pytest.raises(ConflictingIdError, match="'it' already: say replace_existing"):
            scheduler.add_job("it", fail, trigger="cron", hour=4)
        assert scheduler.add_job("it", fail, trigger="cron", hour=4, replace_existing=True)
        assert scheduler.get_job("it").func is fail
        scheduler.task("cron", hour=3)(nothing)
        assert scheduler.get_job(f"{__name__}.nothing").name == f"{__name__}.nothing"
        # Otherwise one of two jobs of a function would be lost.
        with pytest.raises(ConflictingIdError, match="or give another id"):
            scheduler.task("cron", hour=15)(nothing)
        assert scheduler.task("cron", id="it", hour=15)(nothing) is nothing
        assert scheduler.get_job("it").func is nothing
        assert scheduler.get_job("other") is None
        for method in ("remove_job", "pause_job", "resume_job", "run_job", "modify_job"):
            with pytest.raises(JobLookupError, match="no job 'other' in this process.*: it, "):
                getattr(scheduler, method)("other")
        for wrong in ("", None, 3):
            with pytest.raises(TypeError, match="id of a job must be a string"):
                scheduler.add_job(wrong, nothing)

    def test_modify(self, scheduler):
        job = scheduler.add_job(
            "it", nothing, trigger="cron", hour=3, misfire_grace_time=5, name="It"
        )
        scheduler.start()
        job = job.modify(args=[1], name="That")
        assert (job.args, job.name, job.job.schedule) == ((1,), "That", "0 3 * * * Europe/Berlin")
        job = job.reschedule("interval", minutes=1)
        assert (job.args, job.job.schedule) == ((1,), "every 60 s")
        assert job.options()["expires"] == 5
        assert len(scheduler.extension.jobs) == 1
        with pytest.raises(TypeError, match="'hourly' is not an option"):
            job.modify(hourly=1)
        assert scheduler.get_job("it") is job
        job.remove()
        assert scheduler.extension.jobs == []

    def test_changes_by_several_threads(self, scheduler):
        scheduler.start()
        scheduler.add_job("it", nothing, trigger="interval", hours=1)
        at_once = threading.Barrier(4)

        def change(number):
            at_once.wait(DEADLINE)
            for turn in range(20):
                scheduler.modify_job("it", trigger="interval", hours=number + turn)
                scheduler.modify_job("it", args=[number])

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(change, range(1, 5)))
        # All changes were made, and what runs is what the scheduler has.
        assert scheduler.extension.jobs == [scheduler.get_job("it").job]
        scheduler.remove_job("it")
        assert scheduler.extension.jobs == []

    def test_a_job_that_cannot_start_is_not_there(self, scheduler):
        scheduler.start()
        scheduler.extension.using(every=3600, key="it").delay(nothing, 1)
        with pytest.raises(ValueError, match="of another function"):
            scheduler.add_job("it", nothing, trigger="interval", hours=1)
        assert scheduler.get_jobs() == []

    def test_beside_a_delay(self, make, seen):
        app, scheduler = make()
        Delay(app)
        assert scheduler.extension.name == "flask_apscheduler"
        assert app.extensions["delay"] is not app.extensions["flask_apscheduler"]


class TestOptions:
    @pytest.mark.parametrize(
        ("given", "options"),
        [
            ({"misfire_grace_time": 900}, {"expires": 900}),
            ({"misfire_grace_time": None}, {}),
            ({"coalesce": True, "max_instances": 1}, {}),
            ({"max_instances": 3}, {"overlap": True, "limit": 3, "expires": 60}),
            (
                {"max_instances": 3, "misfire_grace_time": 5},
                {"overlap": True, "limit": 3, "expires": 5},
            ),
            ({"jobstore": "default", "executor": "default", "jitter": None}, {}),
            ({"start_date": "2000-01-01 12:00:00"}, {}),
        ],
    )
    def test_with_a_counterpart(self, scheduler, given, options):
        job = scheduler.add_job("it", nothing, trigger="interval", hours=1, **given)
        assert job.options() == {"every": timedelta(hours=1), "key": "it", **options}

    @pytest.mark.parametrize(
        ("given", "kind", "message"),
        [
            ({"jobstore": "redis"}, ValueError, "'jobstore' is 'redis'.*leave it out"),
            ({"executor": "processpool"}, ValueError, "'executor' is 'processpool'"),
            ({"coalesce": False}, ValueError, "'coalesce' is False.*leave it out"),
            ({"max_instances": 0}, ValueError, "'max_instances' is 0"),
            ({"misfire_grace_time": 0}, ValueError, "'misfire_grace_time' is 0"),
            ({"misfire_grace_time": "5"}, ValueError, "'misfire_grace_time' is '5'"),
            ({"jitter": 5}, ValueError, "'jitter' has no counterpart here"),
            ({"end_date": "2030-01-01"}, ValueError, "'end_date' has no counterpart.*remove_job"),
            ({"next_run_time": None}, ValueError, "'next_run_time' has no counterpart"),
            ({"next_run_time": datetime.now(UTC)}, ValueError, "run_job"),
            ({"start_date": "2900-01-01"}, ValueError, "'start_date' is '2900-01-01'"),
            ({"start_date": "2000-01-01 12:30"}, ValueError, "multiples of the interval"),
            ({"start_date": "soon"}, ValueError, "'start_date' is 'soon', but must be a datetime"),
            ({"start_date": 5}, TypeError, "'start_date' is 5"),
            ({"timezone": "Nowhere"}, ValueError, "'timezone' is 'Nowhere'"),
            ({"days": "x"}, ValueError, "days"),
            ({"hours": 0}, ValueError, "must be above 0"),
            ({"hour": 1}, TypeError, "'hour' is not an option .* 'interval'; valid are .*hours"),
            ({"func": "nowhere:it"}, ValueError, "'func' is 'nowhere:it'"),
            ({"func": 5}, TypeError, "5"),
            ({"args": [1, 2]}, TypeError, "fail"),
            ({"trigger": "often"}, ValueError, "'trigger' is 'often'"),
            ({"trigger": object()}, TypeError, "'trigger' is <object.*using"),
        ],
    )
    def test_without_a_counterpart(self, scheduler, given, kind, message):
        with pytest.raises(kind, match=message) as raised:
            scheduler.add_job("it", **({"func": fail, "trigger": "interval", "hours": 1, **given}))
        assert str(raised.value).startswith("job 'it': ")
        assert scheduler.get_jobs() == []

    @pytest.mark.parametrize(
        ("given", "cron"),
        [
            ({"hour": 3}, "0 3 * * *"),
            ({"minute": "*"}, "* * * * *"),
            ({"minute": "5/10", "second": 0}, "5-59/10 * * * *"),
            ({"month": "1-6, 12", "hour": "*/2"}, "0 */2 * 1-6,12 *"),
            ({"month": "jan"}, "0 0 1 jan *"),
            ({"day_of_week": "mon-fri", "hour": 9, "minute": 30}, "30 9 * * mon,tue,wed,thu,fri"),
            ({"day_of_week": "0,6"}, "0 0 * * mon,sun"),
            ({"day_of_week": "*/2"}, "0 0 * * mon,wed,fri,sun"),
            ({"day_of_week": "3/2"}, "0 0 * * thu,sat"),
            ({"day_of_week": "0-6", "day": 3}, "0 0 3 * *"),
            ({"week": "*", "day_of_week": "sun"}, "0 0 * * sun"),
            ({"day": "last"}, "0 0 L * *"),
            ({"day": "2nd fri, last mon"}, "0 0 * * fri#2,monL"),
        ],
    )
    def test_lines(self, scheduler, given, cron):
        options = scheduler.add_job("it", nothing, trigger="cron", **given).options()
        assert options == {"cron": cron, "timezone": "Europe/Berlin", "key": "it"}

    @pytest.mark.parametrize("second", ["*", "*/5", "*/30"])
    def test_seconds(self, scheduler, second):
        options = scheduler.add_job("it", nothing, trigger="cron", second=second).options()
        assert options == {"every": int(second[2:] or 1), "key": "it"}

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({}, "say when"),
            ({"second": 30}, "'second' is '30'.*'interval'"),
            ({"second": "*/7"}, "'second' is"),
            ({"second": "*/5", "hour": 3}, "'second' is"),
            ({"year": 2027}, "'year' is '2027'"),
            ({"week": "1-10"}, "'week' is '1-10'"),
            ({"day": 13, "day_of_week": "fri"}, "asks for both, a crontab for either"),
            ({"day": "1st fri", "day_of_week": "fri"}, "for either"),
            ({"day": "1st fri, 5"}, "a job of their own"),
            ({"day": "1st xyz"}, "'xyz'"),
            ({"day_of_week": "fri-mon"}, "'day_of_week' is 'fri-mon'"),
            ({"day_of_week": "7"}, "'day_of_week' is '7'.*0 is Monday"),
            ({"hour": 25}, "hour"),
            ({"day": 30, "month": 2}, "that time never comes"),
        ],
    )
    def test_lines_that_a_crontab_has_not(self, scheduler, given, message):
        with pytest.raises(ValueError, match=message):
            scheduler.add_job("it", nothing, trigger="cron", **given)

    def test_the_clocks_of_the_machine(self, make, monkeypatch):
        monkeypatch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        try:
            _, scheduler = make(SCHEDULER_TIMEZONE=None)
            options = scheduler.add_job("it", nothing, trigger="cron", hour=3).options()
        finally:
            monkeypatch.undo()
            time.tzset()
        assert options["timezone"] == "Asia/Tokyo"


class TestSettings:
    def test_defaults_of_jobs(self, make):
        scheduler = APScheduler()
        scheduler.add_job("before", nothing, trigger="cron", hour=3)
        _, scheduler = make(scheduler, SCHEDULER_JOB_DEFAULTS={"misfire_grace_time": 5})
        assert scheduler.get_job("before").options()["expires"] == 5
        job = scheduler.add_job("own", nothing, trigger="cron", hour=3, misfire_grace_time=None)
        assert "expires" not in job.options()

    def test_workers(self, make):
        executors = {"default": {"type": "threadpool", "max_workers": 3}}
        app, scheduler = make(SCHEDULER_EXECUTORS=executors)
        assert scheduler.extension.settings(app).max_workers == 3
        with pytest.raises(ValueError, match="SCHEDULER_MAX_WORKERS is 4"):
            make(SCHEDULER_EXECUTORS=executors, SCHEDULER_MAX_WORKERS=4)

    @pytest.mark.parametrize(
        ("key", "value", "remedy"),
        [
            ("API_ENABLED", True, "dashboard_blueprint"),
            ("VIEWS_ENABLED", True, "dashboard_blueprint"),
            ("AUTH", object(), "dashboard_blueprint"),
            ("JOBSTORES", {"default": object()}, "durable=True"),
            ("EXECUTORS", {"default": {"type": "processpool"}}, "processes"),
            ("EXECUTORS", {"default": {"type": "threadpool", "max_workers": 0}}, "max_workers"),
            ("EXECUTORS", {"other": {"type": "threadpool"}}, "threadpool"),
            ("JOB_DEFAULTS", {"coalesce": False}, "'coalesce': True"),
            ("JOB_DEFAULTS", {"jitter": 3}, "'max_instances'"),
            ("TIMEZONE", "Nowhere", "Europe/Berlin"),
            ("ALLOWED_HOSTS", "here", "a list of host names"),
            ("JOBS", {"id": "one"}, "a list of dicts"),
        ],
    )
    def test_refused(self, make, key, value, remedy):
        with pytest.raises(ValueError, match=f"^SCHEDULER_{key} is .* but must be .*{remedy}"):
            make(**{f"SCHEDULER_{key}": value})

    def test_that_change_nothing(self, make, recwarn):
        make(
            SCHEDULER_API_ENABLED=False,
            SCHEDULER_API_PREFIX="/jobs",
            SCHEDULER_ENDPOINT_PREFIX="jobs.",
            SCHEDULER_AUTH=None,
            SCHEDULER_JOBSTORES={"default": {"type": "memory"}},
        )
        assert recwarn.list == []

    @pytest.mark.parametrize(
        ("use", "kind", "remedy"),
        [
            (lambda s: setattr(s, "api_enabled", True), ValueError, "dashboard_blueprint"),
            (lambda s: setattr(s, "auth", object()), ValueError, "dashboard_blueprint"),
            (lambda s: s.authenticate(nothing), AttributeError, "dashboard_blueprint"),
            (lambda s: s.add_listener(nothing), AttributeError, "task_failed"),
            (lambda s: s.scheduler.add_job(nothing), AttributeError, "extension"),
            (lambda s: s.nothing, AttributeError, "no attribute 'nothing'$"),
            (lambda s: APScheduler(s), TypeError, "leave it out"),
            (lambda s: s.get_job("it", jobstore="sql"), ValueError, "'jobstore' is 'sql'"),
            (lambda s: s.init_app(s.app), RuntimeError, "flask_apscheduler"),
        ],
    )
    def test_calls_without_a_counterpart(self, scheduler, use, kind, remedy):
        with pytest.raises(kind, match=remedy):
            use(scheduler)

    def test_switching_off_what_is_not_there(self, scheduler):
        scheduler.api_enabled = False
        scheduler.auth = None
        assert (scheduler.api_enabled, scheduler.auth) == (False, None)

    def test_the_older_key_that_is_wrong(self, make):
        with pytest.raises(TypeError, match="JOBS is 'it', but must be a list of dicts"):
            make(JOBS="it")

    def test_a_job_of_the_config_that_is_wrong(self, make):
        job = partial(dict, id="it", func=nothing, trigger="cron")
        with pytest.raises(ValueError, match="job 'it': 'year' is"):
            make(SCHEDULER_JOBS=[job(year=2027)])
