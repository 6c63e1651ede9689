"""`Delay` and `delay`: which app they act on, and what they do there."""

import asyncio
import concurrent.futures
import threading
import uuid
from textwrap import dedent

import pytest
from flask import Flask, current_app

import flask_delay
from flask_delay import Delay, Executor, Future, delay, state


def test_everything_public_is_there():
    assert sorted(flask_delay.__all__) == flask_delay.__all__
    for name in flask_delay.__all__:
        assert getattr(flask_delay, name) is not None


def test_import_and_init_start_no_thread(run_script):
    done = run_script(
        dedent("""
        import os, threading
        from flask import Flask
        from flask_delay import Delay

        threads = lambda: len(os.listdir("/proc/self/task")) if os.path.isdir("/proc") else 1
        Delay(Flask("app"))
        assert threading.active_count() == 1
        assert threads() == 1
    """)
    )
    assert (done.rc, done.err) == (0, "")


class TestInit:
    def test_with_an_app(self, deadline):
        app = Flask("app")
        extension = Delay(app)
        assert app.extensions["delay"].owner is extension
        assert extension.delay(lambda: current_app.name).result(deadline) == "app"
        extension.shutdown()

    def test_twice_on_one_app(self, app):
        with pytest.raises(RuntimeError, match="'app'.*'delay'"):
            Delay(app)
        with pytest.raises(RuntimeError, match="'app'.*'delay'"):
            app.extensions["delay"].owner.init_app(app)

    def test_name_of_another_extension(self):
        app = Flask("app")
        app.extensions["mail"] = object()
        with pytest.raises(RuntimeError, match="'app'.*'mail'"):
            Delay(app, name="mail")

    def test_failed_leaves_no_trace(self, app):
        other = Delay()
        with pytest.raises(RuntimeError):
            other.init_app(app)
        with pytest.raises(RuntimeError, match="on no app"):
            other.stats()

    @pytest.mark.parametrize("name", ["", "my-tasks", "1st", "a b", "größe", None, 1])
    def test_bad_name(self, name):
        with pytest.raises(ValueError, match=f"ASCII identifier, not {name!r}"):
            Delay(name=name)

    def test_repr_names_it(self):
        assert repr(Delay(name="reports")) == "<Delay 'reports'>"


class TestWhichApp:
    def test_current_app_wins(self, make_app, deadline):
        extension = Delay()
        apps = [make_app(name, extension) for name in ("one", "two")]
        for app in apps:
            with app.app_context():
                task = extension.delay(lambda: current_app._get_current_object())
                assert task.result(deadline) is app

    def test_only_app_without_a_context(self, make_app, deadline):
        extension = Delay()
        make_app("one", extension)
        assert extension.delay(lambda: current_app.name).result(deadline) == "one"

    def test_several_without_a_context(self, make_app):
        extension = Delay()
        make_app("one", extension)
        make_app("two", extension)
        with pytest.raises(RuntimeError, match=r"'one', 'two'.*app\.app_context\(\)") as info:
            extension.delay(int)
        assert info.value.__context__ is None

    def test_none_without_a_context(self):
        with pytest.raises(RuntimeError, match=r"'delay'.*on no app.*init_app\(app\)"):
            Delay().delay(int)

    def test_current_app_without_this_delay(self, make_app):
        extension = Delay(name="reports")
        make_app("one", extension)
        message = r"'reports'.*'other'.*Delay\(app, name='reports'\).*init_app\(app\)"
        with Flask("other").app_context(), pytest.raises(RuntimeError, match=message):
            extension.delay(int)

    def test_current_app_with_another_delay_of_that_name(self, make_app):
        app = make_app("one")
        with app.app_context(), pytest.raises(RuntimeError, match="'one' has another Delay"):
            Delay().delay(int)


class TestModuleLevel:
    def test_returns_a_future_of_the_standard_library(self, app, deadline):
        with app.app_context():
            future = delay(pow, 2, exp=3)
        assert type(future) is Future
        assert isinstance(future, concurrent.futures.Future)
        assert future.result(deadline) == 8

    def test_parameters_of_the_task_may_have_any_name(self, app, deadline):
        with app.app_context():
            future = delay(dict, fn=1, self=2, args=3, timeout=4)
        assert future.result(deadline) == {"fn": 1, "self": 2, "args": 3, "timeout": 4}
        future = app.extensions["delay"].owner.delay(dict, fn=1, self=2)
        assert future.result(deadline) == {"fn": 1, "self": 2}

    def test_app_without_delay(self):
        message = r"'plain'.*Delay\(app\).*init_app\(app\)"
        with Flask("plain").app_context(), pytest.raises(RuntimeError, match=message):
            delay(int)

    def test_app_with_named_ones_only(self, make_app):
        app = make_app(extension=Delay(name="reports"))
        with app.app_context(), pytest.raises(RuntimeError, match=r"Delay\(app\)"):
            delay(int)

    @pytest.mark.parametrize("fn", [None, 1, "print"])
    def test_not_callable(self, app, fn):
        with app.app_context(), pytest.raises(TypeError):
            delay(fn)

    def test_async_generator_function(self, app):
        async def work():
            yield 1

        with app.app_context():
            assert list(delay(work).stream()) == [1]

    def test_without_an_app_the_process_has_one_pool(self, run_script):
        done = run_script(
            dedent("""
            import threading
            from flask import has_app_context
            from flask_delay import delay, state

            assert not state._shared
            together = threading.Barrier(8, timeout=20)
            futures = []

            def first_use():
                together.wait()
                pool = delay(lambda: threading.current_thread().name)
                futures.append(pool)

            threads = [threading.Thread(target=first_use) for _ in range(8)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
            names = {future.result(20) for future in futures}
            assert len(futures) == 8 and all(n.startswith("delay") for n in names), names
            assert delay(has_app_context).result(20) is False
            assert len(state._shared) == 1
            delay(print, "at exit")
        """)
        )
        assert (done.rc, done.out, done.err) == (0, "at exit\n", "")

    def test_without_an_app_an_error_has_no_other_behind_it(self, monkeypatch):
        monkeypatch.setattr(state, "only_state", lambda: None)
        # The pool refuses it before a thread would start.
        with pytest.raises(TypeError) as info:
            delay(None)
        assert info.value.__context__ is None


class TestNamed:
    def test_each_has_its_own_pool_and_settings(self, make_app, deadline):
        app = make_app(DELAY_MAX_WORKERS=2, REPORTS_MAX_WORKERS="1")
        reports = Delay(app, name="reports")
        default = app.extensions["delay"].owner
        assert default.executor is not reports.executor
        assert app.extensions["delay"].config.max_workers == 2
        assert app.extensions["reports"].config.max_workers == 1

        together = threading.Barrier(2, timeout=deadline)
        with app.app_context():
            for future in [delay(together.wait) for _ in range(2)]:
                future.result(deadline)

        release, started = threading.Event(), threading.Event()

        def block():
            started.set()
            return release.wait(deadline)

        running, queued = reports.delay(block), reports.delay(int)
        assert started.wait(deadline)
        assert (running.state, queued.state) == ("running", "pending")
        assert reports.stats()["queued"] == 1
        assert default.stats()["queued"] == 0
        release.set()
        assert queued.result(deadline) == 0

    def test_threads_are_named_after_it(self, make_app, deadline):
        reports = Delay(name="reports")
        make_app(extension=reports)
        name = reports.delay(lambda: threading.current_thread().name).result(deadline)
        assert name.startswith("reports")

    def test_shutdown_of_one_leaves_the_other(self, app, deadline):
        reports = Delay(app, name="reports")
        reports.shutdown()
        with pytest.raises(RuntimeError, match="shutdown"):
            reports.delay(int)
        with app.app_context():
            assert delay(int).result(deadline) == 0


class TestGet:
    def test_unknown(self, app):
        extension = app.extensions["delay"].owner
        assert extension.get(str(uuid.uuid4())) is None
        assert extension.get("nonsense") is None

    def test_of_another_process(self, app, run_script):
        """What a poll meets that another worker of the server answers."""
        result = run_script(
            dedent("""
            from flask import Flask
            from flask_delay import Delay
            app = Flask("app")
            extension = Delay(app)
            print(extension.delay(int).id)
        """)
        )
        assert result.rc == 0
        id = result.out.strip()
        assert uuid.UUID(id).version == 4
        assert app.extensions["delay"].owner.get(id) is None

    def test_finished_ones_are_found_when_nobody_holds_them(self, make_app, deadline):
        extension = Delay()
        make_app(extension=extension)
        id = extension.delay(pow, 2, 3).id
        assert extension.drain(deadline)
        assert extension.get(id).result() == 8

    def test_id_asked_for_after_the_end(self, make_app, deadline):
        extension = Delay()
        make_app(extension=extension)
        future = extension.delay(int)
        assert extension.drain(deadline)
        assert extension.get(future.id) is future

    def test_limit_forgets_the_oldest_finished_and_nothing_else(self, make_app, deadline):
        extension = Delay()
        make_app(extension=extension, DELAY_RESULT_LIMIT=2, DELAY_MAX_WORKERS=2)
        release = threading.Event()
        oldest = extension.delay(release.wait, deadline)
        assert extension.get(oldest.id) is oldest
        finished = []
        for _ in range(4):
            future = extension.delay(int)
            assert extension.get(future.id) is future
            future.result(deadline)
            finished.append(future)
        # On the only other worker: what came before has been put away by now.
        extension.delay(int).result(deadline)
        assert extension.get(oldest.id) is oldest
        assert [extension.get(future.id) for future in finished[2:]] == finished[2:]
        assert [extension.get(future.id) for future in finished[:2]] == [None, None]
        release.set()
        assert extension.drain(deadline)
        assert extension.get(oldest.id) is oldest

    def test_limit_of_nothing(self, make_app, deadline):
        extension = Delay()
        make_app(extension=extension, DELAY_RESULT_LIMIT=0)
        release = threading.Event()
        future = extension.delay(release.wait, deadline)
        assert extension.get(future.id) is future
        release.set()
        assert extension.drain(deadline)
        assert extension.get(future.id) is None

    def test_cancelled_counts_as_finished(self, make_app, deadline):
        extension = Delay()
        make_app(extension=extension, DELAY_MAX_WORKERS=1, DELAY_RESULT_LIMIT=1)
        release = threading.Event()
        extension.delay(release.wait, deadline)
        futures = [extension.delay(int) for _ in range(2)]
        ids = [future.id for future in futures]
        assert all(future.cancel() for future in futures)
        assert [extension.get(id) for id in ids] == [None, futures[1]]
        release.set()

    def test_only_on_the_app_it_ran_on(self, make_app, deadline):
        extension = Delay()
        one, two = make_app("one", extension), make_app("two", extension)
        with one.app_context():
            future = extension.delay(int)
            assert extension.get(future.id) is future
        with two.app_context():
            assert extension.get(future.id) is None


class TestPool:
    def test_map_keeps_the_order_and_has_the_app(self, make_app, deadline):
        extension = Delay()
        make_app(extension=extension)
        results = extension.map(
            lambda a, b: (a, b, current_app.name), [1, 2], "xyz", timeout=deadline
        )
        assert list(results) == [(1, "x", "app"), (2, "y", "app")]

    def test_map_takes_what_executors_take(self, make_app, deadline):
        extension = Delay()
        make_app(extension=extension)
        assert list(extension.map(abs, [-1, -2], chunksize=2)) == [1, 2]
        release = threading.Event()
        with pytest.raises(TimeoutError):
            list(extension.map(lambda _: release.wait(deadline), [1], timeout=0.01))
        release.set()

    def test_executor_is_one_of_the_standard_library(self, make_app, deadline):
        extension = Delay()
        app = make_app(extension=extension)
        executor = extension.executor
        assert type(executor) is Executor
        assert isinstance(executor, concurrent.futures.Executor)
        assert extension.executor is executor

        async def main():
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(executor, lambda: current_app._get_current_object())

        assert asyncio.run(main()) is app

    def test_waits_of_the_standard_library(self, make_app, deadline):
        extension = Delay()
        make_app(extension=extension)
        futures = [extension.delay(pow, n, 2) for n in range(20)]
        done, open_ = concurrent.futures.wait(futures, deadline)
        assert done == set(futures)
        assert not open_
        seen = concurrent.futures.as_completed([extension.delay(pow, 3, 2)], deadline)
        assert [future.result() for future in seen] == [9]

    def test_stats_and_drain(self, make_app, deadline):
        extension = Delay()
        make_app(extension=extension, DELAY_MAX_WORKERS=1)
        keys = ("queued", "running", "waiting", "idle", "threads", "held", "stuck")
        counts = ("done", "failed", "cancelled", "retried", "dead")
        assert extension.stats() == dict.fromkeys((*keys, *counts), 0) | {"tasks": {}}
        release, started = threading.Event(), threading.Event()

        def block():
            started.set()
            extension.delay(int)
            return release.wait(deadline)

        extension.delay(block)
        assert started.wait(deadline)
        assert extension.stats()["running"] == 1
        assert not extension.drain(0.01)
        release.set()
        assert extension.drain(deadline)
        stats = extension.stats()
        assert (stats["queued"], stats["running"], stats["threads"]) == (0, 0, 1)
        # Drained, not closed.
        assert extension.delay(int).result(deadline) == 0


class TestNameOfAnotherExtension:
    """`Delay(app, name="mail")` beside Flask-Mail, which has `app.extensions["mail"]` too."""

    class Mail:
        pass

    def test_that_came_first(self):
        app = Flask("app")
        app.extensions["mail"] = self.Mail()
        message = r"another extension under the name 'mail', a Mail: .*name='mail_tasks'\)"
        with pytest.raises(RuntimeError, match=message):
            Delay(app, name="mail")

    def test_that_comes_later(self, make_app):
        extension = Delay(name="mail")
        app = make_app(extension=extension)
        ours, app.extensions["mail"] = app.extensions["mail"], self.Mail()
        with pytest.raises(RuntimeError, match="another extension under the name 'mail', a Mail"):
            extension.delay(int)
        app.extensions["mail"] = ours

    def test_its_keys(self):
        app = Flask("app")
        app.config.update(MAIL_SERVER="localhost", MAIL_PORT=25)
        with pytest.warns(UserWarning, match="is not a setting") as caught:
            Delay(app, name="mail")
        for key, warning in zip(("MAIL_SERVER", "MAIL_PORT"), caught, strict=True):
            text = str(warning.message)
            assert text.startswith(f"{key} is not a setting of Flask-Delay")
            assert "if it is another extension's, give this Delay another name" in text
