"""Copies of a request: what they have, and that nothing of them dies with the request."""

import concurrent.futures
import io
import json
import sys
import threading

import pytest
from flask import (
    Flask,
    abort,
    current_app,
    flash,
    g,
    get_flashed_messages,
    has_request_context,
    request,
    session,
    url_for,
)
from flask.logging import wsgi_errors_stream
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface
from werkzeug.exceptions import RequestEntityTooLarge

from flask_delay import using
from flask_delay.context import snapshot

JSON = {"json": {"a": [1, 2]}}
FORM = {"data": {"name": "x", "more": ["1", "2"]}}


# With a boundary that is always the same.
MULTIPART = {
    "data": b"--B\r\n"
    b'Content-Disposition: form-data; name="name"\r\n\r\nx\r\n--B\r\n'
    b'Content-Disposition: form-data; name="file"; filename="t.csv"\r\n'
    b"Content-Type: text/csv\r\n\r\na,b\r\n--B--\r\n",
    "content_type": "multipart/form-data; boundary=B",
}


class Lab:
    """An app whose view takes a snapshot, and a server as hard as uWSGI after the response."""

    def __init__(self) -> None:
        self.app = Flask("lab", static_folder=None)
        self.app.secret_key = "secret"
        self.inner = self.app.wsgi_app
        self.app.wsgi_app = self.serve  # type: ignore[method-assign]
        self.seen = None
        self.before = self.after = lambda: None
        self.app.add_url_rule("/<int:number>/x", "view", self.view, methods=["GET", "POST", "PUT"])

    def serve(self, environ, start_response):
        environ = dict(environ)
        stream = environ["wsgi.input"]
        environ["gunicorn.socket"] = environ["uwsgi.thing"] = object()
        environ["wsgi.file_wrapper"] = print
        body = [b"".join(self.inner(environ, start_response))]
        environ.clear()
        stream.close()
        return body

    def view(self, number):
        self.seen = self.before()
        self.taken = snapshot(self.app)
        self.seen_after = self.after()
        return "ok"

    def send(self, *, before=lambda: None, after=lambda: None, path="/7/x?q=1", **options):
        self.before, self.after = before, after
        client = options.pop("client", None) or self.app.test_client()
        options.setdefault("method", "POST")
        return client.open(path, **options)

    def look(self, function):
        """What `function` finds in the snapshot's context, in another thread."""

        def work():
            with self.taken():
                return function()

        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            return pool.submit(work).result(20)

    def ask(self, function, **options):
        response = self.send(**options)
        assert response.status_code == 200, response.text
        return self.look(function)


@pytest.fixture
def lab():
    return Lab()


def test_line_headers_and_url(lab):
    def look():
        return (
            request.method,
            request.path,
            request.args.to_dict(),
            request.headers["X-Mine"],
            request.headers["Host"],
            request.remote_addr,
            request.cookies["c"],
            request.url_rule.rule,
            request.endpoint,
            request.view_args,
            url_for("view", number=8),
            request.url,
        )

    client = lab.app.test_client()
    client.set_cookie("c", "v")
    assert lab.ask(look, client=client, headers={"X-Mine": "mine"}) == (
        "POST",
        "/7/x",
        {"q": "1"},
        "mine",
        "localhost",
        "127.0.0.1",
        "v",
        "/<int:number>/x",
        "view",
        {"number": 7},
        "/8/x",
        "http://localhost/7/x?q=1",
    )


def test_only_what_outlives_the_request_is_in_the_environ(lab):
    def look():
        return dict(request.environ)

    environ = lab.ask(look, environ_overrides={"my.claims": {"user": [1, "x"]}})
    assert environ["my.claims"] == {"user": [1, "x"]}
    assert environ["wsgi.version"] == (1, 0)
    assert environ["wsgi.errors"] is sys.stderr
    gone = {"gunicorn.socket", "uwsgi.thing", "wsgi.file_wrapper"}
    assert not gone & environ.keys()
    for key in environ.keys() - {"wsgi.errors", "wsgi.input", "werkzeug.request"}:
        json.dumps(environ[key])


def test_environ_without_end_is_cut(lab):
    endless = []
    endless.append(endless)
    assert "my.list" not in lab.ask(
        lambda: dict(request.environ), environ_overrides={"my.list": endless}
    )


READS = {
    "get_data": lambda: request.get_data(),
    "data": lambda: request.data,
    "json": lambda: request.get_json(silent=True),
    "form": lambda: request.form.to_dict(flat=False),
    "values": lambda: request.values.to_dict(flat=False),
    "stream": lambda: request.stream.read(),
    "input": lambda: request.input_stream.read(int(request.content_length or 0)),
    "files": lambda: {
        name: (file.filename, file.content_type, file.read())
        for name, file in request.files.items()
    },
}
BODIES = {
    "json": JSON,
    "form": FORM,
    "multipart": MULTIPART,
    "text": {"data": "plain", "content_type": "text/plain"},
    "none": {},
}


def without_snapshot(read, kind):
    """What a view reads that takes no snapshot."""
    app = Flask("plain", static_folder=None)
    seen = []
    app.add_url_rule(
        "/", "view", lambda: seen.append(read()) or "ok", methods=["GET", "POST", "PUT"]
    )
    app.test_client().post("/?q=1", **BODIES[kind])
    return seen[0]


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("name", READS)
def test_copy_and_view_read_the_body_as_if_there_was_one_of_them(lab, name, kind):
    read = READS[name]
    expected = without_snapshot(read, kind)
    assert lab.ask(read, after=read, **BODIES[kind]) == expected
    assert lab.seen_after == expected


@pytest.mark.parametrize("kind", ["json", "form", "multipart", "text"])
@pytest.mark.parametrize("name", ["get_data", "json", "form", "values", "files"])
@pytest.mark.parametrize("before", ["get_data", "json", "form", "files", "values"])
def test_copy_has_what_the_view_has_read_before(lab, before, name, kind):
    read = READS[name]
    expected = without_snapshot(read, kind)
    if name == "get_data" and kind in {"form", "multipart"} and before not in {"get_data", "json"}:
        # Nobody keeps the bytes of a form that was parsed.
        expected = b""
    if before == "json" and kind in {"form", "multipart"}:
        # It reads nothing of them.
        assert without_snapshot(READS["json"], kind) is None
    assert lab.ask(read, before=READS[before], **BODIES[kind]) == expected


def test_data_of_a_form_is_empty_for_the_view(lab):
    lab.send(after=lambda: (request.data, request.form["name"]), **FORM)
    assert lab.seen_after == (b"", "x")


def test_chunked_body(lab):
    data = b"x" * 100_000
    options = {
        "input_stream": io.BytesIO(data),
        "environ_overrides": {"wsgi.input_terminated": True},
    }
    read = READS["get_data"]
    assert lab.ask(read, after=read, **options) == data
    assert lab.seen_after == data


def test_place_in_an_upload_is_kept(lab):
    def begin():
        request.files["file"].read(2)

    def rest():
        return request.files["file"].read()

    assert lab.ask(rest, before=begin, after=rest, **MULTIPART) == b"a,b"
    assert lab.seen_after == b"b"


def test_upload_on_disk(lab):
    content = bytes(range(256)) * 4096
    data = {"file": (io.BytesIO(content), "large")}
    assert (
        lab.ask(lambda: request.files["file"].read(), before=READS["values"], data=data) == content
    )


def test_upload_that_was_closed(lab):
    def close():
        request.files["file"].close()

    lab.app.testing = True
    with pytest.raises(RuntimeError, match=r"upload 't\.csv' cannot be read.*before the file"):
        lab.send(before=close, **MULTIPART)


def test_body_that_nobody_kept_says_so_when_it_is_read(lab):
    lab.send(before=lambda: request.stream.read(), **JSON)
    assert lab.look(lambda: request.headers["Content-Length"]) == "13"
    for read in (READS["get_data"], READS["json"], READS["stream"]):
        with pytest.raises(RuntimeError, match=r"request\.stream before.*request\.get_data\(\)"):
            lab.look(read)


def test_rest_of_a_body_that_the_view_has_begun(lab):
    assert lab.ask(READS["stream"], before=lambda: request.stream.read(2), **BODIES["text"]) == (
        b"ain"
    )
    assert lab.seen == b"pl"


def test_copy_of_a_copy(lab):
    lab.send(**JSON)

    def again():
        lab.taken = snapshot(lab.app)

    lab.look(again)
    assert lab.look(READS["json"]) == {"a": [1, 2]}
    lab.send(before=lambda: request.stream.read(), **JSON)
    lab.look(again)
    with pytest.raises(RuntimeError, match="get_data"):
        lab.look(READS["json"])


def test_body_over_the_limit_is_refused_at_submit(lab):
    lab.app.config["MAX_CONTENT_LENGTH"] = 12
    assert lab.send(**JSON).status_code == 413
    lab.app.testing = True
    lab.app.config["TRAP_HTTP_EXCEPTIONS"] = True
    with pytest.raises(RequestEntityTooLarge):
        lab.send(**JSON)


def test_chunked_body_over_the_limit_is_refused_at_submit(lab):
    lab.app.config["MAX_CONTENT_LENGTH"] = 12
    response = lab.send(
        input_stream=io.BytesIO(b"x" * 13), environ_overrides={"wsgi.input_terminated": True}
    )
    assert response.status_code == 413


def test_limit_of_one_request_is_carried(lab):
    lab.app.config["MAX_FORM_MEMORY_SIZE"] = 10

    def allow():
        request.max_form_memory_size = 1000

    data = {"name": "x" * 100, "file": (io.BytesIO(b"a"), "small")}
    assert lab.ask(lambda: len(request.form["name"]), before=allow, data=data) == 100


def test_session_can_be_read(lab):
    client = lab.app.test_client()
    with client.session_transaction() as before:
        before["user"] = "ann"
        before["list"] = [1, {"x": 2}]

    def look():
        return dict(session), session.get("none"), session.permanent, session.modified

    expected = ({"user": "ann", "list": [1, {"x": 2}], "new": 1}, None, False, False)

    def change():
        session["new"] = 1

    assert lab.ask(look, client=client, before=change) == expected


def test_session_is_as_it_was(lab):
    def fill():
        session["list"] = [1]

    def change():
        session["list"].append(2)
        session["later"] = 1

    def look():
        session["list"].append(3)
        return dict(session)

    # In turn: what one task does to its copy is not in the next one's.
    assert lab.ask(look, before=fill, after=change) == {"list": [1, 3]}
    assert lab.look(look) == {"list": [1, 3]}


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda: session.__setitem__("a", 1), "a"),
        (lambda: session.__delitem__("user"), "user"),
        (lambda: session.update(a=1), "a"),
        (lambda: session.clear(), "user"),
        (lambda: session.pop("user"), "user"),
        (lambda: session.popitem(), "user"),
        (lambda: session.setdefault("a", 1), "a"),
        (lambda: setattr(session, "permanent", True), "_permanent"),
        (lambda: setattr(session, "modified", True), "modified"),
        (lambda: flash("message"), "_flashes"),
    ],
)
def test_a_change_of_the_session_that_is_not_saved_is_logged(lab, caplog, change, key):
    def fill():
        session["user"] = "ann"

    lab.send(before=fill)
    caplog.clear()
    # Once: it is one thing to say.
    lab.look(lambda: [change() for _ in range(2) if key != "user" or session])
    [record] = caplog.records
    assert (record.name, record.levelname) == ("flask_delay", "WARNING")
    assert f"a task has changed {key!r} in its session, a copy that is not saved" in (
        record.getMessage()
    )
    assert "change the session in the view" in record.getMessage()
    assert lab.look(lambda: dict(session)) == {"user": "ann"}


def test_a_change_of_the_session_says_which_task_it_was(make_app, deadline, caplog):
    app = make_app(SECRET_KEY="secret")
    futures = []

    def remember():
        session["a"] = 1

    app.add_url_rule(
        "/", view_func=lambda: futures.append(using(request=True).delay(remember)) or "ok"
    )
    app.test_client().get("/")
    futures[0].result(deadline)
    assert f"remember ({futures[0].id}) has changed 'a'" in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        lambda: session.update(_fresh=False),
        lambda: session.pop("_user_id"),
        lambda: session.pop("none", None),
        lambda: get_flashed_messages(),
    ],
)
def test_what_extensions_keep_in_the_session_is_their_business(lab, caplog, change):
    def fill():
        session["_user_id"] = "1"
        flash("message")

    lab.send(before=fill)
    lab.look(change)
    assert caplog.records == []


def test_reading_the_session_for_a_task_is_no_access_of_the_view(make_app):
    """A response that is the same for all visitors stays one that a cache may keep."""
    app = make_app(SECRET_KEY="secret")

    @app.get("/plain")
    def plain():
        using(request=True).delay(lambda: dict(session))
        return "ok"

    @app.get("/reads")
    def reads():
        session.get("user")
        return plain()

    client = app.test_client()
    with client.session_transaction() as before:
        before["user"] = "ann"
    assert "Vary" not in client.get("/plain").headers
    assert client.get("/reads").headers["Vary"] == "Cookie"


def test_session_sets_no_cookie(lab):
    def fill():
        session["user"] = "ann"
        session.permanent = True

    def respond():
        return current_app.process_response(current_app.make_response("x")).headers

    lab.send(before=fill)
    assert "Set-Cookie" not in lab.look(respond)


def test_flashed_messages_are_left_to_the_view(lab):
    lab.send(before=lambda: flash("message"))
    assert lab.look(get_flashed_messages) == ["message"]
    # Each task has its own copy, and the visitor still gets them.
    assert lab.look(get_flashed_messages) == ["message"]


def test_session_that_a_server_keeps(lab):
    class Session(SecureCookieSession):
        pass

    opened = []

    class Interface(SecureCookieSessionInterface):
        def open_session(self, app, request):
            opened.append(request)
            made = Session({"user": "ann"})
            made.sid = "the-id"
            made.new = True
            return made

    lab.app.session_interface = Interface()
    found = lab.ask(lambda: (session["user"], session.sid, session.new))
    assert found == ("ann", "the-id", True)
    assert len(opened) == 1


def test_session_that_cannot_be_copied(lab):
    lab.app.testing = True

    def fill():
        session["lock"] = threading.Lock()

    with pytest.raises(TypeError, match="session's 'lock' cannot be copied"):
        lab.send(before=fill)


def test_app_without_a_secret_key(lab):
    lab.app.secret_key = None
    assert lab.ask(lambda: dict(session)) == {}


def test_g_is_fresh_and_what_was_set_on_the_request_is_not_carried(lab):
    def fill():
        g.mine = 1
        request.mine = 1

    assert lab.ask(lambda: (list(g), hasattr(request, "mine")), before=fill) == ([], False)


def test_changed_view_args_are_kept(lab):
    @lab.app.url_value_preprocessor
    def take(_endpoint, values):
        g.number = values.pop("number")
        values["language"] = "de"

    lab.app.view_functions["view"] = lambda language: lab.view(language)

    def look():
        request.view_args["more"] = 1
        return request.view_args

    assert lab.ask(look) == {"language": "de", "more": 1}
    assert lab.look(lambda: request.view_args) == {"language": "de"}


def test_no_match_is_made_anew(lab):
    calls = []

    class Converter(lab.app.url_map.converters["int"]):
        def to_python(self, value):
            calls.append(value)
            return super().to_python(value)

    lab.app.url_map.converters["counted"] = Converter
    lab.app.add_url_rule("/counted/<counted:number>", view_func=lab.view, endpoint="counted")
    assert lab.ask(lambda: request.view_args, path="/counted/3", method="GET") == {"number": 3}
    assert calls == ["3"]


def test_in_an_error_handler(lab):
    lab.app.register_error_handler(404, lambda _error: lab.view(0))
    assert lab.ask(lambda: (request.path, request.url_rule, request.view_args), path="/none") == (
        "/none",
        None,
        None,
    )


def test_teardown_functions_run_and_before_request_does_not(lab):
    ran = []
    lab.app.before_request(lambda: ran.append("before"))
    lab.app.after_request(lambda response: ran.append("after") or response)
    lab.app.teardown_request(lambda _: ran.append("teardown_request"))
    lab.app.teardown_appcontext(lambda _: ran.append("teardown_appcontext"))
    lab.send()
    ran.clear()
    lab.look(lambda: ran.append("task"))
    assert ran == ["task", "teardown_request", "teardown_appcontext"]


def test_many_tasks_at_once_with_one_copy(lab):
    lab.send(**MULTIPART)
    barrier = threading.Barrier(4)

    def work():
        with lab.taken():
            barrier.wait(20)
            found = READS["files"](), READS["form"](), request.headers["Content-Length"]
            barrier.wait(20)
            return found, request._get_current_object()

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(work) for _ in range(4)]
        found, requests = zip(*(future.result(20) for future in futures), strict=True)
    assert found[0][0] == {"file": ("t.csv", "text/csv", b"a,b")}
    assert all(one == found[0] for one in found)
    assert len(set(map(id, requests))) == 4


def test_logging_in_the_copy_goes_to_stderr(lab, capsys):
    lab.send()
    # What Flask's own handler writes to.
    lab.look(lambda: wsgi_errors_stream.write("from the task"))
    assert "from the task" in capsys.readouterr().err


def test_without_a_request(lab):
    with lab.app.app_context(), pytest.raises(RuntimeError, match="current request.*there is none"):
        snapshot(lab.app)


def test_nothing_is_left_bound(lab):
    lab.ask(lambda: None)
    assert not has_request_context()


def test_an_exception_passes_through(lab):
    lab.send()
    with pytest.raises(RequestEntityTooLarge):
        lab.look(lambda: abort(413))


def test_contexts_as_flask_3_2_makes_them(lab, monkeypatch):
    """One kind of context for everything, which takes a request and no environ."""
    kind = type(lab.app.test_request_context())

    class Merged(kind):
        def __init__(self, app, *, request=None, session=None):
            super().__init__(app, request.environ, request, session)

    def request_context(environ):
        made = lab.app.request_class(environ)
        made.json_module = lab.app.json
        return Merged(lab.app, request=made)

    lab.send(**JSON)
    monkeypatch.setattr(lab.app, "request_context", request_context)
    with lab.taken() as context:
        assert isinstance(context, Merged)
        assert request.get_json() == {"a": [1, 2]}
        assert dict(session) == {}
