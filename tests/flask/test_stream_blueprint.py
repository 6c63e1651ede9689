"""`Delay.stream_blueprint`: the items of a task over HTTP, as events and by polls."""

import contextlib
import json
import threading
import time
import uuid
from types import SimpleNamespace

import pytest
from flask import Flask, redirect, request
from flask.json.provider import DefaultJSONProvider

from flask_delay import Delay, current_task, delay, using
from flask_delay.servers import capacity
from flask_delay.state import State
from flask_delay.streams import blueprint as streams


@pytest.fixture
def extension() -> Delay:
    return Delay()


@pytest.fixture
def app(make_app, extension):
    """With streams for two visitors at a time, as a server with four threads has them."""
    app = make_app(extension=extension, DELAY_MAX_WORKERS=2, DELAY_STREAM_ITEMS=5)
    app.register_blueprint(
        extension.stream_blueprint(authorize=None, max_streams=2), url_prefix="/streams"
    )
    return app


@pytest.fixture
def client(app):
    return app.test_client()


def submit(app, fn, *args):
    with app.app_context():
        future = delay(fn, *args)
    return future, future.id


def done(app, fn, *args):
    future, id = submit(app, fn, *args)
    assert app.extensions["delay"].executor.drain(20)
    return future, id


def count(most):
    for number in range(most):
        current_task.progress(number + 1, most)
        yield {"n": number}
    return "counted"


def give(value):
    yield value


def fail():
    yield "only"
    raise LookupError("no such order")


def texts(answer):
    """The parts of an answer, as a server sends them."""
    return (part.decode() for part in answer.response)


def events(text):
    """The events of an answer: name, id and data."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line[:1] != ":")
        if "event" in fields:
            number = fields.get("id")
            found.append((fields["event"], number and int(number), json.loads(fields["data"])))
    return found


def named(name, found):
    return [(number, data) for event, number, data in found if event == name]


class TestEvents:
    def test_all_items_and_the_end(self, app, client):
        _, id = done(app, count, 3)
        answer = client.get(f"/streams/{id}/events")
        assert answer.mimetype == "text/event-stream"
        assert answer.cache_control.no_store
        assert answer.headers["X-Accel-Buffering"] == "no"
        assert answer.text.startswith("retry: ")
        found = events(answer.text)
        assert named("item", found) == [(1, {"n": 0}), (2, {"n": 1}), (3, {"n": 2})]
        [(_, state)] = named("end", found)
        assert state["id"] == id
        assert state["state"] == "finished"
        assert state["error"] is None
        assert "result" not in state
        [(_, progress)] = named("progress", found)
        assert (progress["done"], progress["total"]) == (3, 3)

    def test_items_come_as_they_are_made(self, app, client, deadline):
        go = [threading.Event(), threading.Event()]

        def slowly():
            for number in range(2):
                assert go[number].wait(deadline)
                yield number

        _, id = submit(app, slowly)
        answer = client.get(f"/streams/{id}/events")
        read = texts(answer)
        assert next(read).startswith("retry: ")
        go[0].set()
        assert named("item", events(next(read))) == [(1, 0)]
        go[1].set()
        assert named("item", events(next(read))) == [(2, 1)]
        assert named("end", events(next(read)))
        assert next(read, None) is None

    def test_an_encoder_that_writes_lines(self, app, client):
        class Provider(DefaultJSONProvider):
            ensure_ascii = False

            def dumps(self, obj, **kwargs):
                return super().dumps(obj, indent=1, **kwargs)

        app.json = Provider(app)
        _, id = done(app, give, {"text": "a\u2028b"})
        blocks = client.get(f"/streams/{id}/events").text.split("\n\n")
        [item] = [it for it in blocks if it.startswith("event: item")]
        lines = item.split("\n")[2:]
        assert len(lines) == 3
        text = "\n".join(line.removeprefix("data: ") for line in lines)
        assert json.loads(text) == {"text": "a\u2028b"}

    @pytest.mark.parametrize("by_header", [True, False])
    def test_goes_on_after_a_number(self, app, client, by_header):
        _, id = done(app, count, 3)
        # A browser's own number is newer than that of the address, at which it asks again.
        more = {"headers": {"Last-Event-ID": "2"}} if by_header else {}
        answer = client.get(f"/streams/{id}/events?after={1 if by_header else 2}", **more)
        assert named("item", events(answer.text)) == [(3, {"n": 2})]

    def test_what_is_no_longer_kept_is_told(self, app, client):
        _, id = done(app, count, 8)
        found = events(client.get(f"/streams/{id}/events?after=1").text)
        assert named("lagged", found) == [(3, 2)]
        assert [number for number, _ in named("item", found)] == [4, 5, 6, 7, 8]

    def test_a_failure_is_the_end(self, app, client):
        _, id = done(app, fail)
        found = events(client.get(f"/streams/{id}/events").text)
        assert named("item", found) == [(1, "only")]
        [(_, state)] = named("end", found)
        assert state["error"] == {"class": "LookupError", "message": "the task failed"}

    @pytest.mark.parametrize("error", [TimeoutError("late"), SystemExit(3), StopIteration(2)])
    def test_any_failure_is_the_end(self, app, client, error):
        def work():
            yield 1
            raise error

        _, id = done(app, work)
        found = events(client.get(f"/streams/{id}/events").text)
        assert named("item", found) == [(1, 1)]
        assert len(named("end", found)) == 1

    def test_an_item_that_is_no_json(self, app, client):
        def work():
            yield "plain"
            yield object()
            yield float("nan")
            yield "line\nfeed\u2028"

        _, id = done(app, work)
        found = events(client.get(f"/streams/{id}/events").text)
        assert named("item", found) == [(1, "plain"), (4, "line\nfeed\u2028")]
        assert named("unreadable", found) == [(2, "object"), (3, "float")]
        told = client.get(f"/streams/{id}/items").json["items"]
        assert told[1] == {"number": 2, "attempt": 1, "unreadable": "object"}

    def test_another_attempt_is_told(self, app, client):
        def work():
            yield current_task.attempt
            if current_task.attempt == 1:
                raise ConnectionError
            yield "done"

        with app.app_context():
            future = using(retry=1).delay(work)
        id = future.id
        future.result(20)
        found = events(client.get(f"/streams/{id}/events").text)
        told = [(event, data) for event, _, data in found if event in {"item", "attempt"}]
        assert told == [("item", 1), ("attempt", 2), ("item", 2), ("item", "done")]
        later = events(client.get(f"/streams/{id}/events?after=2").text)
        assert [event for event, _, _ in later] == ["attempt", "item", "end"]
        assert [it["attempt"] for it in client.get(f"/streams/{id}/items").json["items"]] == [
            1,
            2,
            2,
        ]

    def test_of_a_task_that_yields_nothing(self, app, client):
        def work():
            current_task.progress(1, 2, "half")
            return 5

        _, id = done(app, work)
        found = events(client.get(f"/streams/{id}/events").text)
        assert [event for event, _, _ in found] == ["progress", "end"]

    def test_one_answer_does_not_last(self, app, client, monkeypatch, deadline):
        monkeypatch.setattr(streams, "_TICK", 0.02)
        monkeypatch.setattr(streams, "_LONGEST", 0.2)
        monkeypatch.setattr(streams, "_HEARTBEAT", 0.05)
        go = threading.Event()

        def wait():
            yield 1
            go.wait(deadline)

        _, id = submit(app, wait)
        text = client.get(f"/streams/{id}/events").text
        assert named("item", events(text)) == [(1, 1)]
        assert ": still here\n\n" in text
        assert "end" not in {event for event, _, _ in events(text)}
        go.set()


class TestSeats:
    def test_more_visitors_are_answered_at_once(self, app, client, deadline):
        go = threading.Event()

        def wait():
            yield 1
            go.wait(deadline)
            yield 2

        future, id = submit(app, wait)
        first = next(future.stream(timeout=deadline))
        assert first == 1
        seated = [client.get(f"/streams/{id}/events") for _ in range(2)]
        assert [next(texts(it)) for it in seated] == ["retry: 100\n\n"] * 2
        answer = client.get(f"/streams/{id}/events")
        assert answer.text.startswith("retry: 1000\n\n")
        assert [event for event, _, _ in events(answer.text)] == ["item"]
        told = client.get(f"/streams/{id}/items?wait=20").json
        assert told["waited"] is False
        seated.pop().close()
        # Nobody reads this one, nor closes it.
        seated.clear()
        go.set()
        assert future.result(deadline) is None

    def test_seats_are_given_back(self, app, client):
        _, id = done(app, count, 2)
        for _ in range(5):
            assert client.get(f"/streams/{id}/events").text.startswith("retry: 100\n\n")
            assert client.get(f"/streams/{id}/items?wait=20").json["waited"] is True
            # Without a look at the body.
            client.get(f"/streams/{id}/events").close()
            client.head(f"/streams/{id}/events")
            assert client.get(f"/streams/{id}/events?after=9").status_code == 400

    @pytest.mark.parametrize(("threads", "seats"), [(None, 1_000), (1, 0), (2, 1), (9, 4)])
    def test_half_of_the_threads_by_default(self, monkeypatch, threads, seats):
        monkeypatch.setattr(capacity, "at_once", lambda _: threads)
        own = streams._Seats(None)
        with Flask("app").test_request_context():
            assert own.count() == seats
        with contextlib.ExitStack() as stack:
            taken = [stack.enter_context(own.taken(seats)) for _ in range(seats)]
            assert all(taken)
            for _ in range(2):
                with own.taken(seats) as may:
                    assert not may
        with own.taken(seats) as may:
            assert may == (seats > 0)

    def test_an_answer_that_fails_takes_none(self, app, client):
        """It may live as long as the exception does."""
        _, id = done(app, count, 2)
        app.config["PROPAGATE_EXCEPTIONS"] = False

        @app.after_request
        def fail_after(response):
            if "X-Fail" in request.headers:
                raise LookupError("after the view")
            return response

        for _ in range(3):
            headers = {"X-Fail": "yes"}
            assert client.get(f"/streams/{id}/events", headers=headers).status_code == 500
        assert client.get(f"/streams/{id}/events").text.startswith("retry: 100\n\n")

    @pytest.mark.parametrize(
        ("environ", "most"),
        [
            ({"wsgi.multithread": False}, 1),
            ({"wsgi.multithread": True, "SERVER_SOFTWARE": "Werkzeug/3.1"}, None),
            # As many threads as are named like this one, which does not serve.
            ({"wsgi.multithread": True, "SERVER_SOFTWARE": "waitress"}, 1),
        ],
    )
    def test_what_the_server_tells(self, environ, most):
        assert capacity.at_once(environ) == most


class TestItems:
    def test_all_of_them(self, app, client):
        _, id = done(app, count, 3)
        told = client.get(f"/streams/{id}/items").json
        assert told["items"] == [
            {"number": n + 1, "attempt": 1, "data": {"n": n}} for n in range(3)
        ]
        assert told["ended"] is True
        assert told["lagged"] == 0
        assert told["task"]["state"] == "finished"
        assert client.get(f"/streams/{id}/items?after=3").json["items"] == []

    def test_waits_for_the_first(self, app, client, deadline):
        go = threading.Event()

        def wait():
            go.wait(deadline)
            yield "late"

        _, id = submit(app, wait)
        at_once = client.get(f"/streams/{id}/items")
        assert at_once.json["items"] == []
        assert at_once.json["ended"] is False
        assert at_once.headers["Retry-After"] == "1"
        timer = threading.Timer(0.1, go.set)
        timer.start()
        told = client.get(f"/streams/{id}/items?wait=20").json
        assert [it["data"] for it in told["items"]] == ["late"]
        assert told["waited"] is True
        timer.join()

    def test_waits_no_longer_than_asked(self, app, client, deadline):
        go = threading.Event()

        def wait():
            go.wait(deadline)
            yield "late"

        _, id = submit(app, wait)
        begin = time.monotonic()
        assert client.get(f"/streams/{id}/items?wait=0.05").json["items"] == []
        assert time.monotonic() - begin >= 0.05
        go.set()

    def test_tells_what_is_no_longer_kept(self, app, client):
        _, id = done(app, count, 8)
        told = client.get(f"/streams/{id}/items").json
        assert told["lagged"] == 3
        assert [it["number"] for it in told["items"]] == [4, 5, 6, 7, 8]

    def test_the_result_if_asked_for(self, app, extension):
        app.register_blueprint(
            extension.stream_blueprint(authorize=None, name="told", results=True, errors=True),
            url_prefix="/told",
        )
        client = app.test_client()
        _, id = done(app, count, 1)
        assert client.get(f"/told/{id}/items").json["task"]["result"] == "counted"
        _, id = done(app, fail)
        assert client.get(f"/told/{id}/items").json["task"]["error"] == {
            "class": "LookupError",
            "message": "no such order",
        }


class TestRefusals:
    @pytest.mark.parametrize("view", ["events", "items"])
    @pytest.mark.parametrize("after", ["-1", "two", "1.5", "1" * 30, "²"])
    def test_a_number_that_is_none(self, app, client, view, after):
        _, id = done(app, count, 1)
        answer = client.get(f"/streams/{id}/{view}?after={after}")
        assert answer.status_code == 400
        assert after[:18] in answer.json["message"]

    @pytest.mark.parametrize("view", ["events", "items"])
    def test_a_number_from_the_future(self, app, client, view):
        _, id = done(app, count, 3)
        answer = client.get(f"/streams/{id}/{view}?after=4")
        assert answer.status_code == 400
        assert "3" in answer.json["message"]

    @pytest.mark.parametrize("wait", ["-1", "soon", "nan", "inf"])
    def test_a_time_that_is_none(self, app, client, wait):
        _, id = done(app, count, 1)
        answer = client.get(f"/streams/{id}/items?wait={wait}")
        assert answer.status_code == 400
        assert wait in answer.json["message"]

    @pytest.mark.parametrize("view", ["events", "items"])
    def test_an_unknown_id(self, client, view):
        answer = client.get(f"/streams/{uuid.uuid4()}/{view}")
        assert answer.status_code == 404
        assert answer.json["state"] == "unknown"

    @pytest.mark.parametrize("verdict", [False, None, "write", 7])
    def test_who_may_not_read(self, make_app, extension, verdict):
        app = make_app(extension=extension)
        made = extension.stream_blueprint(authorize=lambda: verdict)
        app.register_blueprint(made, url_prefix="/streams")
        _, id = done(app, count, 1)
        for view in ("events", "items"):
            answer = app.test_client().get(f"/streams/{id}/{view}")
            assert answer.status_code == 403
            assert answer.json["state"] == "forbidden"

    def test_by_the_task_and_by_a_login(self, make_app, extension):
        allowed = set()

        def authorize():
            if "X-Anonymous" in request.headers:
                return redirect("/login")
            return request.view_args["id"] in allowed

        app = make_app(extension=extension)
        made = extension.stream_blueprint(authorize=authorize)
        app.register_blueprint(made, url_prefix="/streams")
        client = app.test_client()
        _, id = done(app, count, 1)
        _, other = done(app, count, 1)
        allowed.add(id)
        assert client.get(f"/streams/{id}/events").status_code == 200
        assert client.get(f"/streams/{other}/events").status_code == 403
        answer = client.get(f"/streams/{id}/events", headers={"X-Anonymous": "1"})
        assert answer.location == "/login"

    @pytest.mark.parametrize("wrong", [{}, {"authorize": "read"}])
    def test_without_authorize(self, wrong):
        with pytest.raises(TypeError, match=r"stream_blueprint\(\) needs authorize="):
            Delay().stream_blueprint(**wrong)

    @pytest.mark.parametrize(
        ("most", "error"), [(-1, ValueError), (1.5, TypeError), (True, TypeError)]
    )
    def test_bad_limits(self, most, error):
        with pytest.raises(error, match="max_streams"):
            Delay().stream_blueprint(authorize=None, max_streams=most)


def test_the_script(client):
    answer = client.get("/streams/stream.js")
    assert answer.mimetype == "text/javascript"
    assert "function followTask(" in answer.text
    assert answer.headers["ETag"]
    again = client.get("/streams/stream.js", headers={"If-None-Match": answer.headers["ETag"]})
    assert again.status_code == 304


def test_at_the_root_other_addresses_are_left_alone(make_app, extension):
    app = make_app(extension=extension)
    app.register_blueprint(extension.stream_blueprint(authorize=None))
    app.add_url_rule("/orders/items", view_func=lambda: "mine", endpoint="mine")
    client = app.test_client()
    assert client.get("/orders/items").text == "mine"
    _, id = done(app, count, 1)
    assert client.get(f"/{id}/items").json["ended"] is True


def test_a_journal_that_cannot_be_read(app, client, monkeypatch):
    _, id = done(app, count, 1)

    def away(*_):
        raise ConnectionError("no route to the results")

    monkeypatch.setattr(State, "get", away)
    for view in ("events", "items"):
        answer = client.get(f"/streams/{id}/{view}")
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "1"


def test_a_client_that_goes_away_leaves_its_thread(app, client, deadline):
    go = threading.Event()

    def wait():
        yield 1
        go.wait(deadline)

    _, id = submit(app, wait)
    for _ in range(5):
        answer = client.get(f"/streams/{id}/events")
        read = texts(answer)
        next(read)
        next(read)
        answer.close()
    assert next(texts(client.get(f"/streams/{id}/events"))) == "retry: 100\n\n"
    go.set()


def test_seats_of_a_forked_process_are_its_own(monkeypatch):
    own = streams._Seats(1)
    with own.taken(1) as first, own.taken(1) as second:
        assert (first, second) == (True, False)
        monkeypatch.setattr(streams, "os", SimpleNamespace(getpid=lambda: -1))
        with own.taken(1) as third, own.taken(1) as fourth:
            assert (third, fourth) == (True, False)
