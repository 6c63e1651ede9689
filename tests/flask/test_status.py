"""`Delay.status_blueprint`: what is told of a task over HTTP, and what is not."""

import threading
import uuid
from decimal import Decimal
from fractions import Fraction

import pytest
from flask import Flask, url_for

from flask_delay import Delay, current_task, delay, track


@pytest.fixture
def extension() -> Delay:
    return Delay()


@pytest.fixture
def app(make_app, extension):
    app = make_app(extension=extension, DELAY_RESULT_LIMIT=2, DELAY_MAX_WORKERS=1)
    app.register_blueprint(extension.status_blueprint(), url_prefix="/tasks")
    app.register_blueprint(
        extension.status_blueprint(name="told", results=True), url_prefix="/results"
    )
    app.register_blueprint(
        extension.status_blueprint(name="explained", errors=True), url_prefix="/errors"
    )
    return app


@pytest.fixture
def client(app):
    return app.test_client()


def submit(app, fn, *args):
    """A task's future, and its id, by which it is known from now on."""
    with app.app_context():
        future = delay(fn, *args)
    return future, future.id


def done(app, fn, *args):
    future, id = submit(app, fn, *args)
    assert app.extensions["delay"].executor.drain(20)
    return future, id


def fail(error):
    raise error


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("not even that")


class TestKnown:
    def test_from_the_start_to_the_end(self, app, client, deadline):
        told, go = threading.Event(), threading.Event()

        def work():
            current_task.progress(1, 3, "reading")
            told.set()
            return go.wait(deadline)

        running, id = submit(app, work)
        _, queued = submit(app, int)
        assert told.wait(deadline)
        answer = client.get(f"/tasks/{id}")
        assert (answer.status_code, answer.headers["Retry-After"]) == (200, "1")
        assert answer.get_json() == {
            "id": id,
            "state": "running",
            "progress": {"done": 1, "total": 3, "note": "reading"},
            "error": None,
        }
        assert client.get(f"/tasks/{queued}").get_json() == {
            "id": queued,
            "state": "pending",
            "progress": None,
            "error": None,
        }
        go.set()
        assert running.result(deadline) is True
        answer = client.get(f"/tasks/{id}")
        assert answer.status_code == 200
        assert "Retry-After" not in answer.headers
        # No result: nobody asked for it.
        assert answer.get_json() == {
            "id": id,
            "state": "finished",
            "progress": {"done": 1, "total": 3, "note": "reading"},
            "error": None,
        }

    def test_progress_of_a_loop(self, app, client, deadline):
        told, go = threading.Event(), threading.Event()

        def work():
            for number in track((number for number in range(3)), note="counting"):
                if number == 1:
                    told.set()
                    go.wait(deadline)

        future, id = submit(app, work)
        assert told.wait(deadline)
        progress = {"done": 1, "total": None, "note": "counting"}
        assert client.get(f"/tasks/{id}").get_json()["progress"] == progress
        go.set()
        future.result(deadline)
        progress = {"done": 3, "total": 3, "note": "counting"}
        assert client.get(f"/tasks/{id}").get_json()["progress"] == progress

    @pytest.mark.parametrize("number", [Decimal("0.5"), Fraction(1, 2)])
    def test_progress_in_numbers_that_json_does_not_know(self, app, client, number):
        _, id = done(app, lambda: current_task.progress(number, 1))
        assert client.get(f"/tasks/{id}").get_json()["progress"]["done"] == 0.5

    def test_failed(self, app, client):
        _, id = done(app, fail, ValueError("no file /srv/ann/taxes.pdf"))
        answer = client.get(f"/tasks/{id}")
        assert answer.status_code == 200
        # What an error says may be anything, and anybody may ask who has the id.
        assert answer.get_json() == {
            "id": id,
            "state": "finished",
            "progress": None,
            "error": {"class": "ValueError", "message": "the task failed"},
        }
        assert client.get(f"/results/{id}").get_json() == answer.get_json()
        error = {"class": "ValueError", "message": "no file /srv/ann/taxes.pdf"}
        assert client.get(f"/errors/{id}").get_json()["error"] == error

    def test_failed_with_an_error_that_cannot_be_told(self, app, client):
        _, id = done(app, fail, Unspeakable())
        answer = client.get(f"/errors/{id}")
        assert answer.get_json()["error"] == {"class": "Unspeakable", "message": ""}

    def test_error_that_is_long_or_has_a_password_in_it(self, app, client):
        url = "postgresql://shop:hunter2@db/shop"
        _, id = done(app, fail, OSError(f"cannot connect to {url}: " + "x" * 50_000_000))
        answer = client.get(f"/errors/{id}")
        message = answer.get_json()["error"]["message"]
        assert message.startswith("cannot connect to postgresql://shop:***@db/shop: xxx")
        assert (len(message), message[-4:]) == (1003, "x...")
        # A password that is cut off in the middle is masked too.
        _, id = done(app, fail, OSError("y" * 978 + f" {url}"))
        message = client.get(f"/errors/{id}").get_json()["error"]["message"]
        assert message.endswith("y postgresql://shop:***...")

    @pytest.mark.parametrize("escaped", [True, False])
    def test_text_that_is_no_unicode(self, app, client, escaped):
        app.json.ensure_ascii = escaped

        def work():
            current_task.progress(1, 2, "\udce9" + "x" * 1_000_000)
            raise ValueError("\ud800 é")

        _, id = done(app, work)
        answer = client.get(f"/errors/{id}")
        assert answer.status_code == 200
        assert len(answer.get_json()["progress"]["note"]) == 1003
        assert answer.get_json()["error"] == {"class": "ValueError", "message": "\\ud800 é"}

    def test_cancelled(self, app, client, deadline):
        go = threading.Event()
        submit(app, go.wait, deadline)
        future, id = submit(app, int)
        assert future.cancel()
        go.set()
        answer = client.get(f"/tasks/{id}")
        assert answer.status_code == 200
        assert answer.get_json()["state"] == "cancelled"
        assert "Retry-After" not in answer.headers

    def test_is_not_to_be_kept(self, app, client):
        _, id = done(app, int)
        for path in (f"/tasks/{id}", f"/tasks/{uuid.uuid4()}"):
            answer = client.get(path)
            assert answer.headers["Cache-Control"] == "no-store"
            assert answer.mimetype == "application/json"

    def test_head(self, app, client):
        _, id = done(app, int)
        answer = client.head(f"/tasks/{id}")
        assert (answer.status_code, answer.data) == (200, b"")
        assert client.head(f"/tasks/{uuid.uuid4()}").status_code == 404

    @pytest.mark.parametrize("method", ["post", "put", "delete", "patch"])
    def test_nothing_can_be_changed(self, app, client, method):
        _, id = done(app, int)
        assert getattr(client, method)(f"/tasks/{id}").status_code == 405

    def test_ids_are_random(self, app):
        ids = [submit(app, int)[1] for _ in range(20)]
        assert len(set(ids)) == 20
        assert {uuid.UUID(id).version for id in ids} == {4}


class TestResults:
    @pytest.mark.parametrize(
        ("result", "told"),
        [
            (None, None),
            ({"rows": [1, 2.5, "three", True]}, {"rows": [1, 2.5, "three", True]}),
            # What Flask's own encoder makes of it.
            (Decimal("1.5"), "1.5"),
            ((1, 2), [1, 2]),
            ("\ud800", "\ud800"),
        ],
    )
    def test_asked_for(self, app, client, result, told):
        _, id = done(app, lambda: result)
        body = client.get(f"/results/{id}").get_json()
        assert body["result"] == told
        assert "result_error" not in body

    def test_that_are_no_json(self, app, client):
        circle = []
        circle.append(circle)
        for result in (object(), circle, float("nan"), {1: {2}}, b"bytes", 10**5000):
            _, id = done(app, lambda result=result: result)
            answer = client.get(f"/results/{id}")
            assert answer.status_code == 200
            body = answer.get_json()
            assert body["result"] is None
            assert body["result_error"] == f"the result is no JSON: {type(result).__name__}"

    def test_that_is_no_unicode(self, app, client):
        app.json.ensure_ascii = False
        _, id = done(app, lambda: "\ud800")
        body = client.get(f"/results/{id}").get_json()
        assert (body["result"], body["result_error"]) == (None, "the result is no JSON: str")

    def test_is_encoded_once(self, app, client, monkeypatch):
        encoded = []

        class Rows:
            def __html__(self):
                encoded.append(1)
                return "rows"

        _, id = done(app, Rows)
        assert client.get(f"/results/{id}").get_json()["result"] == "rows"
        assert encoded == [1]

    def test_of_a_task_that_has_not_ended(self, app, client, deadline):
        go = threading.Event()
        _, id = submit(app, go.wait, deadline)
        assert "result" not in client.get(f"/results/{id}").get_json()
        go.set()


class TestUnknown:
    @pytest.mark.parametrize("id", [str(uuid.uuid4()), "nonsense", "%00", "%ff", "é", "x" * 5000])
    def test_id(self, client, id):
        answer = client.get(f"/tasks/{id}")
        assert answer.status_code == 404
        body = answer.get_json()
        assert body["state"] == "unknown"
        assert "in this process" in body["message"]
        assert "each knows its own tasks" in body["message"]

    def test_id_that_is_no_unicode(self, app, extension):
        with app.app_context():
            assert extension.get("\ud800") is None

    def test_forgotten(self, app, client):
        ids = [done(app, int)[1] for _ in range(3)]
        answer = client.get(f"/tasks/{ids[0]}")
        assert answer.status_code == 410
        assert answer.get_json()["state"] == "forgotten"
        assert "Retry-After" not in answer.headers
        assert [client.get(f"/tasks/{id}").status_code for id in ids[1:]] == [200, 200]

    def test_task_of_another_app(self, make_app, extension, app, client):
        other = make_app("other", extension)
        other.register_blueprint(extension.status_blueprint(), url_prefix="/tasks")
        _, id = done(app, int)
        assert other.test_client().get(f"/tasks/{id}").status_code == 404
        assert client.get(f"/tasks/{id}").status_code == 200


class TestWhere:
    def test_of_several_delays_on_one_app(self, make_app):
        app = make_app()
        default = app.extensions["delay"].owner
        reports = Delay(app, name="reports")
        for extension in (default, reports):
            app.register_blueprint(extension.status_blueprint(), url_prefix=f"/{extension.name}")
        id = reports.delay(int).id
        client = app.test_client()
        assert client.get(f"/reports/{id}").status_code == 200
        assert client.get(f"/delay/{id}").status_code == 404
        with app.test_request_context():
            assert url_for("reports_status.task", id=id) == f"/reports/{id}"

    def test_prefix_and_name(self, make_app):
        extension = Delay()
        # Before init_app, as in a factory.
        blueprint = extension.status_blueprint(name="jobs", url_prefix="/api/jobs")
        apps = [make_app(name, extension) for name in ("one", "two")]
        for app in apps:
            app.register_blueprint(blueprint)
            _, id = submit(app, int)
            assert app.test_client().get(f"/api/jobs/{id}").status_code == 200
            with app.test_request_context():
                assert url_for("jobs.task", id=id) == f"/api/jobs/{id}"

    def test_at_the_root_other_addresses_stay_free(self, make_app):
        extension = Delay()
        app = make_app(extension=extension)
        app.register_blueprint(extension.status_blueprint())
        app.add_url_rule("/<page>", view_func=lambda page: f"page {page}", endpoint="page")
        _, id = submit(app, int)
        client = app.test_client()
        assert client.get(f"/{id}").get_json()["id"] == id
        assert client.get("/about").get_data(as_text=True) == "page about"
        assert client.get(f"/{uuid.uuid4()}").get_json()["state"] == "unknown"

    def test_guarded_as_any_blueprint(self, make_app):
        extension = Delay()
        app = make_app(extension=extension)
        blueprint = extension.status_blueprint(url_prefix="/tasks")
        blueprint.before_request(lambda: ("who are you?", 401))
        app.register_blueprint(blueprint)
        _, id = submit(app, int)
        assert app.test_client().get(f"/tasks/{id}").status_code == 401

    def test_on_an_app_without_the_delay(self):
        app = Flask("app", static_folder=None)
        app.register_blueprint(Delay().status_blueprint(url_prefix="/tasks"))
        app.testing = True
        with pytest.raises(RuntimeError, match=r"not initialised on app 'app'"):
            app.test_client().get("/tasks/x")


def test_task_of_the_parent_process(run_script):
    done = run_script(
        """
import os, threading
from flask import Flask
from flask_delay import Delay

app = Flask("app", static_folder=None)
executor = Delay(app)
app.register_blueprint(executor.status_blueprint(), url_prefix="/tasks")
client = app.test_client()
go = threading.Event()
ended, running = executor.delay(int), executor.delay(go.wait, 20)
ids = [ended.id, running.id]
assert ended.result(20) == 0
pid = os.fork()
if not pid:
    answers = [client.get(f"/tasks/{id}") for id in ids]
    print([answer.status_code for answer in answers], flush=True)
    print("in this process" in answers[1].get_json()["message"], flush=True)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
go.set()
"""
    )
    assert (done.rc, done.err) == (0, "")
    # What had ended before the fork is known in both.
    assert done.out == "[200, 404]\nTrue\n"
