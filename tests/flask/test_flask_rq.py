"""`compat.flask_rq`: the interface of Flask-RQ 1.0, without Redis."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest
from flask import Flask, current_app, has_request_context

from flask_delay import Delay, DuplicateTask, Retry, current_task
from flask_delay.compat.flask_rq import RQ, Job, JobWrapper, Queue

from .conftest import DEADLINE, close


@pytest.fixture
def make(tmp_path) -> Iterator[Callable[..., tuple[Flask, RQ]]]:
    """Make an app with an RQ, which is shut down when the test is over."""
    with ExitStack() as stack:

        def make(rq: RQ | None = None, name: str = "app", testing: bool = False, **config):
            app = Flask(name, static_folder=None, instance_path=str(tmp_path / "instance"))
            app.testing = testing
            app.config.update(config)
            rq = rq or RQ()
            rq.init_app(app)
            stack.callback(close_pool, app)
            return app, rq

        yield make


def close_pool(app: Flask) -> None:
    del app.extensions["rq"]
    close(app)


@pytest.fixture
def rq(make) -> RQ:
    return make()[1]


def add(a, b=0):
    return a + b


def where():
    return current_app.name, has_request_context()


def fail():
    raise LookupError("nothing there")


def text(number: int) -> str:
    return str(number)


text_durable = RQ().job(text)


class TestJobs:
    def test_the_decorator(self, make):
        rq = RQ()

        @rq.job
        def double(a):
            """Twice."""
            return 2 * a

        @rq.job(queue="mail")
        def mail(a):
            return a

        make(rq, RQ_QUEUES=["default", "mail"])
        assert isinstance(double, JobWrapper)
        assert (double(3), double.__name__, double.__doc__) == (6, "double", "Twice.")
        job = double.enqueue(4)
        assert job.future.result(DEADLINE) == 8
        assert (job.origin, mail.enqueue(a=1).origin) == ("default", "mail")
        assert rq.queue.enqueue(double, 5).future.result(DEADLINE) == 10

    def test_in_an_app_context(self, rq):
        assert rq.queue.enqueue(where).future.result(DEADLINE) == ("app", False)

    def test_what_a_job_tells(self, rq):
        entered, release = threading.Event(), threading.Event()

        def hold():
            entered.set()
            assert release.wait(DEADLINE)
            return "held"

        job = rq.queue.enqueue(hold, job_id="it", description="Holds")
        assert entered.wait(DEADLINE)
        assert (job.id, job.get_id(), job.get_status(), job.is_started) == (
            "it",
            "it",
            "started",
            True,
        )
        assert (job.return_value(), job.result, job.ended_at, job.exc_info) == (None,) * 4
        assert rq.queue.fetch_job("it") == job
        assert rq.queue.fetch_job("other") is None
        release.set()
        job.future.result(DEADLINE)
        job.refresh()
        assert (job.is_finished, job.result, job.description) == (True, "held", "Holds")
        assert job.enqueued_at <= job.started_at <= job.ended_at
        assert job.func_name.endswith("hold")

    def test_one_that_fails(self, rq):
        job = rq.queue.enqueue(fail)
        assert isinstance(job.future.exception(DEADLINE), LookupError)
        assert (job.is_failed, job.result) == (True, None)
        assert "LookupError: nothing there" in job.exc_info

    def test_later(self, rq):
        job = rq.queue.enqueue_in(timedelta(hours=1), add, 1, b=2)
        assert (job.is_queued, job.get_status()) == (True, "queued")
        job.cancel()
        assert (job.is_canceled, job.get_status(), job.result) == (True, "canceled", None)
        at = datetime.now(UTC) + timedelta(seconds=0.05)
        jobs = [
            rq.queue.enqueue_at(at, add, 1),
            rq.queue.enqueue_in(0.05, add, 1),
            # Without a time zone it is the machine's.
            rq.queue.enqueue_at(at.astimezone().replace(tzinfo=None), add, 1),
            rq.job(add).enqueue_in(0, 1),
            rq.job(add).enqueue_at(at, 1),
        ]
        assert [job.future.result(DEADLINE) for job in jobs] == [1] * 5
        assert all(job.started_at >= at for job in (jobs[0], jobs[2], jobs[4]))

    def test_arguments(self, rq):
        enqueue = rq.queue.enqueue
        assert enqueue(add, args=(1,), kwargs={"b": 2}).future.result(DEADLINE) == 3
        assert enqueue(f"{__name__}.add", 1).future.result(DEADLINE) == 1
        with pytest.raises(TypeError, match="'args' and 'kwargs' are all"):
            enqueue(add, 1, kwargs={"b": 2})
        with pytest.raises(ValueError, match="'nowhere.add' must name a function"):
            enqueue("nowhere.add")
        with pytest.raises(TypeError, match="datetime, not 5"):
            rq.queue.enqueue_at(5, add)

    def test_options(self, rq):
        attempts = []

        def once_more():
            attempts.append(current_task.attempt)
            if len(attempts) == 1:
                raise LookupError

        job = rq.queue.enqueue(
            once_more, retry=Retry(1, backoff=0), job_timeout="3m", ttl=60, at_front=True
        )
        job.future.result(DEADLINE)
        assert attempts == [1, 2]
        first = rq.queue.enqueue_in(60, add, 1, job_id="it", unique=True)
        with pytest.raises(DuplicateTask):
            rq.queue.enqueue(add, 1, job_id="it")
        assert rq.queue.enqueue(add, 1, job_timeout=-1, retry=None, meta=None)
        first.cancel()

    def test_queues_in_their_order(self, make):
        _, rq = make(RQ_QUEUES=["high", "default", "low"], RQ_MODE="manual")
        ran = []
        for name in ("low", "default", "high"):
            rq.get_queue(name).enqueue(ran.append, name)
        rq.queue.enqueue(ran.append, "front", at_front=True)
        assert rq.extension.run_pending() == 4
        assert ran == ["front", "high", "default", "low"]

    def test_durable(self, make):
        _, rq = make(RQ_DURABLE=True)
        job = rq.queue.enqueue(text_durable, 7)
        assert job.future.result(DEADLINE) == "7"
        [view] = rq.extension.tasks()
        assert view.id == job.id


class TestCron:
    def test_registered_before_and_after(self, make):
        rq, ran = RQ(), threading.Event()
        rq.cron_register(lambda: ran.set(), 1, name="often")
        rq.job(add).cron_register("0 3 * * *", 1, b=2)
        _, rq = make(rq, RQ_TIMEZONE="Europe/Berlin")
        rq.cron_register(where, 3600, queue="default", job_timeout=5)
        schedules = {job.name: job.schedule for job in rq.extension.jobs}
        assert schedules[f"{__name__}.add"] == "0 3 * * * Europe/Berlin"
        assert schedules[f"{__name__}.where"] == "every 3600 s"
        assert rq.extension.job("often").run_now().result(DEADLINE) is None
        assert ran.is_set()

    def test_with_several_apps(self, make):
        rq = RQ()
        first, _ = make(rq, name="first")
        with first.app_context():
            second, _ = make(rq, name="second")
            rq.cron_register(where, 3600)
        for app in (first, second):
            with app.app_context():
                [job] = rq.extension.jobs
                assert job.run_now().result(DEADLINE) == (app.name, False)

    @pytest.mark.parametrize(
        ("given", "kind", "message"),
        [
            ({"interval": 0}, ValueError, "'every' is 0"),
            ({"interval": "daily"}, ValueError, "'cron'"),
            ({"interval": 5, "queue": "other"}, ValueError, "'queue' is 'other', but RQ_QUEUES"),
            ({"interval": 5, "meta": {1: 2}}, ValueError, "'meta' of RQ has no counterpart"),
            ({"interval": 5, "often": True}, TypeError, "takes no 'often'"),
            ({"interval": 5, "args": [1]}, TypeError, "where"),
        ],
    )
    def test_refused(self, rq, given, kind, message):
        with pytest.raises(kind, match=message):
            rq.cron_register(where, **given)
        assert rq.extension.jobs == []


class TestApps:
    def test_of_the_current_app(self, make):
        rq = RQ()
        apps = [make(rq, name=name)[0] for name in ("first", "second")]
        for app in apps:
            with app.app_context():
                assert rq.queue.enqueue(where).future.result(DEADLINE) == (app.name, False)
        with pytest.raises(RuntimeError, match="on no app that is current.*app_context"):
            rq.queue.enqueue(where)
        with Flask("third").app_context(), pytest.raises(RuntimeError, match="init_app"):
            rq.queues  # noqa: B018
        with pytest.raises(RuntimeError, match="init_app"):
            RQ().queues  # noqa: B018

    def test_twice(self, make):
        app, rq = make()
        with pytest.raises(RuntimeError, match="call init_app once"):
            rq.init_app(app)

    def test_beside_a_delay(self, make):
        app, rq = make()
        Delay(app)
        assert app.extensions["rq"] is rq
        assert rq.extension.name == "flask_rq"

    def test_in_tests_jobs_run_at_once(self, make):
        _, rq = make(testing=True)
        assert not rq.queue.is_async
        job = rq.queue.enqueue(add, 1)
        assert (job.is_finished, job.result) == (True, 1)
        _, rq = make(testing=True, RQ_MODE="threads")
        assert rq.queue.is_async


class TestRefused:
    @pytest.mark.parametrize(
        ("key", "value", "remedy"),
        [
            ("CONNECTION", "redis://host", "there is no Redis"),
            ("CONNECTION_CLASS", "redis.Redis", "there is no Redis"),
            ("QUEUE_CONNECTIONS", {"mail": "default"}, "there is no Redis"),
            ("ASYNC", False, "RQ_MODE = 'immediate'"),
            ("QUEUES", [], "1 to 10 names"),
            ("QUEUES", ["a", "a"], "each once"),
            ("QUEUES", "default", "a list"),
        ],
    )
    def test_settings(self, make, key, value, remedy):
        with pytest.raises(ValueError, match=f"^RQ_{key} is .*{remedy}"):
            make(**{f"RQ_{key}": value})

    @pytest.mark.parametrize(
        ("given", "kind", "message"),
        [
            ({"depends_on": "it"}, ValueError, "'depends_on' of RQ .*then"),
            ({"on_success": add}, ValueError, "'on_success' .* add_done_callback"),
            ({"result_ttl": 500}, ValueError, "'result_ttl' .* RQ_RESULT_LIMIT"),
            ({"repeat": object()}, ValueError, "'repeat' .* cron_register"),
            ({"job_timeout": "5y"}, ValueError, "'job_timeout' is '5y', but must be .*\"5m\""),
            ({"job_timeout": 0}, ValueError, "'timeout' is 0"),
            ({"ttl": [5]}, TypeError, r"'ttl' is \[5\]"),
            ({"retry": object()}, TypeError, "'retry' .* a Retry"),
            ({"job_id": "a/b"}, ValueError, "'id' is 'a/b'"),
            ({"c": 1}, TypeError, "'c'"),
        ],
    )
    def test_options(self, rq, given, kind, message):
        with pytest.raises(kind, match=message):
            rq.queue.enqueue(add, 1, **given)
        assert rq.extension.stats()["tasks"] == {}

    @pytest.mark.parametrize(
        ("use", "kind", "message"),
        [
            (lambda rq: rq.make_worker(), AttributeError, "no worker"),
            (lambda rq: rq.make_cron_scheduler(), AttributeError, "no scheduler"),
            (lambda rq: rq.queue.empty(), AttributeError, "extension"),
            (lambda rq: rq.queue.enqueue(add, 1).requeue(), AttributeError, "future"),
            (lambda rq: rq.get_queue("mail"), KeyError, "mail"),
            (lambda rq: rq.job(5), TypeError, "5"),
        ],
    )
    def test_calls(self, rq, use, kind, message):
        with pytest.raises(kind, match=message):
            use(rq)

    def test_an_unknown_queue_is_told_with_those_that_are_there(self, rq):
        with pytest.raises(KeyError) as raised:
            rq.get_queue("mail")
        assert raised.value.__notes__ == ["RQ_QUEUES has 'default', not 'mail'."]


def test_types(rq):
    assert isinstance(rq.queue, Queue)
    assert isinstance(rq.queue.enqueue(add, 1), Job)
    assert not hasattr(rq.queue, "__len__")
