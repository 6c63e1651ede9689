"""`flask_delay.testing`, by its fixtures, which this session has from the installed plugin."""

import asyncio
import gc
import threading

import pytest

from flask_delay import Delay, DuplicateTask, Retry, delay, options, task, using
from flask_delay.testing import Call, Delayed, LeakCheck, call


def greet(name, greeting="hello"):
    return f"{greeting} {name}"


def fail():
    raise ValueError("made to fail")


@pytest.fixture
def manual(make_app):
    app = make_app("app", DELAY_MODE="manual")
    with app.app_context():
        yield app


class TestDelayed:
    def test_what_was_submitted_in_order(self, manual, delayed):
        assert delayed == []
        first = delay(greet, "ann")
        second = delay(greet, "bob", greeting="hi")
        assert delayed == [call(greet, "ann"), call(greet, "bob", greeting="hi")]
        assert delayed != [call(greet, "ann")]
        assert delayed != [call(greet, "bob", greeting="hi"), call(greet, "ann")]
        assert len(delayed) == 2
        assert call(greet, "ann") in delayed
        assert call(greet, "eve") not in delayed
        assert delayed[0].future is first
        assert delayed[:1] == [call(greet, "ann")]
        last = delayed.last
        assert (last.function, last.args, last.kwargs) == (greet, ("bob",), {"greeting": "hi"})
        assert (last.options, last.future) == ({}, second)
        assert delayed.calls == list(delayed)
        delayed.clear()
        assert not delayed
        assert first.state == "pending"

    def test_nothing_was(self, delayed):
        with pytest.raises(AssertionError, match="no task was submitted"):
            _ = delayed.last
        assert delayed.run() == 0
        assert not delayed

    @pytest.mark.parametrize("mode", ["threads", "immediate", "manual"])
    def test_in_every_mode_by_every_way(self, make_app, delayed, mode, deadline):
        app = make_app(DELAY_MODE=mode)
        extension = app.extensions["delay"].owner
        with app.app_context():
            delay(greet, "ann")
            extension.delay(greet, "bob")
            extension.map(greet, ["eve"], timeout=deadline)
            extension.executor.submit(greet, "joe")
        assert [it.args for it in delayed] == [("ann",), ("bob",), ("eve",), ("joe",)]
        assert {it.function for it in delayed} == {greet}
        assert extension.drain(deadline)
        assert [it.future.result() for it in delayed][-1] == "hello joe"

    def test_a_coroutine(self, manual, delayed):
        async def work(number):
            await asyncio.sleep(0)
            return number

        delay(work, 7)
        assert delayed == [call(work, 7)]
        assert delayed.run() == 1
        assert delayed.last.future.result() == 7

    def test_a_decorated_function(self, manual, delayed):
        class Mailer:
            @task
            def send(self, to):
                return to

        mailer = Mailer()
        task(greet).delay("ann")
        mailer.send.delay("bob")
        delay(mailer.send, "eve")
        assert delayed == [
            call(task(greet), "ann"),
            call(mailer.send, "bob"),
            call(mailer.send, "eve"),
        ]
        assert delayed.run() == 3

    def test_options(self, make_app, delayed):
        app = make_app(DELAY_MODE="manual")
        with app.test_request_context("/somewhere"):
            using(request=True).delay(greet, "ann")
            delay(greet, "bob")
        assert [it.options for it in delayed] == [{"request": True}, {}]
        assert delayed == [call(greet, "ann"), call(greet, "bob")]

    @pytest.mark.parametrize("mode", ["threads", "immediate", "manual"])
    def test_all_options_by_every_way(self, make_app, delayed, mode):
        app = make_app(DELAY_MODE=mode)
        extension = app.extensions["delay"].owner
        retry = Retry(2)

        @task(priority=3, timeout=5)
        def work(number):
            return number

        with app.test_request_context("/somewhere"):
            using(timeout=5, request=True).delay(greet, "ann")
            extension.using(key="mail", limit=2, rate="10/s").delay(greet, "bob")
            work.delay(1)
            work.using(retry=retry, timeout=7).delay(2)
            work.map([3, 4])
            using(request=False).delay(greet, "eve")
        decorated = {"priority": 3, "timeout": 5}
        assert [it.options for it in delayed] == [
            {"timeout": 5, "request": True},
            {"key": "mail", "limit": 2, "rate": "10/s"},
            decorated,
            decorated | {"retry": retry, "timeout": 7},
            decorated,
            decorated,
            {"request": False},
        ]

    def test_options_of_tasks_that_submit_tasks(self, make_app, delayed):
        app = make_app(DELAY_MODE="immediate")

        def inner():
            delay(greet, "ann")
            using(priority=1).delay(greet, "bob")

        with app.app_context():
            using(timeout=5).delay(inner)
        assert [it.options for it in delayed] == [{"timeout": 5}, {}, {"priority": 1}]

    def test_a_unique_task_is_one_task(self, manual, delayed):
        first = using(unique=True, key="k").delay(greet, "ann")
        assert using(unique=True, key="k", priority=1).delay(greet, "bob") is first
        with pytest.raises(DuplicateTask):
            using(unique="raise", key="k").delay(greet, "eve")
        assert delayed == [call(greet, "ann")]
        assert delayed.last.options == {"unique": True, "key": "k"}

    def test_options_are_watched_while_it_is_entered(self, manual):
        with Delayed() as outer:
            with Delayed() as inner:
                using(priority=1).delay(greet, "ann")
            using(priority=2).delay(greet, "bob")
        assert [it.options for it in outer] == [{"priority": 1}, {"priority": 2}]
        assert [it.options for it in inner] == [{"priority": 1}]
        assert options.watchers == []

    def test_tasks_of_several_apps_and_delays(self, make_app, delayed):
        extension = Delay()
        apps = [make_app(name, extension, DELAY_MODE="manual") for name in ("one", "two")]
        apps[1].config["REPORTS_MODE"] = "manual"
        reports = Delay(apps[1], name="reports")
        for app in apps:
            with app.app_context():
                delay(greet, app.name)
        reports.delay(greet, "three")
        assert [it.args for it in delayed] == [("one",), ("two",), ("three",)]
        assert delayed.run() == 3

    def test_run_some_and_the_rest(self, manual, delayed):
        ran = []

        def work(number):
            ran.append(number)
            if number < 3:
                delay(work, number + 10)

        for number in range(4):
            delay(work, number)
        assert delayed.run(0) == 0
        assert delayed.run(2) == 2
        assert ran == [0, 1]
        assert delayed.run() == 5
        assert ran == [0, 1, 2, 3, 10, 11, 12]
        assert delayed.run() == 0
        assert len(delayed) == 7

    def test_run_what_runs_submit_to_another_delay(self, manual, delayed):
        manual.config["REPORTS_MODE"] = "manual"
        reports = Delay(manual, name="reports")
        # First to the one, then to the other, and back.
        reports.delay(lambda: delay(lambda: reports.delay(greet, "ann")))
        assert delayed.run() == 3
        assert delayed.last == call(greet, "ann")

    def test_run_is_for_manual_alone(self, make_app, delayed):
        with make_app("shop").app_context():
            delay(greet, "ann").result(20)
        with pytest.raises(RuntimeError, match=r"'shop'.*executor\.drain\(timeout\)"):
            delayed.run()

    def test_a_failing_task_is_the_futures_own_matter(self, manual, delayed):
        delay(fail)
        assert delayed.run() == 1
        assert isinstance(delayed.last.future.exception(), ValueError)

    def test_what_was_not_run_is_cancelled(self, manual):
        before = delay(greet, "before")
        with Delayed() as delayed:
            future = delay(greet, "ann")
        assert future.cancelled()
        assert before.state == "pending"
        delay(greet, "bob")
        assert delayed == [call(greet, "ann")]

    def test_what_runs_without_it_is_not(self, app, deadline):
        go = threading.Event()
        with app.app_context(), Delayed() as delayed:
            running = delay(go.wait, deadline)
        go.set()
        assert running.result(deadline) is True
        assert len(delayed) == 1


class TestCall:
    def test_equal_without_future_and_options(self):
        assert Call(greet, (1,), {"a": 2}, {"request": True}) == call(greet, 1, a=2)
        assert call(greet, 1) != call(greet, 2)
        assert call(greet, a=1) != call(greet, 1)
        assert call(greet) != call(fail)
        assert call(greet) != "greet"

    def test_a_function_that_knows_how_to_be_delayed(self):
        assert call(task(greet), "ann") == call(greet, "ann")
        assert call(task(greet), "ann") != call(task(fail), "ann")

    def test_shown(self):
        assert repr(call(greet, "ann", greeting="hi")) == "call(greet, 'ann', greeting='hi')"
        assert repr([call(fail)]) == "[call(fail)]"


class TestLeakCheck:
    def test_nothing_left(self, app, deadline):
        with LeakCheck() as check, app.app_context():
            delay(greet, "ann").result(deadline)
            assert check.left() == ""

    def test_running_and_waiting_are_named_and_the_waiting_cancelled(self, make_app, deadline):
        app = make_app(DELAY_MAX_WORKERS=1)
        go, started = threading.Event(), threading.Event()

        def work():
            started.set()
            return go.wait(deadline)

        with LeakCheck() as check, app.app_context():
            running = delay(work)
            assert started.wait(deadline)
            waiting = delay(greet, "ann")
            text = check.left(0.01)
        assert text.startswith("2 tasks are not done 0.01 s after the test: ")
        assert "work (running)" in text
        assert "greet (pending)" in text
        assert waiting.cancelled()
        go.set()
        assert running.result(deadline) is True

    def test_what_ends_in_time_is_no_leak(self, app, deadline):
        go = threading.Event()

        def work():
            delay(go.wait, deadline)

        with LeakCheck() as check, app.app_context():
            delay(work)
            waker = threading.Timer(0.05, go.set)
            waker.start()
            # The task that the task submitted too.
            assert check.left(deadline) == ""
        waker.join()

    def test_keeps_no_future(self, app, deadline):
        with LeakCheck() as check, app.app_context():
            for _ in range(100):
                delay(greet, "ann").result(deadline)
            app.extensions["delay"].owner.drain(deadline)
            gc.collect()
            assert len(check._futures) <= 1

    def test_of_what_came_before_or_after_it_knows_nothing(self, manual):
        before = delay(greet, "ann")
        with LeakCheck() as check:
            assert check.left() == ""
        after = delay(greet, "bob")
        assert check.left() == ""
        assert (before.state, after.state) == ("pending", "pending")


def test_run_pending_of_a_delay(manual):
    extension = manual.extensions["delay"].owner
    futures = [delay(greet, name) for name in ("ann", "bob", "eve")]
    assert extension.run_pending(1) == 1
    assert [future.done() for future in futures] == [True, False, False]
    assert extension.run_pending() == 2
    assert futures[2].result() == "hello eve"


@pytest.mark.parametrize("mode", ["threads", "immediate"])
def test_run_pending_of_a_delay_in_another_mode(make_app, mode):
    extension = Delay()
    make_app(extension=extension, DELAY_MODE=mode)
    with pytest.raises(RuntimeError, match="manual"):
        extension.run_pending()
