"""`using`: one task's options, and what of a request its task has."""

import math

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

from flask_delay import Delay, Retry, task, using
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
    from flask_delay import Executor, state
    from flask_delay.periodic.job import Jobs

    monkeypatch.setattr(state, "only_state", lambda: None)
    with Executor(1) as executor:
        monkeypatch.setattr(state, "shared_jobs", lambda: Jobs(executor))
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
    names = (
        "priority, key, limit, rate, scope, unique, timeout, expires, retry, stream_wait,"
        " countdown, eta, debounce, max_wait, backend, durable, once, within, after_commit,"
        " request, id, every, cron, timezone, overlap, missed"
    )
    assert names == ", ".join(KNOWN)
    with pytest.raises(
        TypeError, match=f"'reqest' is not an option; valid are {names}; did you mean 'request'?"
    ):
        verb(reqest=True)
    with pytest.raises(TypeError, match=f"'zzz' is not an option; valid are {names}$"):
        verb(zzz=1)


SECONDS = "a number of seconds above 0"
RATES = 'a number of tasks per second, minute, hour or day: "10/s", "100/m", "5/h", "1/d"'
HASHABLE = "hashable, or a plain function that is called with the task's arguments"
RETRY = "a Retry, or an integer, 0 or more"
UNHASHABLE: list[object] = [[], {}, ([],), None]


@pytest.mark.parametrize("verb", [using, Delay().using, task, Delay().task, task(int).using])
@pytest.mark.parametrize(
    ("name", "value", "error", "allowed"),
    [
        *(
            ("priority", value, error, "an integer between -1000 and 1000")
            for value, error in [
                (True, TypeError),
                (1.0, TypeError),
                ("1", TypeError),
                (None, TypeError),
                (1001, ValueError),
                (-1001, ValueError),
                (10**30, ValueError),
            ]
        ),
        *(("key", value, TypeError, HASHABLE) for value in UNHASHABLE),
        *(
            ("limit", value, error, "an integer of at least 1")
            for value, error in [
                (True, TypeError),
                (2.0, TypeError),
                ("2", TypeError),
                (None, TypeError),
                (0, ValueError),
                (-1, ValueError),
                (10**30, ValueError),
            ]
        ),
        *(("rate", value, TypeError, RATES) for value in (10, None, b"10/s", ("10", "s"))),
        *(
            ("rate", value, ValueError, RATES)
            for value in (
                "",
                "10",
                "/s",
                "0/s",
                "-1/s",
                "1.5/s",
                "10/5s",
                "10/w",
                "10/S",
                " 10/s",
                "10/s\n",
                "10 per s",
                "\u0661/s",
                f"{10**30}/s",
            )
        ),
        pytest.param("rate", f"{'9' * 10_000}/s", ValueError, RATES, id="rate-of-many-digits"),
        *(("unique", value, TypeError, 'True, False or "raise"') for value in (1, 0, None, 1.0)),
        *(("unique", value, ValueError, 'True, False or "raise"') for value in ("", "return")),
        *(
            (name, value, error, SECONDS)
            for name in ("timeout", "expires", "debounce", "max_wait")
            for value, error in [
                (0, ValueError),
                (-1, ValueError),
                (-0.0, ValueError),
                (math.nan, ValueError),
                (math.inf, ValueError),
                (10**400, ValueError),
                (True, TypeError),
                ("5", TypeError),
                (None, TypeError),
                (1j, TypeError),
            ]
        ),
        *(("retry", value, TypeError, RETRY) for value in (True, None, 1.0, "3", Retry, (3,))),
        ("retry", -1, ValueError, RETRY),
        *(("request", value, TypeError, "True or False") for value in (None, 1, "yes")),
    ],
)
def test_bad_value_names_option_value_and_what_is_allowed(verb, name, value, error, allowed):
    # What goes by a key, so that nothing else is wrong.
    others = {"limit": 1} if name == "key" else {}
    with pytest.raises((TypeError, ValueError)) as info:
        verb(**others, **{name: value})
    assert type(info.value) is error
    assert str(info.value).startswith(f"the option {name!r} is {value!r}, but must be {allowed}")
    assert info.value.__suppress_context__


@pytest.mark.parametrize(
    "options",
    [
        {"priority": -1000},
        {"priority": 1000},
        {"key": "mail", "limit": 1},
        {"key": ("user", 7), "rate": "1/d"},
        {"key": lambda *_: "key", "unique": True},
        {"key": "mail", "unique": "raise", "limit": 3, "rate": "100/m"},
        {"limit": 2},
        {"rate": "5/h"},
        {"limit": 2, "scope": "process"},
        {"limit": 2, "rate": "5/h", "scope": "machine"},
        {"unique": True},
        {"unique": False},
        {"timeout": 0.5},
        {"timeout": 10, "expires": 10},
        {"retry": 0},
        {"retry": 3, "timeout": 1},
        {"retry": Retry(5, on=OSError)},
        {"request": False},
        {"debounce": 0.5},
        {"debounce": 5, "max_wait": 5, "key": "search", "limit": 1, "expires": 6},
    ],
)
def test_good_values(options):
    shown = ", ".join(f"{name}={value!r}" for name, value in options.items())
    assert repr(using(**options)) == f"using({shown})"
    assert repr(task(**options)) == f"task({shown})"


@pytest.mark.parametrize("others", [{}, {"unique": False}, {"timeout": 1, "priority": 1}])
def test_key_that_nothing_goes_by(others):
    message = "the option 'key' is 'mail', but none of 'limit', 'rate', 'unique', 'debounce' is set"
    with pytest.raises(ValueError, match=message):
        using(key="mail", **others)
    with pytest.raises(ValueError, match=message):
        task(key="mail", **others)


def test_options_are_checked_together_when_they_are_merged():
    made = task(key="mail", unique=True)(int)
    with pytest.raises(ValueError, match="the option 'key' is 'mail'"):
        made.using(unique=False)
    assert made.using(unique=False, limit=2) == task(key="mail", unique=False, limit=2)(int)
    with pytest.raises(ValueError, match="the option 'key' is 'other'"):
        task(int).using(key="other")
    assert task(limit=2)(int).using(key="other") == task(limit=2, key="other")(int)


def test_key_is_made_of_the_arguments(app, deadline):
    seen = []

    def key(*args, **kwargs):
        seen.append((args, kwargs))
        return args[0]

    with app.app_context():
        keyed = using(key=key, limit=1)
        assert keyed.delay(divmod, 7, 2).result(deadline) == (3, 1)
        assert using(key=key, unique=True).delay(sorted, (2, 1), reverse=True).result(deadline)
        assert seen == [((7, 2), {}), (((2, 1),), {"reverse": True})]
        with pytest.raises(TypeError, match="hash"):
            keyed.delay(sorted, [1])
        with pytest.raises(IndexError):
            keyed.delay(int)


def test_arguments_without_a_hash_need_a_key(app, deadline):
    with app.app_context():
        with pytest.raises(TypeError, match="'key'"):
            using(unique=True).delay(sorted, [2, 1])
        assert using(unique=True, key="k").delay(sorted, [2, 1]).result(deadline) == [1, 2]


def test_request_together_with_others(app, deadline):
    future = serve_header(app, lambda: using(request=True, timeout=deadline, retry=1).delay(header))
    assert future.result(deadline) == ("mine", "app")


def test_options_are_made_ready_once(monkeypatch, app, deadline):
    from flask_delay import options

    made, real = [], options._Policy
    monkeypatch.setattr(options, "_Policy", lambda **given: made.append(given) or real(**given))
    verb = using(priority=3, rate="1000/s")
    function = task(timeout=5, unique="raise", retry=2)(pow)
    with app.app_context():
        for number in range(3):
            assert verb.delay(pow, number, 2).result(deadline) == number**2
            assert function.delay(number, 2).result(deadline) == number**2
        assert using(request=False, unique=False).delay(int).result(deadline) == 0
    assert made == [
        {"priority": 3, "rate": (1000, 1.0)},
        {"timeout": 5.0, "unique": "raise", "retry": Retry(2)},
    ]


def test_it_shows_itself():
    assert repr(using(request=True)) == "using(request=True)"


def test_every_option_has_a_text():
    for option in KNOWN.values():
        assert option.help.endswith(".")
        assert option.allowed
