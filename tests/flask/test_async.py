"""`async def` views that await tasks, and tasks that are `async def` themselves."""

import asyncio
import contextvars
import threading

import pytest
from flask import current_app, g, request

from flask_delay import Delay, current_task, delay

pytest.importorskip("asgiref", reason="async views need flask[async]")

from asgiref.sync import ThreadSensitiveContext, sync_to_async

trail = contextvars.ContextVar("trail", default="none")


def thread_name():
    return threading.current_thread().name


async def later(value=None):
    await asyncio.sleep(0.001)
    return value


def real_app():
    return current_app._get_current_object()


class TestView:
    @pytest.fixture(params=["plain", "async"])
    def work(self, request):
        def plain(number):
            return current_app.name, number * 2

        async def asynchronous(number):
            await asyncio.sleep(0)
            return plain(number)

        return plain if request.param == "plain" else asynchronous

    def test_awaits_a_task(self, app, work):
        @app.get("/<int:number>")
        async def view(number):
            name, result = await delay(work, number)
            # The view's own contexts are still there.
            return {"app": name, "result": result, "path": request.path}

        client = app.test_client()
        for number in range(5):
            expected = {"app": "app", "result": number * 2, "path": f"/{number}"}
            assert client.get(f"/{number}").json == expected

    def test_awaits_several(self, app, work):
        @app.get("/")
        async def view():
            results = await asyncio.gather(*(delay(work, number) for number in range(10)))
            return [result for _, result in results]

        assert app.test_client().get("/").json == [number * 2 for number in range(10)]

    def test_gets_the_exception(self, app):
        @app.get("/")
        async def view():
            with pytest.raises(LookupError, match="on purpose"):
                await delay(fail)
            return "caught"

        async def fail():
            raise LookupError("on purpose")

        assert app.test_client().get("/").text == "caught"

    def test_gives_up_after_a_time(self, app, deadline):
        cancelled = threading.Event()

        async def endless():
            try:
                await asyncio.sleep(deadline)
            except asyncio.CancelledError:
                cancelled.set()
                raise

        @app.get("/")
        async def view():
            try:
                await asyncio.wait_for(delay(endless), 0.01)
            except TimeoutError:
                return "too long", 504

        assert app.test_client().get("/").status_code == 504
        assert cancelled.wait(deadline)

    def test_over_http_at_once(self, app, work, serve, fetch, deadline):
        @app.get("/<int:number>")
        async def view(number):
            return {"result": (await delay(work, number))[1]}

        url = serve(app)
        results = {}

        def get(number):
            results[number] = fetch(f"{url}/{number}")["result"]

        threads = [threading.Thread(target=get, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(deadline)
        assert results == {number: number * 2 for number in range(8)}


class TestTask:
    def test_is_torn_down_once_before_the_result_is_there(self, app, deadline):
        torn_down = []

        @app.teardown_appcontext
        def teardown(error):
            torn_down.append((g.pop("number"), error))

        async def work(number):
            g.number = number
            await asyncio.sleep(0.001)
            if number == 1:
                raise LookupError("on purpose")

        with app.app_context():
            g.number = "of the caller"
            good = delay(work, 0)
            good.result(deadline)
            assert torn_down == [(0, None)]
            bad = delay(work, 1)
            error = bad.exception(deadline)
            assert torn_down == [(0, None), (1, error)]

    def test_is_torn_down_when_cancelled(self, app, deadline):
        torn_down, started = [], threading.Event()

        @app.teardown_appcontext
        def teardown(error):
            torn_down.append(error)

        async def work():
            started.set()
            await asyncio.sleep(deadline)

        # Without an app context here, which would be torn down as well.
        extension = app.extensions["delay"].owner
        future = extension.delay(work)
        assert started.wait(deadline)
        assert future.cancel()
        assert extension.drain(deadline)
        (error,) = torn_down
        assert isinstance(error, asyncio.CancelledError)

    def test_its_own_error_outlives_that_of_its_teardown(self, app, deadline, caplog):
        @app.teardown_appcontext
        def teardown(error):
            raise ZeroDivisionError("in teardown")

        async def fail():
            raise LookupError("on purpose")

        extension = app.extensions["delay"].owner
        future = extension.delay(fail)
        assert isinstance(future.exception(deadline), LookupError)
        messages = [record.getMessage() for record in caplog.records]
        assert any("teardown" in message and future.id in message for message in messages)
        # Without an error of its own, that of its teardown is the task's.
        assert isinstance(extension.delay(later).exception(deadline), ZeroDivisionError)

    def test_submits_tasks_of_its_app(self, app, deadline):
        async def parent():
            return await asyncio.gather(delay(child), delay(async_child))

        def child():
            return real_app(), thread_name()[:6]

        async def async_child():
            return real_app(), current_task.future.name.rpartition(".")[2]

        with app.app_context():
            assert delay(parent).result(deadline) == [(app, "delay_"), (app, "async_child")]


def test_apps_interleave_and_each_task_sees_its_own(make_app, deadline):
    """All on one loop: whatever one sets, no other sees."""
    extension = Delay()
    apps = [make_app(f"app{number}", extension) for number in range(5)]

    async def work(number):
        g.seen = []
        for _ in range(20):
            g.seen.append((real_app(), current_task.future.name, g.setdefault("number", number)))
            await asyncio.sleep(0)
        return g.seen

    futures = {}
    for number in range(50):
        app = apps[number % len(apps)]
        with app.app_context():
            futures[number] = delay(work, number)
    for number, future in futures.items():
        app = apps[number % len(apps)]
        (seen,) = set(future.result(deadline))
        assert seen == (app, future.name, number)


def test_settings_of_one_app_count_for_its_coroutines(make_app, deadline, caplog):
    async def fail():
        raise LookupError("on purpose")

    for log in (True, False):
        app = make_app(DELAY_LOG_FAILURES=log)
        with app.app_context():
            assert delay(fail).exception(deadline)
    assert len(caplog.records) == 1


def test_a_coroutine_of_a_view_below_wsgi_to_asgi_may_use_threads(app, deadline):
    """asgiref marks the context that it runs a synchronous app in, and a task is not in it."""
    futures = []

    async def work():
        return await sync_to_async(thread_name)(), trail.get()

    @app.get("/")
    def view():
        trail.set("view")
        futures.append(delay(work))
        return "ok"

    def get():
        return app.test_client().get("/").status_code

    async def serve():
        async with ThreadSensitiveContext():
            inside = await sync_to_async(get)()
            # Once the context has ended, asgiref would start a thread for it that nothing ends.
            await asyncio.to_thread(futures[0].result, deadline)
        return inside, await sync_to_async(get)()

    assert asyncio.run(serve()) == (200, 200)
    for future in futures:
        name, mark = future.result(deadline)
        assert name != threading.current_thread().name
        assert mark == "view"
