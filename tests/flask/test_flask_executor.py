"""`compat.flask_executor`: the interface of Flask-Executor, with our guarantees.

That an app for the one runs on the other is tested in tests/ecosystem.
"""

import asyncio
import concurrent.futures
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from click.testing import CliRunner
from flask import Flask, current_app, g, has_request_context, request
from flask.cli import ScriptInfo
from tests.core.helpers import occupied, together

from flask_delay import Delay, Future, commands, current_task, state
from flask_delay.compat.flask_executor import (
    Executor,
    ExecutorJob,
    FutureCollection,
    FutureProxy,
    propagate_exceptions_callback,
)
from flask_delay.testing import Delayed, call


@pytest.fixture
def make(deadline) -> Iterator[Callable[..., tuple[Flask, Executor]]]:
    """Make an app with an Executor, which is shut down when the test is over."""
    with ExitStack() as stack:

        def make(name: str = "", executor: Executor | None = None, **config: Any):
            app = Flask("app", static_folder=None)
            app.config.update(config)
            executor = executor or Executor(name=name)
            executor.init_app(app)
            stack.callback(close, app, executor, deadline)
            return app, executor

        yield make


def close(app: Flask, executor: Executor, deadline: float) -> None:
    with app.app_context():
        executor.shutdown(wait=False, cancel_futures=True)
        assert executor.extension.drain(deadline), "a task goes on after its test"
        executor.shutdown()


@pytest.fixture
def app(make) -> Flask:
    return make()[0]


@pytest.fixture
def executor(app) -> Executor:
    return app.extensions["executor"]


@contextmanager
def held(executor: Executor) -> Iterator[FutureProxy[None]]:
    """A stored task that runs until the block ends."""
    release, entered = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        assert release.wait(20)

    future = executor.submit_stored("held", hold)
    assert entered.wait(20)
    try:
        yield future
    finally:
        release.set()
        future.result(20)


class TestContexts:
    def test_outside_a_request(self, app, executor, deadline):
        def look():
            return current_app.name, has_request_context()

        assert executor.submit(look).result(deadline) == ("app", False)
        with app.app_context():
            assert executor.submit(look).result(deadline) == ("app", False)

    def test_the_request_outlives_its_response(self, app, executor, serve, fetch, deadline):
        answered = threading.Event()
        futures = []

        def look():
            assert answered.wait(deadline)
            return request.path, request.form["a"], request.headers["Host"], request.remote_addr

        @app.post("/form")
        def view():
            futures.append(executor.submit(look))
            return {}

        address = serve(app)
        fetch(f"{address}/form", b"a=1")
        answered.set()
        host = address.removeprefix("http://")
        assert futures[0].result(deadline) == ("/form", "1", host, "127.0.0.1")

    def test_the_view_keeps_what_it_has_in_g(self, app, executor, deadline):
        closed = []

        @app.teardown_appcontext
        def close_connection(_error):
            if "connection" in g:
                closed.append((g.pop("connection"), threading.get_ident()))

        def use():
            return g.connection, g.setdefault("more", "the task's")

        def replace():
            g.connection = "the task's"
            return threading.get_ident()

        with app.test_request_context("/"):
            g.connection = "the view's"
            assert executor.submit(use).result(deadline) == ("the view's", "the task's")
            # The task's teardown leaves alone what is the view's.
            assert closed == []
            worker = executor.submit(replace).result(deadline)
            assert closed == [("the task's", worker)]
            assert (g.connection, "more" in g) == ("the view's", False)
        assert closed[1:] == [("the view's", threading.get_ident())]

    def test_what_is_in_g_and_on_the_request_is_lent(self, app, executor, deadline):
        def look(_=None):
            return g.user, request.user, request.path

        async def look_later():
            return look()

        def look_after(go):
            assert go.wait(deadline)
            return look()

        with app.test_request_context("/lent"):
            g.user = request.user = user = object()
            expected = (user, user, "/lent")
            assert executor.submit(look).result(deadline) == expected
            assert executor.submit(look_later).result(deadline) == expected
            assert list(executor.map(look, [1, 2])) == [expected] * 2
            assert executor.job(look).submit().result(deadline) == expected
            later = executor.submit(look_after, go := threading.Event())
            g.user = request.user = None
        go.set()
        assert later.result(deadline) == expected

    def test_callback_has_the_request_it_was_added_in(self, app, executor, deadline):
        seen, heard = {}, threading.Semaphore(0)

        def report(name):
            def callback(_future):
                seen[name] = request.path if has_request_context() else current_app.name
                heard.release()

            return callback

        executor.add_default_done_callback(report("default"))
        with held(executor) as future:
            with app.test_request_context("/one"):
                future.add_done_callback(report("one"))
            with app.test_request_context("/two"):
                future.add_done_callback(report("two"))
            future.add_done_callback(report("none"))
        for _ in range(4):
            assert heard.acquire(timeout=deadline)
        with app.test_request_context("/late"):
            future.add_done_callback(report("late"))
        assert seen == {
            "default": "app",
            "one": "/one",
            "two": "/two",
            "none": "app",
            "late": "/late",
        }

    def test_a_task_of_a_task_has_the_same_request(self, make, deadline):
        app, executor = make(EXECUTOR_MAX_WORKERS=1)
        with app.test_request_context("/outer"):
            task = executor.submit(
                # With one worker: waiting for it is safe.
                lambda: executor.submit(lambda: request.path).result(deadline)
            )
        assert task.result(deadline) == "/outer"

    def test_map_in_a_request(self, app, executor):
        with app.test_request_context("/map"):
            results = executor.map(lambda a, b: (a, b, request.path), "ab", [1, 2], timeout=20)
        assert list(results) == [("a", 1, "/map"), ("b", 2, "/map")]
        assert list(executor.map(lambda _: has_request_context(), "a")) == [False]

    def test_coroutine_in_a_request(self, app, executor, deadline):
        async def look():
            await asyncio.sleep(0)
            return request.path

        with app.test_request_context("/async"):
            assert executor.submit(look).result(deadline) == "/async"
            assert list(executor.map(lambda _: request.path, [1])) == ["/async"]

    def test_what_dies_with_the_request_is_refused(self, app, executor):
        for argument in (request, current_app):
            with app.test_request_context("/"), pytest.raises(TypeError, match="pass"):
                executor.submit(print, argument)

    @pytest.mark.parametrize(("flag", "has_g"), [(True, True), (False, False), ("t", True)])
    def test_push_app_context(self, make, flag, has_g, deadline):
        app, executor = make(EXECUTOR_PUSH_APP_CONTEXT=flag)
        with app.test_request_context("/"):
            g.user = "ann"
            task = executor.submit(lambda: (current_app.name, "user" in g))
        assert task.result(deadline) == ("app", has_g)


class TestFuture:
    def test_is_the_task_s_own_in_all_but_type(self, executor, deadline):
        future = executor.submit(lambda: current_task.future)
        inner = future.result(deadline)
        assert isinstance(future, concurrent.futures.Future)
        assert type(inner) is Future
        assert future == inner == future
        assert inner == future
        assert future != executor.submit(int)
        assert hash(future) == hash(inner)
        assert len({future, inner}) == 1
        assert (future.id, future.name, future.state) == (inner.id, inner.name, "finished")
        assert repr(inner) in repr(future)
        with pytest.raises(AttributeError, match="no_such"):
            _ = future.no_such

    def test_callbacks_get_it_in_order_and_one_that_raises_is_logged(
        self, executor, deadline, caplog
    ):
        called, heard = [], threading.Event()

        def broken(_future):
            raise LookupError("broken callback")

        with held(executor) as future:
            future.add_done_callback(called.append)
            future.add_done_callback(broken)
            future.add_done_callback(called.append)
            future.add_done_callback(lambda _: heard.set())
        assert heard.wait(deadline)
        assert called == [future, future]
        assert called[0] is called[1] is future
        assert "broken callback" in caplog.text
        assert "broken at 0x" in caplog.text

    def test_callback_must_be_callable(self, executor):
        with pytest.raises(TypeError, match="callable, got 'x'"):
            executor.submit(int).add_done_callback("x")
        with pytest.raises(TypeError, match="callable, got 'x'"):
            executor.add_default_done_callback("x")

    def test_cancel(self, make, deadline):
        _, executor = make(EXECUTOR_MAX_WORKERS=1)
        with held(executor) as future:
            assert future.running()
            assert not future.cancel()
            queued = executor.submit(int)
            assert queued.cancel()
            assert queued.cancelled()
            assert queued.done()
            with pytest.raises(concurrent.futures.CancelledError):
                queued.result(deadline)

    def test_wait_and_as_completed(self, executor, deadline):
        with held(executor) as slow:
            futures = [executor.submit(pow, 2, n) for n in range(3)]
            assert futures[0].result(deadline) == 1
            done, unfinished = concurrent.futures.wait([slow, futures[0]], 0)
            assert (done, unfinished) == ({futures[0]}, {slow})
            ended = list(concurrent.futures.as_completed(futures, deadline))
        assert set(ended) == set(futures)
        assert all(type(future) is FutureProxy for future in ended)
        assert concurrent.futures.wait([slow], deadline).done == {slow}

    def test_await_and_run_in_executor(self, app, executor):
        async def main():
            loop = asyncio.get_running_loop()
            return (
                await executor.submit(pow, 2, 3),
                await asyncio.wrap_future(executor.submit(pow, 2, 4)),
                await loop.run_in_executor(executor, lambda: request.path),
            )

        with app.test_request_context("/async"):
            assert asyncio.run(main()) == (8, 16, "/async")

    def test_failure_is_logged_without_being_asked(self, executor, deadline, caplog):
        def fail():
            raise LookupError("made to fail")

        assert isinstance(executor.submit(fail).exception(deadline), LookupError)
        assert "LookupError: made to fail" in caplog.text

    def test_failure_is_not_logged_if_so_set(self, make, deadline, caplog):
        _, executor = make(EXECUTOR_LOG_FAILURES=False)
        assert executor.submit(lambda: 1 / 0).exception(deadline)
        assert not caplog.records

    def test_default_callbacks_of_all_tasks(self, executor, deadline):
        called, heard = [], threading.Semaphore(0)

        @executor.add_default_done_callback
        def note(future):
            called.append(future)
            heard.release()

        future = executor.submit(int)
        for _ in range(3):
            list(executor.map(abs, [1]))
        for _ in range(4):
            assert heard.acquire(timeout=deadline)
        assert future in called


class TestStored:
    def test_and_found_again(self, executor, deadline):
        future = executor.submit_stored("key", pow, 2, exp=3)
        assert future.result(deadline) == 8
        futures = executor.futures
        assert future in futures
        assert len(futures) == 1
        assert futures.done("key") is True
        assert futures._state("key") == "FINISHED"
        assert futures.result("key", timeout=deadline) == 8
        assert futures.exception("key") is None
        assert futures.id("key") == future.id
        assert futures.pop("key") is future
        assert futures.pop("key") is None
        assert future not in futures

    def test_unknown_key_and_attribute(self, executor):
        executor.submit_stored("key", int)
        assert executor.futures.done("other") is None
        assert executor.futures.no_such("other") is None
        with pytest.raises(AttributeError, match="no_such"):
            executor.futures.no_such("key")
        with pytest.raises(TypeError):
            executor.submit_stored([], int)

    def test_known_key_submits_nothing(self, executor, deadline):
        ran = []
        executor.submit_stored("key", int)
        with pytest.raises(ValueError, match=r"'key' already exists.*pop\('key'\)"):
            executor.submit_stored("key", ran.append, 1)
        with pytest.raises(ValueError, match="'key' already exists"):
            executor.futures.add("key", executor.submit(int))
        assert executor.extension.drain(deadline)
        assert not ran

    def test_failed_submit_leaves_the_key_free(self, executor, deadline):
        with pytest.raises(TypeError):
            executor.submit_stored("key", None)
        assert len(executor.futures) == 0
        assert executor.submit_stored("key", int).result(deadline) == 0

    def test_one_of_many_at_once_gets_the_key(self, executor, deadline):
        ran = []

        def submit():
            try:
                return executor.submit_stored("key", ran.append, 1)
            except ValueError as error:
                return error

        for _ in range(50):
            ran.clear()
            results = together(*[submit] * 4)
            (future,) = [result for result in results if type(result) is FutureProxy]
            future.result(deadline)
            assert ran == [1]
            assert executor.futures.pop("key") is future

    def test_the_oldest_that_are_done_are_dropped(self, make, deadline):
        _, executor = make(EXECUTOR_FUTURES_MAX_LENGTH="2", EXECUTOR_MAX_WORKERS=2)
        with held(executor) as future:
            for number in range(4):
                executor.submit_stored(number, int).result(deadline)
            # The one that runs is the oldest of all.
            assert executor.futures.pop("held") is future
            assert [executor.futures.done(n) for n in range(4)] == [None, None, None, True]
        with occupied(executor.extension.executor, 2):
            for number in range(10, 15):
                executor.submit_stored(number, int)
            # More than there should be, but none of them is done.
            assert len(executor.futures) == 5
        assert executor.extension.drain(deadline)
        executor.futures.add("last", executor.submit(int))
        assert len(executor.futures) == 2

    def test_limits(self, make):
        assert make()[1].futures.max_length == 50
        assert make(EXECUTOR_FUTURES_MAX_LENGTH=None)[1].futures.max_length == 50
        unlimited = FutureCollection(max_length=None)
        for number in range(100):
            future: concurrent.futures.Future[Any] = concurrent.futures.Future()
            future.set_result(number)
            unlimited.add(number, future)
        assert len(unlimited) == 100


class TestJob:
    def test_is_made_before_init_app_and_stays_a_function(self, make, deadline):
        executor = Executor()

        @executor.job
        def double(number: int) -> int:
            """Twice as much."""
            return number if number < 1 else 2 + double(number - 1)

        with pytest.raises(RuntimeError, match="init_app"):
            double.submit(1)
        make(executor=executor)
        assert type(double) is ExecutorJob
        assert (double.__name__, double.__doc__) == ("double", "Twice as much.")
        assert double(4) == 8
        assert double.submit(number=3).result(deadline) == 6
        assert double.submit_stored("key", 5).result(deadline) == 10
        assert executor.futures.pop("key").name.endswith("double")
        assert list(double.map([1, 2], timeout=deadline)) == [2, 4]

    def test_must_be_callable(self):
        with pytest.raises(TypeError, match="callable, got 1"):
            Executor().job(1)


class TestConfig:
    def test_processes(self, make, deadline):
        _, executor = make(EXECUTOR_TYPE="process", EXECUTOR_MAX_WORKERS=1)
        called = threading.Event()
        executor.add_default_done_callback(lambda _: called.set())
        try:
            assert isinstance(executor, concurrent.futures.ProcessPoolExecutor)
            future = executor.submit_stored("it", os.getpid)
            assert future.result(deadline) != os.getpid()
            assert called.wait(deadline)
            assert list(executor.map(abs, [-1, 2], timeout=deadline)) == [1, 2]
            with pytest.raises(TypeError, match="EXECUTOR_TYPE is 'process'"):
                executor.job(abs)
        finally:
            executor.shutdown()
        with pytest.raises(RuntimeError):
            executor.submit(abs, 1)

    def test_private_names_that_code_for_it_uses(self, make):
        _, executor = make(EXECUTOR_MAX_WORKERS=3)
        assert isinstance(executor, concurrent.futures.ThreadPoolExecutor)
        assert isinstance(executor, Executor)
        assert isinstance(executor._self, concurrent.futures.ThreadPoolExecutor)
        assert (executor._max_workers, executor._self._max_workers) == (3, 3)
        assert not executor._shutdown
        assert make("other")[1]._max_workers == min(32, (os.cpu_count() or 1) + 4)
        executor.shutdown()
        assert executor._shutdown

    def test_propagate_exceptions_callback(self, executor, deadline):
        future = executor.submit(int, "x")
        concurrent.futures.wait([future], deadline)
        with pytest.raises(ValueError, match="invalid literal"):
            propagate_exceptions_callback(future)
        done = executor.submit(int)
        concurrent.futures.wait([done], deadline)
        propagate_exceptions_callback(done)

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("EXECUTOR_TYPE", "fiber"),
            ("EXECUTOR_MAX_WORKERS", 0),
            ("EXECUTOR_MAX_WORKERS", "many"),
            ("EXECUTOR_FUTURES_MAX_LENGTH", -1),
            ("EXECUTOR_FUTURES_MAX_LENGTH", "x"),
            ("EXECUTOR_FUTURES_MAX_LENGTH", True),
            ("EXECUTOR_PROPAGATE_EXCEPTIONS", "maybe"),
            ("EXECUTOR_PUSH_APP_CONTEXT", 2),
        ],
    )
    @pytest.mark.parametrize("name", ["", "mail"])
    def test_bad_value(self, name, key, value):
        app = Flask("app")
        key = f"{name.upper()}_{key}" if name else key
        app.config[key] = value
        with pytest.raises(ValueError, match=f"^{key} is {value!r}, but must be"):
            Executor(app, name=name)

    def test_two_answers_to_one_question(self):
        app = Flask("app")
        app.config.update(EXECUTOR_PROPAGATE_EXCEPTIONS=True, EXECUTOR_LOG_FAILURES=False)
        with pytest.raises(ValueError, match="PROPAGATE_EXCEPTIONS.*LOG_FAILURES"):
            Executor(app)

    def test_named_ones_have_their_own(self, make, deadline):
        _, executor = make(
            name="mail", MAIL_EXECUTOR_MAX_WORKERS=1, EXECUTOR_MAX_WORKERS=0, EXECUTOR_TYPE="?"
        )
        with held(executor):
            queued = executor.submit(threading.current_thread)
            assert executor.extension.stats()["queued"] == 1
        assert queued.result(deadline).name.startswith("flask_executor_mail_")

    def test_what_a_delay_has_besides(self, make):
        app, _ = make(EXECUTOR_SHUTDOWN_TIMEOUT="3")
        state = app.extensions["flask_executor"]
        assert state.config.shutdown_timeout == 3

    def test_misspelt_key(self):
        app = Flask("app")
        app.config["EXECUTOR_MAX_LENGTH"] = 1
        with pytest.warns(UserWarning, match="did you mean EXECUTOR_FUTURES_MAX_") as caught:
            Executor(app)
        assert caught[0].filename == __file__


class TestApps:
    def test_twice_on_one_app(self, app, executor):
        for init in (executor.init_app, Executor):
            with pytest.raises(RuntimeError, match="'app' has an extension named 'executor'"):
                init(app)

    def test_name_of_another_extension(self):
        app = Flask("app")
        app.extensions["executor"] = object()
        with pytest.raises(RuntimeError, match="another name"):
            Executor(app)
        assert list(app.extensions) == ["executor"]

    @pytest.mark.parametrize("name", ["a-b", "a b", "größe", None, "a\t"])
    def test_bad_name(self, name):
        with pytest.raises(
            ValueError, match=f"letters, digits and underscores, not {re.escape(repr(name))}"
        ):
            Executor(name=name)

    @pytest.mark.parametrize("name", ["2nd", "_", "Mail"])
    def test_good_name(self, name, make, deadline):
        app, executor = make(name=name, **{f"{name.upper()}_EXECUTOR_MAX_WORKERS": 1})
        assert app.extensions[f"{name}executor"] is executor
        assert executor.submit(int).result(deadline) == 0
        assert repr(executor) == f"<Executor {name!r}>"

    def test_on_two_apps_each_has_its_pool(self, make, deadline):
        one, executor = make()
        two, _ = make(executor=executor)
        for app in (one, two):
            with app.app_context():
                future = executor.submit(current_app._get_current_object)
                assert future.result(deadline) is app
        with pytest.raises(RuntimeError, match="several apps"):
            executor.submit(int)

    def test_not_on_the_current_app(self, executor):
        with (
            Flask("other").app_context(),
            pytest.raises(RuntimeError, match=r"the Executor is not .*'other'; call its init_app"),
        ):
            executor.submit(int)

    def test_beside_a_delay(self, make, deadline):
        app, executor = make()
        extension = Delay(app)
        with app.app_context():
            assert extension.delay(int).result(deadline) == 0
            assert executor.submit(int).result(deadline) == 0
        extension.shutdown()

    def test_what_is_below(self, executor, deadline):
        future = executor.submit(int)
        assert executor.extension.get(future.id) == future
        assert executor.extension.stats()["threads"] == 1
        assert executor.extension.drain(deadline)

    def test_shutdown(self, make):
        _, executor = make()
        with executor:
            future = executor.submit(int)
        assert future.done()
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.submit(int)
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.submit_stored("key", int)
        assert executor.futures.pop("key") is None


class TestTools:
    """What looks at every `Delay` finds the one below an Executor, under its own keys."""

    @pytest.fixture
    def run(self, make):
        app, _ = make(name="mail", MAIL_EXECUTOR_MAX_WORKERS="3", MAIL_EXECUTOR_TYPE="thread")

        def run(*arguments):
            info = ScriptInfo(create_app=lambda: app)
            command = [*arguments, "--name", "flask_executor_mail"]
            return CliRunner().invoke(commands.delay, command, obj=info)

        return run

    def test_config(self, run):
        result = run("config")
        assert result.exit_code == 0
        lines = [tuple(line.split()) for line in result.output.splitlines()]
        assert ("MAIL_EXECUTOR_MAX_WORKERS", "3", "app.config") in lines
        assert ("MAIL_EXECUTOR_TYPE", "'thread'", "app.config") in lines
        assert ("MAIL_EXECUTOR_FUTURES_MAX_LENGTH", "None", "default") in lines

    def test_check(self, run):
        result = run("check")
        assert result.exit_code == 0, result.output

    def test_bench(self, run):
        result = run("bench", "--seconds", "0.1")
        assert result.exit_code == 0, result.output

    def test_key_of_the_time_at_exit(self, app, executor):
        assert executor.extension.prefix == "EXECUTOR_"
        assert state.limits()["EXECUTOR_SHUTDOWN_TIMEOUT"] == 25

    def test_of_tests(self, make):
        app, executor = make(EXECUTOR_MODE="manual")
        with Delayed() as delayed, app.test_request_context("/"):
            future = executor.submit(pow, 2, 3)
            assert delayed == [call(pow, 2, 3)]
            assert delayed.last.options == {"request": True}
            assert delayed.last.future == future
            assert delayed.run() == 1
        assert future.result(0) == 8


class TestSettingsThatAreNotTheSame:
    @pytest.mark.parametrize("backend", ["processes", "celery"])
    def test_a_backend_without_a_request_is_refused_at_once(self, make, backend):
        """In every view it was an error of the submit."""
        message = f"EXECUTOR_BACKEND is '{backend}', but must be 'threads', since .* a Delay"
        with pytest.raises(ValueError, match=message):
            make(EXECUTOR_BACKEND=backend)
        app, executor = make(EXECUTOR_BACKEND="threads")
        with app.test_request_context("/"):
            assert executor.submit(lambda: request.path).result(20) == "/"

    def test_default_done_callback(self, make):
        """Flask-Executor's own test of that name, which short switch intervals made fail."""
        app, executor = make()
        assert app.extensions["flask_executor"].config.switch_interval is None
        executor.add_default_done_callback(lambda future: setattr(future, "test", "test"))
        with app.test_request_context("/"):
            future = executor.submit(int)
            concurrent.futures.wait([future])
            executor.extension.drain(20)
            assert hasattr(future, "test")
        app, _ = make(EXECUTOR_SWITCH_INTERVAL=0.0001)
        assert app.extensions["flask_executor"].config.switch_interval == 0.0001
