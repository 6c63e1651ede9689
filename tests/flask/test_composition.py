"""Tasks of an app that follow others: contexts, callbacks, signals, `@task`, `chain`."""

import contextlib
import threading

import pytest
from flask import current_app, g, has_request_context, request

from flask_delay import (
    Delay,
    Executor,
    Retry,
    chain,
    current_task,
    delay,
    gather,
    group,
    task,
    task_cancelled,
    task_failed,
    task_started,
    task_submitted,
    task_succeeded,
    testing,
    using,
)
from flask_delay.tasks import Task


def where(_=None):
    """What a task or a callback finds around it."""
    found = current_app.name, g.get("mark"), has_request_context()
    g.mark = "used"
    return found


def double(value):
    return value * 2


async def double_async(value):
    assert current_app.name
    return value * 2


@task
def plain(value, times=2):
    return value * times


@task(retry=Retry(5, backoff=0.001))
def stubborn(value):
    if current_task.attempt < 3:
        raise ValueError
    return value, current_task.attempt


@task(key=lambda value: value, limit=1)
def by_value(value):
    return value


@pytest.fixture
def other(make_app):
    return make_app("other")


class TestContexts:
    @pytest.mark.parametrize("follow", ["in the app", "elsewhere"])
    def test_a_step_has_a_fresh_one_of_its_futures_app(self, app, other, follow, deadline):
        with app.test_request_context():
            g.mark = "view"
            first = delay(where)
            if follow == "in the app":
                step = first.then(where)
        if follow != "in the app":
            with other.test_request_context():
                step = first.then(where)
        assert step.result(deadline) == ("app", None, False)

    @pytest.mark.parametrize("fn", [double, double_async])
    def test_teardown_functions_run_after_each_step(self, app, fn, deadline):
        torn = []
        app.teardown_appcontext(lambda _: torn.append(current_app.name))
        with app.app_context():
            steps = delay(double, 1).then(fn).then(fn)
        torn.clear()
        assert steps.result(deadline) == 8
        assert torn[-2:] == ["app", "app"]

    @pytest.mark.parametrize("outcome", ["returned", "failed", "cancelled", "gathered"])
    def test_callbacks_have_one_and_no_request(self, app, outcome, deadline):
        found, threads, called = [], [], threading.Event()

        def callback(_):
            found.append(where())
            threads.append(threading.current_thread().name)
            called.set()

        go = threading.Event()
        with app.test_request_context():
            g.mark = "view"
            running = delay(go.wait, deadline)
            bad = running.then(lambda _: 1 / 0)
            step = {
                "returned": lambda: running.then(double),
                "failed": lambda: bad.then(double),
                "cancelled": lambda: bad.then(double),
                "gathered": lambda: gather(running, running.then(double)),
            }[outcome]()
            step.add_done_callback(callback)
            if outcome == "cancelled":
                step.cancel()
            go.set()
        assert called.wait(deadline)
        assert found == [("app", None, False)]
        assert threads[0].startswith("MainThread" if outcome == "cancelled" else "delay_")

    def test_default_callbacks_and_status(self, make_app, deadline):
        extension = Delay()
        app = make_app(extension=extension)
        app.register_blueprint(extension.status_blueprint(), url_prefix="/tasks")
        names, go = [], threading.Event()
        extension.add_default_done_callback(lambda future: names.append(future.name))
        with app.app_context():
            step = delay(go.wait, deadline).then(double)
        client = app.test_client()
        assert client.get(f"/tasks/{step.id}").get_json()["state"] == "pending"
        assert extension.stats()["held"] == 1
        go.set()
        assert extension.drain(deadline)
        assert client.get(f"/tasks/{step.id}").get_json()["state"] == "finished"
        assert sorted(names) == ["Event.wait", "double"]

    def test_futures_of_an_executor_and_of_two_apps(self, app, other, deadline):
        with Executor(1) as executor:
            first = executor.submit(int, "1")
            with app.app_context():
                second = delay(where)
            with other.app_context():
                third = delay(where)
            both = gather(third, second, first)
            assert both.then(lambda _: current_app.name).result(deadline) == "other"
            assert both.result() == [("other", None, False), ("app", None, False), 1]

    def test_of_none_in_an_app(self, app, other, deadline):
        with other.app_context():
            future = gather()
            assert future.result(deadline) == []
            assert future.then(where).result(deadline) == ("other", None, False)

    def test_of_none_in_an_app_without_a_delay(self):
        from flask import Flask

        with Flask("bare").app_context(), pytest.raises(RuntimeError, match=r"Delay\(app\)"):
            gather()


class TestTasks:
    def test_options_are_the_tasks(self, app, deadline):
        with app.app_context():
            step = delay(double, 2).then(stubborn)
            assert step.result(deadline) == (4, 3)
            assert step.attempts == 3
            assert step.name == "stubborn"
            quick = delay(double, 2).then(stubborn.using(retry=0))
            assert isinstance(quick.exception(deadline), ValueError)

    def test_without_options(self, app, deadline):
        with app.app_context():
            assert delay(double, 2).then(plain).then(plain).result(deadline) == 16

    def test_of_another_delay_runs_where_its_future_does(self, app, other, deadline):
        @other.extensions["delay"].owner.task(priority=3)
        def step(_):
            return current_app.name

        with app.app_context():
            assert delay(double, 2).then(step).result(deadline) == "app"

    def test_methods(self, app, deadline):
        class Adder:
            def __init__(self, number):
                self.number = number

            @task(priority=1)
            def add(self, value):
                return value + self.number

        with app.app_context():
            assert delay(double, 2).then(Adder(5).add).result(deadline) == 9

    def test_a_request(self, app, deadline):
        @task(request=True)
        def step(value):
            return value, request.path

        with app.test_request_context("/path"):
            future = delay(double, 2).then(step)
        assert future.result(deadline) == (4, "/path")
        with app.app_context(), pytest.raises(RuntimeError, match="current request"):
            delay(double, 2).then(step)

    def test_what_goes_by_the_argument_is_refused(self, app):
        with app.app_context():
            future = delay(double, 2)
            with pytest.raises(ValueError, match='"by_value".*\'key\'|"by_value".*"key"'):
                future.then(by_value)
            with pytest.raises(ValueError, match="by_value"):
                chain(double, by_value)

    def test_something_that_answers_to_everything(self, app, deadline):
        from unittest.mock import MagicMock

        step = MagicMock(return_value=7)
        with app.app_context():
            assert delay(double, 2).then(step).result(deadline) == 7
        step.assert_called_once_with(4)


class TestChain:
    def test_it_runs_in_the_current_app(self, app, other, deadline):
        steps = chain(lambda: [where()], lambda found: [*found, where()], tuple)
        for it in (app, other):
            with it.test_request_context():
                future = steps.delay()
            assert future.result(deadline) == ((it.name, None, False),) * 2

    def test_each_has_its_own_options(self, app, deadline):
        steps = chain(by_value, double, stubborn, plain)
        with app.app_context():
            assert steps.delay(1).result(deadline) == (2, 3, 2, 3)
            # The first one's go by the arguments of the chain.
            assert chain(plain, double).delay(1, times=5).result(deadline) == 10

    def test_the_first_may_be_of_one_delay(self, app, deadline):
        first = app.extensions["delay"].owner.task(where)
        assert isinstance(first, Task)
        assert chain(first, list).delay().result(deadline) == ["app", None, False]

    def test_what_is_refused_half_way_leaves_nothing(self, app, deadline):
        @task(request=True)
        def step(value):
            return value

        ran, go = [], threading.Event()
        owner = app.extensions["delay"].owner
        with app.app_context():
            held = using(key="key", limit=1).delay(go.wait, deadline)
            first = task(key="key", limit=1)(ran.append)
            with pytest.raises(RuntimeError, match="current request"):
                chain(first, double, step).delay(1)
            go.set()
            assert held.result(deadline)
            assert owner.drain(deadline)
        assert ran == []


class TestSignals:
    SIGNALS = (task_submitted, task_started, task_succeeded, task_failed, task_cancelled)

    @contextlib.contextmanager
    def listen(self, app):
        heard = []
        with contextlib.ExitStack() as stack:
            for signal in self.SIGNALS:

                def note(_, future, name=signal.name):
                    assert current_app.name == app.name
                    heard.append((name.removeprefix("task-"), future.name))

                stack.enter_context(signal.connected_to(note, app))
            yield heard

    @pytest.mark.parametrize(
        ("first", "ends"),
        [
            (double, {"double": "succeeded", "list": "succeeded", "gather": "succeeded"}),
            (None, {"double": "failed", "list": "failed", "gather": "failed"}),
        ],
    )
    def test_each_is_told_of(self, make_app, first, ends, deadline):
        extension = Delay()
        app = make_app(extension=extension)
        go = threading.Event()
        with self.listen(app) as heard, app.app_context():
            start = delay(go.wait, deadline).then(lambda _: [1] if first else 1 / 0)
            gather(start.then(double).then(list))
            submitted = [name for what, name in heard if what == "submitted"]
            assert submitted[2:] == ["double", "list", "gather"]
            go.set()
            assert extension.drain(deadline)
        assert {name: what for what, name in heard if name in ends} == ends
        ran = [name for what, name in heard if what == "started" and name in ends]
        assert ran == (["double", "list"] if first else [])

    def test_for_tests(self, app, deadline):
        with testing.Delayed() as delayed, app.app_context():
            first = delay(double, 1)
            step = first.then(plain.using(priority=1))
            both = gather(step, first)
            assert both.result(deadline) == [4, 2]
        assert delayed == [
            testing.call(double, 1),
            testing.call(plain, first),
            testing.call(gather, step, first),
        ]
        assert [it.options for it in delayed] == [{}, {"priority": 1}, {}]


class TestModes:
    def test_immediate(self, make_app, deadline):
        app = make_app(DELAY_MODE="immediate")
        with app.test_request_context():
            steps = delay(where).then(where).then(list)
            assert steps.done()
            assert steps.result() == ["app", None, False]
            assert delay(double_async, 1).then(double_async).result() == 4
            assert gather(delay(double, 1), delay(double, 2)).result() == [2, 4]
            assert isinstance(delay(double, None).then(double).exception(), TypeError)
            assert chain(double, stubborn).delay(1).result() == (2, 3)

    @pytest.mark.parametrize("step", [double, double_async])
    def test_immediate_behind_what_runs(self, make_app, step, deadline):
        app = make_app(DELAY_MODE="immediate")

        def task():
            steps.append(current_task.future.then(step))
            steps.append(gather(steps[0], steps[0].then(step)))
            assert not any(it.done() for it in steps)
            return 1

        steps = []
        with app.app_context():
            delay(task)
        assert steps[1].result(deadline) == [2, 4]

    def test_manual(self, make_app, deadline):
        app = make_app(DELAY_MODE="manual")
        owner = app.extensions["delay"].owner
        with app.app_context():
            first = delay(double, 1)
            both = gather(first, first.then(double_async).then(double))
            failed = delay(double, None).then(double)
            assert owner.stats()["held"] == 4
            with pytest.raises(RuntimeError, match="run_pending"):
                both.result()
            assert owner.run_pending(1) == 1
            assert owner.stats()["held"] == 3
            assert owner.run_pending() == 3
            assert both.result(0) == [2, 8]
            assert isinstance(failed.exception(0), TypeError)
            assert not owner.run_pending()

    def test_manual_ends_what_nobody_can_run(self, make_app):
        app = make_app(DELAY_MODE="manual")
        owner = app.extensions["delay"].owner
        with app.app_context():
            steps = delay(double, 1).then(double).then(double)
            owner.shutdown(wait=False, cancel_futures=True)
        assert steps.cancelled()


class TestGroups:
    def test_their_tasks_are_tasks_of_the_app(self, app, deadline):
        attempts = []

        @task(retry=Retry(2, backoff=0.001))
        def unsteady():
            attempts.append(current_app.name)
            if len(attempts) < 2:
                raise ConnectionError
            return where()

        with app.test_request_context(), group(timeout=deadline) as made:
            g.mark = "view"
            futures = [made.delay(where), made.delay(unsteady), made.delay(double_async, 2)]
        assert [future.result() for future in futures] == [("app", None, False)] * 2 + [4]
        assert app.extensions["delay"].executor._has(futures[0])

    @pytest.mark.parametrize("mode", ["threads", "immediate", "manual"])
    def test_in_a_task_and_in_a_view(self, make_app, mode, deadline):
        app = make_app(DELAY_MODE=mode)

        def outer():
            with group() as made:
                futures = [made.delay(double, number) for number in range(3)]
            return [future.result() for future in futures]

        with app.app_context():
            future = delay(outer)
            assert outer() == [0, 2, 4]
            if mode == "manual":
                app.extensions["delay"].executor.run_pending()
            assert future.result(deadline) == [0, 2, 4]
