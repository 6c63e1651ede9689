"""`Delay.dashboard_blueprint`: who may see what, what is shown, and what a button does."""

import gc
import gzip
import html
import json
import re
import subprocess
import sys
import threading
import time
import weakref
from dataclasses import replace

import pytest
from flask import Flask, redirect

from flask_delay import Delay, current_task, dashboard_acted, delay, rights, task, using
from flask_delay._native import JournalUnavailable
from flask_delay.dashboard import lists, recorder

HERE = {"Sec-Fetch-Site": "same-origin"}
JSON = {"Accept": "application/json"}
EVIL = "<script>alert(1)</script>"

VIEWS = (
    "/",
    "/running",
    "/queue",
    "/failed",
    "/finished",
    "/jobs",
    "/names",
    "/processes",
)
# Each with the right that it needs.
ACTIONS = {
    "/tasks/x/stop": "stop",
    "/tasks/x/cancel": "cancel",
    "/tasks/x/retry": "retry",
    "/failed/retry": "retry",
    "/jobs/x/run": "run",
    "/jobs/x/pause": "pause",
    "/jobs/x/resume": "pause",
    "/names/x/pause": "pause",
    "/names/x/resume": "pause",
}


@task(durable=True)
def charge(order):
    raise ConnectionError(f"order {order}")


@task(durable=True)
def ship(order):
    return order


released = threading.Event()


@task(durable=True)
def hold():
    released.wait(20)


@task(durable=True)
def bill(order):
    if order % 2:
        raise LookupError(f"bill {order}")
    raise ValueError(f"bill {order}")


@pytest.fixture(autouse=True)
def _hear_no_more():
    """An app that some test has left in a circle would go on hearing signals."""
    yield
    recorder._recorders.clear()


class Door:
    """An `authorize` whose answer a test may change."""

    def __init__(self):
        self.says = "act"

    def __call__(self):
        return self.says


@pytest.fixture
def door():
    return Door()


@pytest.fixture
def extension():
    return Delay()


def mounted(make_app, extension, door, *, prefix="/admin/tasks", config=None, **options):
    app = make_app(extension=extension, DELAY_MAX_WORKERS=2, **(config or {}))
    app.register_blueprint(
        extension.dashboard_blueprint(authorize=door, **options), url_prefix=prefix
    )
    return app


@pytest.fixture
def app(make_app, extension, door):
    return mounted(make_app, extension, door)


@pytest.fixture
def durable_app(make_app, extension, door):
    return mounted(make_app, extension, door, config={"DELAY_JOURNAL": True})


class Visitor:
    """Gets and posts below the prefix of the page."""

    def __init__(self, app, prefix="/admin/tasks"):
        self._client = app.test_client()
        self._prefix = prefix

    def get(self, path, **kwargs):
        return self._client.get(self._prefix + path, **kwargs)

    def data(self, path):
        answer = self.get(path, headers=JSON)
        assert answer.status_code == 200, answer.text
        return answer.get_json()

    def post(self, path, data=None, headers=HERE, **kwargs):
        return self._client.post(self._prefix + path, data=data, headers=headers, **kwargs)


@pytest.fixture
def visitor(app):
    return Visitor(app)


def submit(app, fn, *args, **options):
    with app.app_context():
        return using(**options).delay(fn, *args) if options else delay(fn, *args)


def drained(app):
    assert app.extensions["delay"].drain(20)


def until_listed(visitor, path, count, wait_until):
    assert wait_until(lambda: len(visitor.data(path)["tasks"]) == count)
    return visitor.data(path)["tasks"]


def fail(error):
    raise error


class TestArguments:
    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ({}, "write authorize=None"),
            ({"authorize": "act"}, "this is 'act'"),
            ({"authorize": None, "redact": 1}, "redact must be callable"),
            ({"authorize": None, "actor": "me"}, "actor must be callable"),
            ({"authorize": None, "poll": "2"}, "poll is '2'"),
        ],
    )
    def test_a_wrong_type_is_refused_at_the_call(self, extension, given, says):
        with pytest.raises(TypeError, match=says):
            extension.dashboard_blueprint(**given)

    @pytest.mark.parametrize(
        "given",
        [
            {"poll": 0.5},
            {"poll": 61},
            {"environment": ("production", "red")},
            {"environment": ("production",)},
            {"environment": ("production", "#b3261e;}")},
        ],
    )
    def test_a_wrong_value_is_refused_at_the_call(self, extension, given):
        with pytest.raises(ValueError, match=next(iter(given))):
            extension.dashboard_blueprint(authorize=None, **given)

    def test_the_error_shows_both_ways(self, extension):
        with pytest.raises(TypeError) as raised:
            extension.dashboard_blueprint()
        for word in ("act", "read", "False", "authorize=None", *rights.VERBS):
            assert word in str(raised.value)

    def test_nothing_is_imported_before_the_call(self):
        code = (
            "import sys, flask_delay; flask_delay.Delay();"
            "assert not [it for it in sys.modules if 'flask_delay.dashboard' in it]"
        )
        subprocess.run([sys.executable, "-c", code], check=True)

    @pytest.mark.parametrize(("colour", "front"), [("#b3261e", "#ffffff"), ("#ffd400", "#000000")])
    def test_the_badge_can_be_read_on_its_colour(self, make_app, extension, door, colour, front):
        app = mounted(make_app, extension, door, environment=("production", colour))
        text = Visitor(app).get("/").text
        assert '<span class="environment">production</span>' in text
        style = Visitor(app).get(re.search(r"/assets/page\.\w+\.css", text)[0]).text
        assert f".environment{{background:{colour};color:{front}" in style


class TestRights:
    @pytest.mark.parametrize(
        "path", [*VIEWS, "/tasks/x", "/names/x", "/assets/x", "/tasks/x/stack"]
    )
    def test_no_rights_are_a_403_everywhere(self, visitor, door, path):
        for door.says in (False, None, "acts", "ACT", 1, {"delete"}, {"retry", "x"}):
            for answer in (visitor.get(path), visitor.get(path, headers=JSON), visitor.post(path)):
                assert answer.status_code in {403, 405}
                assert "link" not in answer.text
                assert "script" not in answer.text

    @pytest.mark.parametrize("path", VIEWS)
    def test_who_may_read_sees_no_button(self, visitor, door, path):
        for door.says in (True, "read", set(), ()):
            answer = visitor.get(path)
            assert answer.status_code == 200
            assert 'method="post"' not in answer.text
            assert "read-only" in answer.text

    @pytest.mark.parametrize(("path", "verb"), ACTIONS.items())
    def test_an_action_needs_its_own_right(self, visitor, door, path, verb):
        for it in ("read", *({it} for it in sorted(rights.VERBS)), "act", rights.VERBS):
            door.says = it
            answer = visitor.post(path)
            assert (answer.status_code != 403) == (it == "act" or verb in it)
            if it == "read":
                assert "but not" in answer.text

    @pytest.mark.parametrize("path", ACTIONS)
    def test_an_action_is_no_get(self, visitor, path):
        assert visitor.get(path).status_code in {404, 405}

    def test_a_response_is_returned_as_it_is(self, visitor, door):
        door.says = redirect("/login")
        answer = visitor.get("/")
        assert (answer.status_code, answer.headers["Location"]) == (302, "/login")
        assert "Content-Security-Policy" not in answer.headers

    def test_authorize_may_be_a_coroutine_function(self, make_app, extension):
        async def who():
            return "read"

        app = mounted(make_app, extension, who)
        assert Visitor(app).get("/").status_code == 200

    def test_none_is_read_only_for_all(self, make_app, extension):
        visitor = Visitor(mounted(make_app, extension, None))
        assert visitor.get("/").status_code == 200
        assert visitor.post("/failed/retry").status_code == 403


class TestOrigin:
    @pytest.mark.parametrize("host", ["shop.example", "shop.example:8080"])
    def test_only_a_page_of_this_host_may_act(self, visitor, host):
        for site, origin, allowed in (
            ("same-origin", None, True),
            ("same-origin", "https://evil.example", True),
            ("same-site", f"http://{host}", False),
            ("cross-site", f"http://{host}", False),
            ("none", None, False),
            ("", None, False),
            (None, f"http://{host}", True),
            (None, f"https://{host}", True),
            (None, "http://evil.example", False),
            (None, f"http://{host}.evil.example", False),
            (None, f"http://user@{host}", False),
            (None, "null", False),
            (None, "", False),
            (None, "http://[", False),
            (None, None, False),
        ):
            headers = {"Host": host}
            if site is not None:
                headers["Sec-Fetch-Site"] = site
            if origin is not None:
                headers["Origin"] = origin
            answer = visitor.post("/tasks/x/stop", headers=headers)
            assert answer.status_code == (404 if allowed else 403), (site, origin)
            if not allowed:
                assert "nothing was done" in answer.text
                assert "Origin" in answer.text or "Sec-Fetch-Site" in answer.text


class TestHeaders:
    @pytest.mark.parametrize("path", [*VIEWS, "/tasks/unknown"])
    def test_every_answer_has_them(self, visitor, path):
        self.check(visitor, path, "text/html")
        self.check(visitor, path, "application/json")

    def check(self, visitor, path, accept):
        headers = visitor.get(path, headers={"Accept": accept}).headers
        assert headers["Content-Security-Policy"] == (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
            " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["Referrer-Policy"] == "same-origin"
        assert headers["Cache-Control"] == "no-store"
        assert headers["Content-Type"].startswith(accept)

    def test_files_may_be_kept_and_are_small(self, visitor):
        text = visitor.get("/").text
        found = re.findall(r'(?:href|src)="/admin/tasks(/assets/[^"]+)"', text)
        # With the page itself they are 5 requests.
        assert len(found) == 4
        for path in found:
            answer = visitor.get(path)
            assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
            small = visitor.get(path, headers={"Accept-Encoding": "gzip"})
            assert small.headers["Content-Encoding"] == "gzip"
            assert gzip.decompress(small.data) == answer.data

    def test_no_page_has_a_style_or_a_script_of_its_own(self, app, visitor):
        submit(app, fail, ValueError("x"))
        drained(app)
        for path in VIEWS:
            text = visitor.get(path).text
            assert " style=" not in text
            assert "<style" not in text
            assert re.findall(r"<script(?! src=)", text) == []
            assert re.findall(r"\son\w+=", text) == []
            assert "http://" not in re.sub(r'xmlns="[^"]*"', "", text)


class TestTasks:
    def test_all_are_shown_whether_or_not_their_id_was_asked_for(self, app, visitor, deadline):
        started, go = threading.Event(), threading.Event()

        def export():
            current_task.progress(3, 10, "reading")
            started.set()
            go.wait(deadline)

        submit(app, export)
        assert started.wait(deadline)
        (shown,) = visitor.data("/running")["tasks"]
        assert (shown["name"].rpartition(".")[2], shown["state"]) == ("export", "running")
        assert shown["progress"] == {"done": 3, "total": 10, "note": "reading"}
        text = visitor.get("/running").text
        assert 'value="3"' in text
        assert "reading" in text
        assert visitor.get(f"/tasks/{shown['id']}").status_code == 200
        go.set()
        drained(app)
        assert visitor.data("/running")["tasks"] == []
        (ended,) = visitor.data("/finished")["tasks"]
        assert (ended["id"], ended["outcome"]) == (shown["id"], "finished")

    def test_a_failure_has_its_traceback_without_locals_and_arguments(self, app, visitor):
        def lookup(secret):
            fine = f"local {secret}"
            return {}[len(fine)]

        submit(app, lookup, "s3cret")
        drained(app)
        (shown,) = visitor.data("/failed")["tasks"]
        assert shown["error"]["class"] == "KeyError"
        assert "in lookup" in shown["error"]["traceback"]
        assert shown["durable"] is False
        for path in ("/failed", f"/tasks/{shown['id']}", "/"):
            text = visitor.get(path).text
            assert "KeyError" in text
            assert "s3cret" not in text
        assert 'class="own"' in visitor.get("/failed").text
        assert "not durable" in visitor.get("/failed").text

    def test_failures_are_grouped_and_filtered(self, app, visitor):
        for error in (ValueError("a"), ValueError("b"), KeyError("c")):
            submit(app, fail, error)
        drained(app)
        groups = visitor.data("/failed")["groups"]
        assert [(it["class"], it["count"]) for it in groups] == [("ValueError", 2), ("KeyError", 1)]
        assert len(visitor.data("/failed?class=KeyError")["tasks"]) == 1
        assert len(visitor.data("/failed?name=fail")["tasks"]) == 3
        assert visitor.data("/failed?name=other")["tasks"] == []
        assert "No known failure matches" in visitor.get("/failed?name=other").text

    def test_an_error_lets_its_frames_go(self, make_app, extension, door):
        app = mounted(make_app, extension, door, config={"DELAY_LOG_FAILURES": False})
        visitor = Visitor(app)

        class Big:
            pass

        def work():
            big = Big()
            seen.append(weakref.ref(big))
            raise ValueError(str(big)[:1])

        seen = []
        submit(app, work)
        drained(app)
        assert len(visitor.data("/failed")["tasks"]) == 1
        gc.collect()
        assert seen[0]() is None

    def test_a_password_is_masked(self, app, visitor):
        submit(app, fail, ConnectionError("redis://:hunter2@host/0"))
        drained(app)
        for path in VIEWS:
            assert "hunter2" not in visitor.get(path).text
            assert "hunter2" not in visitor.get(path, headers=JSON).text

    def test_what_waits_says_why(self, app, visitor, deadline):
        go, both = threading.Event(), threading.Barrier(3)

        def hold():
            both.wait(deadline)
            go.wait(deadline)

        for _ in range(2):
            submit(app, hold)
        both.wait(deadline)
        submit(app, int)
        data = visitor.data("/queue")
        assert [it["name"] for it in data["queued"]] == ["int"]
        assert "for a free worker" in visitor.get("/queue").text
        go.set()
        drained(app)
        submit(app, str, countdown=60)
        data = visitor.data("/queue")
        assert [it["name"] for it in data["held"]] == ["str"]
        assert data["counts"]["held"] == 1

    def test_the_stack_of_a_task_is_there_on_demand(self, app, visitor, deadline):
        started, go = threading.Event(), threading.Event()

        def waits_here():
            started.set()
            go.wait(deadline)

        future = submit(app, waits_here)
        assert started.wait(deadline)
        data = visitor.data(f"/tasks/{future.id}/stack")
        assert "in waits_here" in data["stack"][0]
        shown = visitor.get(f"/tasks/{future.id}/stack").text
        assert re.search(r'<pre class="own"> *File &quot;[^\n]*, in waits_here\n', shown)
        assert re.search(r"<pre> *File &quot;[^\n]*threading.py", shown)
        go.set()
        drained(app)
        assert visitor.data(f"/tasks/{future.id}/stack")["stack"] == []

    def test_the_stack_of_a_coroutine_is_its_own(self, app, visitor, wait_until):
        import asyncio

        async def awaits_here():
            await asyncio.Event().wait()

        future = submit(app, awaits_here)
        assert wait_until(lambda: visitor.data(f"/tasks/{future.id}/stack")["stack"])
        assert "in awaits_here" in "".join(visitor.data(f"/tasks/{future.id}/stack")["stack"])
        future.cancel()

    def test_arguments_are_there_if_asked_for(self, make_app, extension, door, deadline):
        app = mounted(make_app, extension, door, arguments=True)
        visitor = Visitor(app)
        started, go = threading.Event(), threading.Event()

        def hold(order, *, rush):
            started.set()
            go.wait(deadline)

        with app.app_context():
            delay(hold, 4711, rush="x" * 500)
        assert started.wait(deadline)
        (shown,) = visitor.data("/running")["tasks"]
        assert shown["arguments"].startswith("4711, rush='xxx")
        assert len(shown["arguments"]) <= 200
        go.set()

    def test_arguments_of_another_page_are_not_shown(self, app, extension, visitor):
        app.register_blueprint(
            extension.dashboard_blueprint(authorize=None, name="open", arguments=True),
            url_prefix="/open",
        )
        submit(app, int, 4711)
        drained(app)
        assert visitor.data("/finished")["tasks"][0]["arguments"] is None
        assert Visitor(app, "/open").data("/finished")["tasks"][0]["arguments"] == "4711"

    def test_redact_decides_what_is_seen(self, make_app, extension, door):
        def redact(view):
            return replace(view, error=view.error and ValueError("hidden"))

        app = mounted(make_app, extension, door, redact=redact)
        submit(app, fail, KeyError("4711 0000"))
        drained(app)
        visitor = Visitor(app)
        for path in VIEWS:
            assert "4711 0000" not in visitor.get(path).text
            assert "4711 0000" not in visitor.get(path, headers=JSON).text
        assert visitor.data("/failed")["groups"][0]["class"] == "ValueError"

    def test_what_users_write_is_text(self, app, visitor, deadline):
        started, go = threading.Event(), threading.Event()

        def work():
            current_task.progress(1, 2, EVIL)
            started.set()
            go.wait(deadline)

        def evil():
            raise type(EVIL, (Exception,), {})(EVIL)

        work.__qualname__ = evil.__qualname__ = EVIL
        future = submit(app, work, id="<b>1")
        submit(app, evil)
        assert started.wait(deadline)
        for path in (*VIEWS, f"/tasks/{future.id}", f"/names/{EVIL}", f"/failed?name={EVIL}"):
            text = visitor.get(path).text
            assert EVIL not in text
        assert html.escape(EVIL) in visitor.get("/running").text
        assert visitor.get(f"/tasks/{future.id}").status_code == 200
        go.set()

    def test_an_unknown_one_is_a_404_that_says_what_to_do(self, visitor):
        answer = visitor.get("/tasks/unknown")
        assert answer.status_code == 404
        assert "without a journal" in answer.text
        assert visitor.get("/tasks/unknown", headers=JSON).get_json()["message"]

    def test_an_empty_app_says_what_to_do(self, visitor):
        assert "Nothing runs" in visitor.get("/running").text
        assert "Submit one with" in visitor.get("/").text
        assert "using(every=60)" in visitor.get("/jobs").text

    def test_a_lone_process_says_that_it_is_alone(self, visitor):
        text = visitor.get("/").text
        assert "DELAY_JOURNAL = True" in text
        assert "alone" in text

    def test_names_have_their_figures_and_a_histogram(self, app, visitor):
        for _ in range(3):
            submit(app, int)
        drained(app)
        assert visitor.data("/names")["names"]["int"]["done"] == 3
        data = visitor.data("/names/int")
        assert sum(count for _, count in data["histograms"]["run"]) == 3
        assert "<rect" in visitor.get("/names/int").text
        assert visitor.get("/names/unknown").status_code == 404

    def test_a_function_has_its_failures_by_class_and_its_last_minutes(self, app, visitor):
        for error in (ValueError("x"), ValueError("y"), KeyError("z")):
            submit(app, fail, error)
        submit(app, int)
        drained(app)
        data = visitor.data("/names/fail")
        assert [(it["class"], it["count"]) for it in data["groups"]] == [
            ("ValueError", 2),
            ("KeyError", 1),
        ]
        assert sum(data["minutes"]) == 3
        text = visitor.get("/names/fail").text
        assert 'href="/admin/tasks/failed?name=fail&amp;class=ValueError"' in text
        assert "3 ended in 30 minutes" in text
        assert visitor.data("/names/int")["groups"] == []

    def test_every_link_leads_somewhere(self, app, visitor):
        submit(app, int)
        submit(app, fail, ValueError("x"))
        drained(app)
        seen, left = set(), ["/"]
        while left:
            path = left.pop()
            answer = visitor.get(path)
            assert answer.status_code == 200, path
            seen.add(path)
            if answer.mimetype == "text/html":
                found = re.findall(r'(?:href|src)="([^"#]+)', answer.text)
                assert all(it.startswith("/admin/tasks") for it in found)
                paths = {html.unescape(it).removeprefix("/admin/tasks") for it in found}
                left += paths - seen - set(left)
        assert len(seen) > 12


class TestLive:
    @pytest.mark.parametrize("path", VIEWS)
    def test_nothing_new_is_a_304(self, app, visitor, path):
        submit(app, fail, ValueError("x"))
        submit(app, int, countdown=60)
        drained_but_held(app)
        page = visitor.get(path)
        assert f'hx-get="/admin/tasks/live{path}"' in page.text
        first = visitor.get(f"/live{path}")
        tag = first.headers["HX-PTag"]
        assert f'hx-ptag="{tag}"' in page.text
        assert "<html" not in first.text
        again = visitor.get(f"/live{path}", headers={"HX-PTag": tag})
        assert (again.status_code, again.data) == (304, b"")

    def test_what_is_new_comes_with_another_tag(self, app, visitor):
        tag = visitor.get("/live/failed").headers["HX-PTag"]
        submit(app, fail, ValueError("new"))
        drained(app)
        answer = visitor.get("/live/failed", headers={"HX-PTag": tag})
        assert answer.status_code == 200
        assert "new" in answer.text
        assert answer.headers["HX-PTag"] != tag

    def test_filters_are_kept(self, app, visitor):
        submit(app, fail, ValueError("x"))
        drained(app)
        text = visitor.get("/failed?class=KeyError&name=x").text
        place = html.unescape(re.search(r'hx-get="([^"]*)"', text)[1])
        assert place == "/admin/tasks/live/failed?class=KeyError&name=x"
        assert "ValueError" not in visitor.get("/live/failed?class=KeyError").text.split("</ul>")[1]

    def test_a_form_in_it_leads_back_to_the_page(self, app, visitor):
        submit(app, int, countdown=60)
        assert 'name="back" value="queue"' in visitor.get("/live/queue").text
        assert visitor.get("/live/queue").text == fragment_of(visitor.get("/queue").text)

    def test_a_redirect_to_a_login_reloads_the_page(self, visitor, door):
        door.says = redirect("/login")
        answer = visitor.get("/live/running")
        assert (answer.status_code, answer.headers["HX-Refresh"]) == (401, "true")

    def test_a_fragment_of_fifty_rows_is_small(self, app, visitor):
        for n in range(lists.SHOWN + 10):
            submit(app, int, n, countdown=60)
        answer = visitor.get("/live/queue")
        assert answer.text.count("<tr") == lists.SHOWN + 1
        assert len(gzip.compress(answer.data)) <= 30_000


def fragment_of(text):
    """The part of a page that an update replaces."""
    return text.partition('data-poll="2.0">')[2].rpartition("</div>\n  <p class")[0]


def drained_but_held(app):
    """All tasks but those that wait for their time have ended."""
    executor = app.extensions["delay"].executor
    end = time.monotonic() + 20
    while executor.stats()["running"] or executor.stats()["queued"]:
        assert time.monotonic() < end
        time.sleep(0.001)


class TestActions:
    def test_a_task_that_runs_is_stopped(self, app, visitor, deadline, wait_until):
        started = threading.Event()

        def work():
            started.set()
            while True:
                current_task.check()
                time.sleep(0.001)

        submit(app, work)
        assert started.wait(deadline)
        (shown,) = visitor.data("/running")["tasks"]
        answer = visitor.post(f"/tasks/{shown['id']}/stop", {"back": "running"})
        assert answer.status_code == 303
        assert answer.headers["Location"] == "/admin/tasks/running?said=stop&count=1"
        assert "asked to stop" in visitor.get("/running?said=stop&count=1").text
        (ended,) = until_listed(visitor, "/finished", 1, wait_until)
        assert ended["outcome"] == "cancelled"
        assert visitor.post(f"/tasks/{shown['id']}/stop").status_code in {404, 409}

    def test_a_task_that_waits_is_cancelled(self, app, visitor):
        future = submit(app, int, countdown=60)
        id = visitor.data("/queue")["held"][0]["id"]
        assert visitor.post(f"/tasks/{id}/cancel").status_code == 303
        assert future.cancelled()

    def test_who_acted_is_logged_told_and_shown(self, make_app, extension, door, caplog):
        app = mounted(make_app, extension, door, actor=lambda: "ada")
        visitor, seen = Visitor(app), []

        def hear(_app, **told):
            seen.append(told)

        dashboard_acted.connect(hear, sender=app)
        future = submit(app, int, countdown=60)
        with caplog.at_level("INFO", logger="flask_delay.dashboard"):
            visitor.post(f"/tasks/{future.id}/cancel")
        assert seen == [{"verb": "cancel", "task": future.id, "actor": "ada"}]
        assert f"cancel {future.id}, by ada" in caplog.text
        found = visitor.data(f"/tasks/{future.id}")["timeline"]
        acts = [(it["kind"], it["actor"]) for it in found if it["is_act"]]
        assert acts == [("cancel", "ada")]
        assert "by ada" in visitor.get(f"/tasks/{future.id}").text

    @pytest.mark.parametrize(
        "back", ["//evil.example", "/evil", "\\evil", "https://evil.example", "x y", "../up\n"]
    )
    def test_nobody_is_sent_elsewhere(self, app, visitor, back):
        future = submit(app, int, countdown=60)
        answer = visitor.post(f"/tasks/{future.id}/cancel", {"back": back})
        place = answer.headers["Location"]
        assert place.startswith("/admin/tasks/")
        assert "evil.example" not in place or place.startswith("/admin/tasks/https:")

    def test_a_job_is_run_paused_and_resumed(self, app, visitor, wait_until):
        ran = threading.Event()

        def tidy():
            ran.set()

        job = submit(app, tidy, every=3600, key="tidy")
        (shown,) = visitor.data("/jobs")["jobs"]
        assert (shown["paused"], shown["schedule"]) == (False, "every 3600 s")
        assert visitor.post(f"/jobs/{job.id}/pause").status_code == 303
        assert job.paused
        shown = visitor.get("/jobs").text
        assert "Resume" in shown
        assert '<span title="every 3600 s">every hour</span>' in shown
        assert visitor.post(f"/jobs/{job.id}/resume").status_code == 303
        assert not job.paused
        assert visitor.post(f"/jobs/{job.id}/run").status_code == 303
        assert ran.wait(20)
        assert visitor.data("/jobs")["jobs"][0]["last"]["id"] == job.last.id
        assert visitor.post("/jobs/unknown/run").status_code == 404

    def test_a_job_that_goes_on_is_not_run_twice(self, app, visitor, deadline):
        started, go = threading.Event(), threading.Event()

        def slow():
            started.set()
            go.wait(deadline)

        job = submit(app, slow, every=3600, key="slow")
        visitor.post(f"/jobs/{job.id}/run")
        assert started.wait(deadline)
        answer = visitor.post(f"/jobs/{job.id}/run")
        assert answer.status_code == 409
        assert "goes on" in answer.text
        go.set()

    def test_without_a_journal_nothing_can_be_run_again_or_paused(self, app, visitor):
        submit(app, fail, ValueError("x"))
        drained(app)
        (shown,) = visitor.data("/failed")["tasks"]
        assert visitor.post(f"/tasks/{shown['id']}/retry").status_code == 404
        assert visitor.post("/names/fail/pause").status_code == 409

    def test_an_action_answers_with_json_too(self, app, visitor):
        future = submit(app, int, countdown=60)
        answer = visitor.post(f"/tasks/{future.id}/cancel", headers={**HERE, **JSON})
        done = {"done": "cancel", "count": 1, "message": "The task was cancelled."}
        assert (answer.status_code, answer.get_json()) == (200, done)
        answer = visitor.post(f"/tasks/{future.id}/cancel", headers={**HERE, **JSON})
        why = "The task has ended already, so it cannot be cancelled."
        assert (answer.status_code, answer.get_json()["message"]) == (409, why)

    def test_an_open_page_gets_a_note(self, app, visitor, door):
        future = submit(app, int, countdown=60)
        headers = {**HERE, "HX-Request": "true"}

        def told():
            answer = visitor.post(f"/tasks/{future.id}/cancel", headers=headers)
            assert answer.data == b""
            told = answer.headers.get("HX-Trigger")
            return answer.status_code, told and json.loads(told)["said"]

        assert told() == (204, {"text": "The task was cancelled.", "done": True})
        why = "The task has ended already, so it cannot be cancelled."
        assert told() == (409, {"text": why, "done": False})
        door.says = "read"
        status, said = told()
        assert (status, said["done"]) == (403, False)
        assert "but not cancel tasks" in said["text"]
        # A login is for the whole page.
        door.says = redirect("/login")
        assert told() == (401, None)

    def test_a_note_is_announced_and_shows_no_text_of_the_address(self, visitor):
        text = visitor.get("/running?said=stop").text
        assert re.search(r'role="status"><p class="banner good">The task was asked to stop', text)
        assert '<div id="said" role="status"></div>' in visitor.get("/running?said=x&count=9").text


class TestDurable:
    def test_a_failure_runs_again(self, durable_app, wait_until):
        visitor = Visitor(durable_app)
        with durable_app.app_context():
            charge.delay(1)
        (shown,) = until_listed(visitor, "/failed", 1, wait_until)
        assert (shown["durable"], shown["attempts"]) == (True, 1)
        assert "Retry" in visitor.get("/failed").text
        assert visitor.post(f"/tasks/{shown['id']}/retry").status_code == 303
        assert wait_until(
            lambda: [it["attempts"] for it in visitor.data("/failed")["tasks"]] == [2]
        )

    def test_a_task_that_did_not_fail_does_not_run_again(self, durable_app, wait_until):
        visitor = Visitor(durable_app)
        with durable_app.app_context():
            future = ship.delay(1)
        future.result(20)
        answer = visitor.post(f"/tasks/{future.id}/retry")
        assert answer.status_code == 409
        assert "Only a task that failed" in answer.text

    def test_all_that_match_run_again_after_a_page_with_their_number(self, durable_app, wait_until):
        visitor = Visitor(durable_app)
        with durable_app.app_context():
            for order in range(4):
                bill.delay(order)
            charge.delay(9)
        until_listed(visitor, "/failed", 5, wait_until)
        page = visitor.post("/failed/retry", {"all": "1", "class": "LookupError", "name": "bill"})
        assert page.status_code == 200
        assert "Run 2 tasks again?" in page.text
        assert all(it["attempts"] == 1 for it in visitor.data("/failed")["tasks"])
        ids = html.unescape(re.search(r'name="ids" value="([^"]*)"', page.text)[1])
        # As a browser sends it.
        form = {"confirmed": "1", "ids": ids.replace("\n", "\r\n"), "back": "failed?class=x"}
        done = visitor.post("/failed/retry", form)
        assert done.headers["Location"] == "/admin/tasks/failed?class=x&said=retry&count=2"
        assert "2 tasks run again" in visitor.get("/failed?said=retry&count=2").text

        def attempts():
            tasks = visitor.data("/failed")["tasks"]
            return sorted((it["error"]["class"], it["attempts"]) for it in tasks)

        again = [("ConnectionError", 1), *[("LookupError", 2)] * 2, *[("ValueError", 1)] * 2]
        assert wait_until(lambda: attempts() == again)

    def test_selected_ones_run_again(self, durable_app, wait_until):
        visitor = Visitor(durable_app)
        with durable_app.app_context():
            futures = [bill.delay(order) for order in range(3)]
        until_listed(visitor, "/failed", 3, wait_until)
        page = visitor.post("/failed/retry", {"some": "1", "id": [futures[0].id, "unknown"]})
        assert "Run 1 task again?" in page.text
        assert re.search(r"unknown</a></td>.*It is not known", page.text)
        assert "Nothing to run again" in visitor.post("/failed/retry", {"some": "1"}).text

    def test_those_that_do_not_run_again_are_named(self, durable_app, wait_until):
        visitor = Visitor(durable_app)
        with durable_app.app_context():
            future = ship.delay(1)
            failing = charge.delay(1)
        until_listed(visitor, "/failed", 1, wait_until)
        ids = f"{future.id}\n{failing.id}\nunknown"
        page = visitor.post("/failed/retry", {"confirmed": "1", "ids": ids})
        assert "1 of 3 tasks run again" in page.text
        assert future.id in page.text

    def test_a_pause_shows_everywhere_and_says_why_tasks_wait(self, durable_app, wait_until):
        visitor = Visitor(durable_app)
        name = f"{ship.__module__}.ship"
        assert visitor.post(f"/names/{name}/pause").status_code == 303
        with durable_app.app_context():
            future = ship.delay(1)
        assert wait_until(lambda: visitor.data("/queue")["held"])
        (held,) = visitor.data("/queue")["held"]
        assert (held["id"], held["waits"]) == (future.id, "paused")
        assert "until it is resumed" in visitor.get("/queue").text
        for path in ("/", "/queue"):
            assert f"{name} is paused" in visitor.get(path).text
        assert visitor.post(f"/names/{name}/resume").status_code == 303
        assert future.result(20) == 1

    def test_a_plain_task_names_its_limit_on_the_machine(self, durable_app, wait_until):
        visitor = Visitor(durable_app)
        with durable_app.app_context():
            # A durable task has the one place of the key.
            running = using(limit=1, key="mailbox").delay(hold)
            assert wait_until(running.running)
            plain = using(limit=1, key="mailbox", scope="machine").delay(abs, -3)
            try:
                reason = 'for its limit, key "mailbox": 1 of 1 run'
                assert wait_until(lambda: reason in html.unescape(visitor.get("/queue").text))
                (held,) = visitor.data("/queue")["held"]
                assert (held["name"], held["waits"], held["durable"]) == ("abs", "limit", False)
                assert reason in html.unescape(visitor.get(f"/tasks/{plain.id}").text)
            finally:
                released.set()
            assert plain.result(20) == 3
            released.clear()

    def test_a_durable_task_names_its_limit_its_rate_or_the_task_before_it(
        self, durable_app, wait_until
    ):
        visitor = Visitor(durable_app)
        with durable_app.app_context():
            first = using(countdown=60).delay(ship, 1)
            first.then(ship)
            using(rate="1/h", key="bell").delay(ship, 1).result(20)
            using(rate="1/h", key="bell").delay(ship, 2)
            one = using(limit=1, key="mailbox")
            name = f"{ship.__module__}.ship"
            visitor.post(f"/names/{name}/pause")
            running = one.delay(hold)
            one.delay(hold)
            try:
                assert wait_until(lambda: len(visitor.data("/queue")["held"]) == 4)
                text = html.unescape(re.sub("<[^>]*>", " ", visitor.get("/queue").text))
                assert 'for its limit, key "mailbox": 1 of 1 run' in text
                assert re.search(r'for its rate, key "bell": 1/h +(in|\d)', text), text
                assert f"after ship {first.id[:8]}" in text
            finally:
                released.set()
            running.result(20)
            visitor.post(f"/names/{name}/resume")

    def test_plain_tasks_of_this_process_are_in_the_list_of_all(self, durable_app, wait_until):
        visitor = Visitor(durable_app)
        submit(durable_app, fail, ValueError("x"))
        drained(durable_app)
        state = durable_app.extensions["delay"]
        assert wait_until(lambda: state.store.tasks(["failed"], None, 10, None))
        assert len(visitor.data("/failed")["tasks"]) == 1

    def test_long_lists_have_parts(self, durable_app, wait_until):
        visitor = Visitor(durable_app)
        with durable_app.app_context():
            futures = [ship.delay(n) for n in range(lists.SHOWN + 5)]
        for future in futures:
            future.result(20)
        state = durable_app.extensions["delay"]
        assert wait_until(lambda: len(state.store.tasks(["finished"], None, 99, None)) == 55)
        first = visitor.data("/finished")
        rest = visitor.data(f"/finished?before={first['before']}")
        assert len(first["tasks"]) == lists.SHOWN
        ids = {it["id"] for it in (*first["tasks"], *rest["tasks"])}
        assert ids == {future.id for future in futures}
        assert "Older tasks" in visitor.get("/finished").text

    def test_a_journal_that_cannot_be_read_is_said(self, durable_app, monkeypatch):
        visitor = Visitor(durable_app)

        def unreadable(*_, **__):
            raise JournalUnavailable("journal.db: disk I/O error")

        monkeypatch.setattr(durable_app.extensions["delay"].store, "listed", unreadable)
        answer = visitor.get("/running")
        assert answer.status_code == 503
        assert "cannot be read at the moment" in answer.text
        assert visitor.get("/running", headers=JSON).status_code == 503


class TestApps:
    def test_two_delays_on_one_app_have_their_own_tasks(self, make_app, extension, door):
        app = mounted(make_app, extension, door)
        reports = Delay(app, name="reports")
        app.register_blueprint(reports.dashboard_blueprint(authorize=door), url_prefix="/reports")
        submit(app, fail, ValueError("one"))
        with app.app_context():
            reports.delay(fail, KeyError("other"))
        drained(app)
        reports.drain(20)
        kinds = [
            [it["error"]["class"] for it in Visitor(app, prefix).data("/failed")["tasks"]]
            for prefix in ("/admin/tasks", "/reports")
        ]
        assert kinds == [["ValueError"], ["KeyError"]]
        assert {"delay_dashboard", "reports_dashboard"} <= set(app.blueprints)

    def test_it_may_be_registered_before_init_app(self, make_app, extension):
        page = extension.dashboard_blueprint(authorize=None)
        app = make_app(extension=extension)
        app.register_blueprint(page, url_prefix="/tasks")
        assert Visitor(app, "/tasks").get("/").status_code == 200

    def test_one_blueprint_serves_two_apps(self, make_app, extension):
        page = extension.dashboard_blueprint(authorize=None)
        apps = [make_app("one", extension), make_app("two", extension)]
        for app in apps:
            app.register_blueprint(page, url_prefix="/tasks")
        submit(apps[0], fail, ValueError("x"))
        drained(apps[0])
        assert [len(Visitor(it, "/tasks").data("/failed")["tasks"]) for it in apps] == [1, 0]

    def test_a_prefix_of_the_server_is_in_every_link(self, app):
        client = app.test_client()
        answer = client.get("/admin/tasks/running", environ_overrides={"SCRIPT_NAME": "/shop"})
        found = re.findall(r'(?:href|src|action)="([^"#]+)', answer.text)
        assert found
        assert all(it.startswith("/shop/admin/tasks/") for it in found)
        future = submit(app, int, countdown=60)
        done = client.post(
            f"/admin/tasks/tasks/{future.id}/cancel",
            data={"back": "queue"},
            headers=HERE,
            environ_overrides={"SCRIPT_NAME": "/shop"},
        )
        assert done.headers["Location"] == "/shop/admin/tasks/queue?said=cancel&count=1"

    @pytest.mark.parametrize("mode", ["immediate", "manual"])
    def test_it_works_in_the_modes_for_tests(self, make_app, extension, door, mode):
        app = mounted(make_app, extension, door, config={"DELAY_MODE": mode})
        submit(app, int)
        for path in VIEWS:
            assert Visitor(app).get(path).status_code == 200

    def test_a_token_of_the_host_is_in_every_form(self, app, visitor):
        app.jinja_env.globals["csrf_token"] = lambda: "t0ken"
        submit(app, int, countdown=60)
        text = visitor.get("/queue").text
        assert text.count('name="csrf_token" value="t0ken"') == text.count('method="post"') > 0

    def test_a_dropped_app_is_freed(self, extension):
        app = Flask("dropped", static_folder=None)
        extension.init_app(app)
        app.register_blueprint(extension.dashboard_blueprint(authorize=None), url_prefix="/t")
        for fn in (int, lambda: fail(ValueError("x"))):
            # Its future is kept, and keeps the app.
            assert submit(app, fn).id
        drained(app)
        assert app.test_client().get("/t/").status_code == 200
        app.extensions["delay"].shutdown(wait=True, cancel_futures=True)
        ref = weakref.ref(app)
        del app
        gc.collect()
        assert ref() is None
