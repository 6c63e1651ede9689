"""`using`: one task's options, and what of a request its task has."""

import re

import pytest
from flask import (
    Blueprint,
    current_app,
    g,
    has_request_context,
    jsonify,
    request,
    session,
    stream_with_context,
)

from flask_delay import Delay, using
from flask_delay.options import KNOWN


def header():
    return request.headers["X-Mine"], current_app.name


async def header_async():
    return header()


def serve_header(app, submit):
    """The future of the task that the view has submitted with `submit`."""
    futures = []
    app.add_url_rule("/", view_func=lambda: futures.append(submit()) or "ok")
    assert app.test_client().get("/", headers={"X-Mine": "mine"}).text == "ok"
    return futures[0]


@pytest.mark.parametrize("mode", ["threads", "immediate"])
@pytest.mark.parametrize("function", [header, header_async])
@pytest.mark.parametrize("way", ["function", "method"])
def test_task_has_a_copy_of_the_request(make_app, deadline, way, function, mode):
    extension = Delay()
    app = make_app(extension=extension, DELAY_MODE=mode)
    verb = using if way == "function" else extension.using
    future = serve_header(app, lambda: verb(request=True).delay(function))
    assert future.result(deadline) == ("mine", "app")


def test_copy_outlives_the_request(make_app, deadline):
    extension = Delay()
    app = make_app(extension=extension, DELAY_MODE="manual")
    future = serve_header(app, lambda: using(request=True).delay(header))
    extension.executor.run_pending()
    assert future.result() == ("mine", "app")


def test_on_a_real_server(app, serve, deadline):
    futures = []

    @app.post("/")
    def view():
        futures.append(using(request=True).delay(lambda: (request.get_json(), request.path)))
        return jsonify(request.get_json())

    address = serve(app)
    import urllib.request

    sent = urllib.request.Request(
        address, b'{"a": 1}', headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(sent, timeout=deadline) as response:
        assert response.read() == b'{"a":1}\n'
    assert futures[0].result(deadline) == ({"a": 1}, "/")


def test_callbacks_have_no_request(app, deadline):
    seen = []

    def submit():
        future = using(request=True).delay(int)
        future.add_done_callback(lambda _: seen.append((has_request_context(), list(g))))
        return future

    serve_header(app, submit).result(deadline)
    app.extensions["delay"].executor.drain(deadline)
    assert seen == [(False, [])]


def test_map_shares_one_copy(app, deadline):
    def work(number):
        return number, request.headers["X-Mine"], request._get_current_object()

    results = serve_header(app, lambda: using(request=True).map(work, [1, 2, 3], buffersize=1))
    numbers, headers, requests = zip(*results, strict=True)
    assert numbers == (1, 2, 3)
    assert headers == ("mine",) * 3
    assert len(set(map(id, requests))) == 3


def test_map_without_options(app):
    with app.app_context():
        assert list(using().map(pow, [1, 2], [3, 3], timeout=20)) == [1, 8]


def test_without_an_app_the_process_has_a_pool(deadline, monkeypatch):
    from flask_delay import Executor, pools

    with Executor(1) as executor:
        monkeypatch.setattr(pools, "shared_executor", lambda: executor)
        assert using().delay(pow, 2, 3).result(deadline) == 8
        assert using(request=False).delay(pow, 2, 3).result(deadline) == 8
        with pytest.raises(RuntimeError, match="current request.*there is none"):
            using(request=True).delay(int)


def test_without_a_request_it_says_so(app):
    with app.app_context():
        for submit in (
            lambda: using(request=True).delay(int),
            lambda: using(request=True).map(int, ["1"]),
            lambda: app.extensions["delay"].owner.using(request=True).delay(int),
        ):
            with pytest.raises(RuntimeError, match="current request.*there is none"):
                submit()


def test_body_over_the_limit(app):
    app.config["MAX_CONTENT_LENGTH"] = 3
    ran = []
    app.add_url_rule(
        "/",
        view_func=lambda: using(request=True).delay(ran.append, 1) and "ok",
        methods=["POST"],
    )
    client = app.test_client()
    assert client.post("/", data=b"1234").status_code == 413
    assert client.post("/", data=b"123").status_code == 200
    assert app.extensions["delay"].executor.drain(20)
    assert ran == [1]


def test_session_is_the_users(app, deadline):
    app.secret_key = "secret"

    def submit():
        session["user"] = "ann"
        return using(request=True).delay(lambda: session["user"])

    assert serve_header(app, submit).result(deadline) == "ann"


def test_in_a_streamed_response(app, deadline):
    futures = []

    @app.get("/")
    def view():
        def produce():
            futures.append(using(request=True).delay(header))
            yield "ok"

        return stream_with_context(produce())

    assert app.test_client().get("/", headers={"X-Mine": "mine"}).text == "ok"
    assert futures[0].result(deadline) == ("mine", "app")


def test_a_task_of_the_copy_passes_it_on(app, deadline):
    def outer():
        return using(request=True).delay(header).result(deadline)

    future = serve_header(app, lambda: using(request=True).delay(outer))
    assert future.result(deadline) == ("mine", "app")


def test_teardown_functions_run_before_the_future_resolves(make_app):
    extension = Delay()
    app = make_app(extension=extension, DELAY_MODE="manual")
    ran, futures = [], []

    def note(name):
        return lambda _exc: ran.append((name, futures[0].done()))

    blueprint = Blueprint("blueprint", __name__)
    blueprint.teardown_request(note("blueprint"))
    app.teardown_request(note("request"))
    app.teardown_appcontext(note("app"))
    app.before_request(lambda: ran.append("before"))

    @blueprint.get("/")
    def view():
        futures.append(using(request=True).delay(lambda: request.blueprint))
        return "ok"

    app.register_blueprint(blueprint)
    assert app.test_client().get("/").text == "ok"
    ran.clear()
    extension.executor.run_pending()
    assert futures[0].result() == "blueprint"
    assert ran == [("blueprint", False), ("request", False), ("app", False)]


@pytest.mark.parametrize("verb", [using, Delay().using])
def test_unknown_option(verb):
    names = ", ".join(KNOWN)
    with pytest.raises(
        TypeError, match=f"'reqest' is not an option; valid are {names}; did you mean 'request'?"
    ):
        verb(reqest=True)
    with pytest.raises(TypeError, match=f"'zzz' is not an option; valid are {names}$"):
        verb(zzz=1)


@pytest.mark.parametrize("value", [None, 1, "yes"])
def test_bad_value(value):
    with pytest.raises(
        TypeError, match=re.escape(f"option 'request' is {value!r}, but must be True or False")
    ):
        using(request=value)


def test_it_shows_itself():
    assert repr(using(request=True)) == "using(request=True)"


def test_every_option_has_a_text():
    for option in KNOWN.values():
        assert option.help.endswith(".")
        assert option.allowed
