"""The options `durable` and `once`: what is allowed, and what is said about the rest."""

import weakref
from datetime import UTC, datetime

import pytest
from flask import Flask

from flask_delay import Delay, Retry, chain, delay, gather, state, task, using
from flask_delay.options import Chosen


@task(durable=True)
def send(text="text"):
    return text


@task
def plain(text="text"):
    return text


def undecorated():
    pass


@pytest.fixture
def app(make_app):
    return make_app()


@pytest.fixture
def make_app(tmp_path):
    def make(name="app", **config):
        app = Flask(name, instance_path=str(tmp_path / "instance"))
        app.config.update(config)
        Delay(app)
        return app

    return make


@pytest.mark.parametrize("value", [True, "disk"])
def test_good_values(value):
    chosen = Chosen({"durable": value, "once": "order-1"})
    assert (chosen.durable, chosen.once) == (value, "order-1")
    # They are Python's affair.
    assert chosen.policy is None


def test_what_is_not_said():
    assert Chosen({}).durable is None
    assert Chosen({"durable": False}).durable is False


@pytest.mark.parametrize("value", [1, None, "yes", b"disk", "DISK"])
def test_bad_values_of_durable(value):
    error = (TypeError, ValueError)
    with pytest.raises(error, match="the option 'durable' is .*, but must be True, False or \"di"):
        using(durable=value)


@pytest.mark.parametrize("value", [1, None, "", " ", "a\nb", "\ud800", "a" * 201, b"a"])
def test_bad_values_of_once(value):
    with pytest.raises((TypeError, ValueError), match="the option 'once' is .*, but must be a str"):
        using(durable=True, once=value)


NOT_FOR = "is not for durable tasks, which"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"request": True}, f"the option 'request' is True, but it {NOT_FOR} may run after a rest"),
        (
            {"key": "k"},
            "the option 'key' is 'k', but none of 'limit', 'rate', 'unique', 'debounce' is set",
        ),
        (
            {"backend": "celery"},
            "the backend is 'celery', but durable tasks run on threads or in w",
        ),
    ],
    ids=lambda it: next(iter(it)) if isinstance(it, dict) else "",
)
def test_what_is_not_for_durable_tasks(options, text):
    for verb in (using, task, plain.using, send.using):
        with pytest.raises(ValueError, match=text):
            verb(durable=True, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"request": False},
        {"unique": True},
        {"unique": True, "key": "k"},
        {"unique": "raise"},
        {"limit": 3},
        {"rate": "10/s", "key": "k"},
        {"backend": "threads"},
        {"retry": Retry(2), "timeout": 5, "expires": 60, "countdown": 1, "priority": 2},
        {"eta": datetime(2100, 1, 1, tzinfo=UTC), "id": "an-id"},
        {"once": "order-1"},
    ],
    ids=lambda it: next(iter(it)),
)
def test_what_is(options):
    using(durable=True, **options)


@pytest.mark.parametrize("options", [{"request": True}, {"backend": "celery"}, {"every": 60}])
def test_what_is_not_durable_has_all_options(options):
    assert using(durable=False, **options)


@pytest.mark.parametrize("name", ["every", "cron"])
def test_jobs_have_no_key(name):
    value = {"every": 60, "cron": "* * * * *"}[name]
    with pytest.raises(ValueError, match=f"the option 'once' is 'k', but '{name}' makes a job"):
        using(once="k", **{name: value})


def test_an_id_and_a_key():
    with pytest.raises(ValueError, match="the option 'id' is 'i', but with 'once' the task may be"):
        using(durable=True, once="k", id="i")


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    """No app of another test is the only one, or one of several."""
    monkeypatch.setattr(state, "_states", weakref.WeakSet())


def test_once_needs_durable(app):
    text = "the option 'once' is 'k', but the task is not durable, .* say durable=True"
    for call in (
        lambda: using(once="k").delay(undecorated),
        lambda: using(once="k").delay(send.using(durable=False)),
        lambda: plain.using(once="k").delay(),
    ):
        with pytest.raises(ValueError, match=text):
            call()
        with app.app_context(), pytest.raises(ValueError, match=text):
            call()


def test_once_is_for_one_call():
    with pytest.raises(ValueError, match="the option 'once' is 'k', which is for one call of"):
        using(durable=True, once="k").map(send, ["a"])


def test_a_durable_task_needs_an_app():
    with pytest.raises(RuntimeError, match="the option 'durable' is True, which needs an app with"):
        send.delay()


def test_steps_after_a_plain_task_are_not_durable(app):
    text = "the option '(durable|once)' is .*, but the task before is not durable"
    with app.app_context():
        future = delay(plain)
        for step in (send, plain.using(durable="disk"), plain.using(once="k")):
            with pytest.raises(ValueError, match=text):
                future.then(step)
            with pytest.raises(ValueError, match=text):
                chain(plain, step).delay()
        assert gather(future.then(plain)).result(20) == ["text"]
        app.extensions["delay"].shutdown(True, cancel_futures=False)


def test_functions_that_cannot_be_found(app):
    with app.app_context():
        for function, why in ((undecorated, "it has no @task"), (lambda: 1, "it is a lambda")):
            with pytest.raises(TypeError, match=f"is not for durable tasks: {why}"):
                using(durable=True).delay(function)
            with pytest.raises(TypeError, match=f"is not for durable tasks: {why}"):
                list(using(durable=True).map(function, [1]))


class TestDefault:
    """The setting `DURABLE`."""

    @pytest.fixture
    def app(self, make_app):
        return make_app(DELAY_DURABLE=True, DELAY_BACKEND="threads")

    def test_functions_that_cannot_be_found(self, app):
        with app.app_context():
            for function, why in ((undecorated, "it has no @task"), (lambda: 1, "it is a lambda")):
                with pytest.raises(TypeError, match=f"is not for durable tasks: {why}"):
                    delay(function)
            assert using(durable=False).delay(lambda: 1).result(20) == 1
            app.extensions["delay"].shutdown(True, cancel_futures=False)

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            (
                {"request": True},
                "the option 'request' is True, .* [(]DELAY_DURABLE makes it durable[)]$",
            ),
            ({"backend": "celery"}, "the backend is 'celery', .* [(]DELAY_DURABLE makes it durabl"),
        ],
        ids=["request", "backend"],
    )
    def test_what_is_not_for_durable_tasks(self, app, options, text):
        with app.app_context(), pytest.raises(ValueError, match=text):
            using(**options).delay(plain)

    def test_the_backend_of_the_setting(self, make_app):
        app = make_app(
            DELAY_DURABLE=True,
            DELAY_BACKEND="celery",
            DELAY_CELERY_BROKER_URL="redis://localhost:1/0",
        )
        with app.app_context(), pytest.raises(ValueError, match="the backend is 'celery', but dur"):
            plain.delay()

    def test_jobs_are_not_durable(self, app):
        with app.app_context():
            job = using(every=60, key="tidy").delay(undecorated)
            assert job.cancel()
            app.extensions["delay"].shutdown(True, cancel_futures=False)

    def test_steps_are_not_durable(self, app):
        with app.app_context():
            future = using(durable=False).delay(plain)
            assert future.then(plain).result(20) == "text"
            app.extensions["delay"].shutdown(True, cancel_futures=False)


@pytest.mark.parametrize("mode", ["immediate", "manual"])
class TestModes:
    """Tests of an app: no file, but the arguments are what the journal would make of them."""

    @pytest.fixture
    def app(self, make_app, mode):
        return make_app(DELAY_MODE=mode, DELAY_JOURNAL=True)

    def test_it_runs_with_a_copy_of_its_arguments(self, app, mode, tmp_path):
        rows = [1, (2, b"3")]
        with app.app_context():
            future = send.delay(rows)
            rows.append("later")
            other = using(once="k").delay(send, "a")
            assert other.done() == (mode == "immediate")
            app.extensions["delay"].executor.run_pending() if mode == "manual" else None
            assert (future.result(0), other.result(0)) == ([1, (2, b"3")], "a")
        assert not (tmp_path / "instance").exists()

    def test_what_cannot_be_durable(self, app):
        with app.app_context():
            with pytest.raises(TypeError, match="it is a lambda"):
                using(durable=True).delay(lambda: 1)
            with pytest.raises(TypeError, match="'text'|object"):
                send.delay(object())
            with pytest.raises(TypeError, match="`session` is bound to the caller's context"):
                from flask import session

                send.delay(session)
            with pytest.raises(ValueError, match="MAX_BYTES"):
                send.delay("x" * 1_000_001)
