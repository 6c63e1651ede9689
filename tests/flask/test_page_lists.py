"""The lists of the live page: order, parts and fields, and what an open page is told."""

import sqlite3
import threading
from contextlib import closing
from dataclasses import replace
from types import SimpleNamespace

import pytest
from tests.flask import page_costs
from tests.flask.test_dashboard import Visitor, fail, mounted, submit

from flask_delay import Delay, current_task, task, using
from flask_delay.dashboard import recorder
from flask_delay.dashboard.polls import Polls

released = threading.Event()


@task(durable=True, retry=3)
def refund(order):
    raise LookupError(f"order {order}")


@task(durable=True, timeout=600)
def hold(order):
    released.wait(20)
    return order


@task(durable=True)
def twice(order):
    return [order, order]


@pytest.fixture(autouse=True)
def _hear_no_more():
    released.clear()
    yield
    released.set()
    recorder._recorders.clear()


@pytest.fixture
def extension():
    return Delay()


@pytest.fixture
def app(make_app, extension):
    return mounted(make_app, extension, lambda: "act")


@pytest.fixture
def durable_app(make_app, extension):
    yield mounted(make_app, extension, lambda: "act", config={"DELAY_JOURNAL": True})
    # Before the app is closed, which waits for what runs.
    released.set()


@pytest.fixture
def filled(tmp_path):
    """An app with 2,000 rows, of which many have ended in the same microsecond."""
    path = tmp_path / "journal.db"
    page_costs.fill(path, page_costs.space(), 2_000)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE task SET ended_at = ended_at / 1000 * 1000 WHERE state > 5")
    app = page_costs.make_app(tmp_path)
    yield app
    app.extensions["delay"].shutdown(wait=True, cancel_futures=True)


def all_parts(visitor, path):
    found, before = [], ""
    while before is not None:
        mark = "&" if "?" in path else "?"
        part = visitor.data(f"{path}{mark}before={before}")
        found += part["tasks"]
        before = part["before"]
    return found


class TestOrder:
    @pytest.mark.parametrize(
        ("path", "where"),
        [
            ("/finished", "state IN (6, 8)"),
            ("/failed", "state IN (7, 9)"),
            ("/failed?class=shop.Missing3", "state IN (7, 9) AND error LIKE '%Missing3\"%'"),
            ("/failed?name=work7", "state IN (7, 9) AND function.name LIKE '%.work7'"),
            ("/finished?name=work7", "state IN (6, 8) AND function.name LIKE '%.work7'"),
        ],
    )
    def test_parts_by_the_end_neither_skip_nor_repeat(self, filled, path, where):
        found = all_parts(Visitor(filled, "/tasks"), path)
        store = filled.extensions["delay"].store
        with closing(sqlite3.connect(store.path)) as connection:
            rows = connection.execute(
                f"SELECT id FROM task JOIN function USING (function) WHERE {where}"
                " AND task.application = (SELECT max(application) FROM application)"
                " ORDER BY ended_at DESC, sequence DESC"
            ).fetchall()
        assert [it["id"] for it in found] == [id for (id,) in rows]
        assert len(found) > 0

    def test_failures_are_counted_by_class_in_all_of_them(self, filled):
        visitor = Visitor(filled, "/tasks")
        groups = visitor.data("/failed")["groups"]
        assert sorted(it["class"] for it in groups) == [f"shop.Missing{n}" for n in range(5)]
        for group in groups:
            assert group["count"] == len(all_parts(visitor, f"/failed?class={group['class']}"))

    @pytest.mark.parametrize("before", ["x", "1", "1.x", "-1.2", "9" * 30 + ".1", "1.2.3.4"])
    def test_an_address_that_tells_no_place_does_no_harm(self, filled, before):
        assert Visitor(filled, "/tasks").get(f"/finished?before={before}").status_code == 200

    def test_what_waits_comes_in_the_order_of_the_starts(self, durable_app, wait_until):
        visitor = Visitor(durable_app)
        with durable_app.app_context():
            for n in range(2):
                hold.delay(n)
            assert wait_until(lambda: len(visitor.data("/running")["tasks"]) == 2)
            late = hold.delay(3)
            first = using(priority=9).delay(hold, 4)
            held = [using(countdown=time).delay(hold, time).id for time in (90, 30, 60)]
        data = visitor.data("/queue")
        assert [it["id"] for it in data["queued"]] == [first.id, late.id]
        assert [it["id"] for it in data["held"]] == [held[1], held[2], held[0]]
        assert [it["priority"] for it in data["queued"]] == [9, 0]
        assert "priority 9" in visitor.get("/queue").text
        assert visitor.data("/queue?name=other")["queued"] == []

    def test_plain_tasks_that_the_journal_lacks_stand_between_its_own(self, make_app, extension):
        # With the default file alone, plain tasks are not in it.
        app = mounted(make_app, extension, lambda: "act", config={"DELAY_JOURNAL": None})
        ids = []
        with app.app_context():
            for n in range(3):
                future = twice.delay(n)
                future.result(20)
                ids.append(future.id)
                plain = extension.delay(int, n)
                plain.result(20)
                ids.append(plain.id)
        assert extension.drain(20)
        found = Visitor(app).data("/finished")["tasks"]
        assert [it["id"] for it in found] == ids[::-1]


class TestFilter:
    def test_an_id_leads_to_its_task(self, filled):
        visitor = Visitor(filled, "/tasks")
        for path in ("/queue", "/failed", "/finished"):
            id = visitor.data("/finished")["tasks"][0]["id"]
            answer = visitor.get(f"{path}?name=%20{id}")
            assert (answer.status_code, answer.headers["Location"]) == (303, f"/tasks/tasks/{id}")
            # One that nobody has is the name of no function.
            answer = visitor.get(f"{path}?name={id[:-4]}0000")
            assert answer.status_code == 200

    def test_the_queue_shows_one_function_alone(self, durable_app):
        visitor = Visitor(durable_app)
        with durable_app.app_context():
            wanted = hold.using(countdown=60).delay(1)
            twice.using(countdown=60).delay(1)
        (it,) = visitor.data("/queue?name=hold")["held"]
        assert it["id"] == wanted.id
        text = visitor.get("/queue?name=hold").text
        assert "None of hold." in text
        assert "more" not in text.partition('id="held"')[2]

    def test_the_functions_of_the_app_are_offered(self, durable_app):
        text = Visitor(durable_app).get("/failed").text
        offered = text.partition('<datalist id="functions">')[2].partition("</datalist>")[0]
        assert '<option value="hold">' in offered
        assert '<option value="refund">' in offered


class TestFields:
    def test_a_task_that_runs(self, durable_app, wait_until):
        visitor = Visitor(durable_app)
        with durable_app.app_context():
            using(limit=1, rate="9/m", key="mailbox").delay(hold, 1)
        # The journal has it running before its worker has begun.
        assert wait_until(lambda: any(it["thread"] for it in visitor.data("/running")["tasks"]))
        (shown,) = visitor.data("/running")["tasks"]
        assert shown["pid"] > 0
        assert shown["thread"].startswith("delay")
        assert shown["deadline"] > shown["started_at"]
        assert shown["lane"] == {"name": 'key "mailbox"', "running": 1, "limit": 1, "rate": "9/m"}
        text = visitor.get("/running").text
        assert "1 of 1 run, 9/m" in text
        assert f">{shown['pid']} " in text

    def test_a_task_that_failed_and_runs_again(self, durable_app, wait_until):
        visitor = Visitor(durable_app)
        with durable_app.app_context():
            refund.delay(1)
        assert wait_until(lambda: visitor.data("/queue")["held"])
        (shown,) = visitor.data("/queue")["held"]
        assert (shown["attempts"], shown["most_attempts"], shown["waits"]) == (1, 4, "scheduled")
        assert "for attempt 2 of 4" in visitor.get("/queue").text

    def test_arguments_of_the_journal_are_those_of_the_row(self, make_app, extension):
        app = mounted(
            make_app, extension, lambda: "act", config={"DELAY_JOURNAL": True}, arguments=True
        )
        with app.app_context():
            future = using(countdown=90).delay(twice, {"sku": "x" * 500})
        (shown,) = Visitor(app).data("/queue")["held"]
        assert shown["id"] == future.id
        assert shown["arguments"].startswith('{"sku": "xxx')
        assert len(shown["arguments"]) == 200

    def test_a_plain_task_says_what_it_waits_for(self, app, deadline):
        visitor = Visitor(app)
        go, started = threading.Event(), threading.Event()

        def work():
            started.set()
            go.wait(deadline)

        one = {"limit": 1, "key": "bell"}
        submit(app, work, **one)
        assert started.wait(deadline)
        behind = submit(app, work, **one)
        later = submit(app, int, countdown=60)
        with app.app_context():
            after = behind.then(str)
        shown = {it["id"]: it for it in visitor.data("/queue")["held"]}
        assert shown[behind.id]["waits"] == "limit"
        assert shown[behind.id]["lane"]["running"] == 1
        assert (shown[later.id]["waits"], shown[later.id]["due"] is None) == ("scheduled", False)
        assert shown[after.id]["waits"] == f"after {behind.name} {behind.id[:8]}"
        text = visitor.get("/queue").text
        assert "for its limit, key &quot;bell&quot;: 1 of 1 run" in text
        go.set()

    def test_a_plain_task_that_runs_has_a_deadline_and_its_place(self, app, deadline):
        started, go = threading.Event(), threading.Event()

        def work():
            started.set()
            go.wait(deadline)

        submit(app, work, timeout=60, priority=3)
        assert started.wait(deadline)
        (shown,) = Visitor(app).data("/running")["tasks"]
        assert shown["deadline"] > shown["started_at"]
        assert shown["priority"] == 3
        assert shown["pid"] > 0
        go.set()


class Poll:
    """An open page."""

    def __init__(self, app, path, prefix="/admin/tasks", **headers):
        self._visitor, self._path, self._headers = Visitor(app, prefix), f"/live{path}", headers
        self._tag = self._get().headers["HX-PTag"]

    def _get(self, **more):
        return self._visitor.get(self._path, headers={**self._headers, **more})

    def is_new(self):
        """Whether there is something new. The page has it then."""
        answer = self._get(**{"HX-PTag": self._tag})
        self._tag = answer.headers.get("HX-PTag", self._tag)
        assert answer.status_code in {200, 304}
        return answer.status_code == 200


class TestPolls:
    def test_each_change_of_a_plain_task_is_news_and_nothing_else(self, app, deadline, wait_until):
        running, queue = Poll(app, "/running"), Poll(app, "/queue")
        assert not running.is_new()
        go, more, started = threading.Event(), threading.Event(), threading.Event()

        def work():
            started.set()
            more.wait(deadline)
            current_task.progress(1, 2)
            started.clear()
            go.wait(deadline)

        future = submit(app, work)
        assert started.wait(deadline)
        assert running.is_new()
        assert not running.is_new()
        more.set()
        assert wait_until(lambda: future.progress is not None)
        assert running.is_new()
        go.set()
        future.result(deadline)
        assert app.extensions["delay"].drain(deadline)
        assert wait_until(running.is_new)
        later = submit(app, int, countdown=60)
        assert queue.is_new()
        assert not queue.is_new()
        later.cancel()
        assert queue.is_new()
        assert not queue.is_new()
        assert not running.is_new()

    def test_each_change_of_the_journal_is_news(self, durable_app, wait_until):
        with durable_app.app_context():
            polls = {path: Poll(durable_app, path) for path in ("/running", "/queue", "/failed")}
            one = hold.delay(1)
            assert wait_until(polls["/running"].is_new)
            released.set()
            one.result(20)
            assert wait_until(polls["/running"].is_new)
            durable_app.extensions["delay"].owner.pause("twice")
            assert polls["/queue"].is_new()
            twice.delay(1)
            assert wait_until(polls["/queue"].is_new)
            refund.delay(2)
            assert wait_until(polls["/queue"].is_new)

    def test_what_another_process_does_is_news(self, filled):
        poll = Poll(filled, "/queue", "/tasks")
        assert not poll.is_new()
        store = filled.extensions["delay"].store
        with closing(sqlite3.connect(store.path)) as connection, connection:
            connection.execute("UPDATE task SET state = 4 WHERE state = 0 AND sequence % 3 = 0")
        assert poll.is_new()
        assert not poll.is_new()

    def test_without_news_no_task_is_looked_at(self, filled, monkeypatch):
        polls = "flask_delay.dashboard.polls"
        # A page is also made anew when a minute of this clock is over, and by events of an app
        # whose tasks outlive its test.
        monkeypatch.setattr(f"{polls}.time", SimpleNamespace(monotonic=lambda: 1_000.0))
        monkeypatch.setattr(f"{polls}._events_counted", lambda: 7)
        paths = ("/queue", "/failed", "/finished", "/running", "/names/work7")
        open_pages = [Poll(filled, path, "/tasks") for path in paths]
        assert not any(poll.is_new() for poll in open_pages)

        def refused(*_, **__):
            raise AssertionError("a task was looked at")

        for name in ("listed", "newest", "classes", "tasks"):
            monkeypatch.setattr(filled.extensions["delay"].store, name, refused)
        assert not any(poll.is_new() for poll in open_pages)

    @pytest.mark.parametrize(
        ("page", "is_news"), [("queue", False), ("names", False), ("overview", True)]
    )
    def test_another_worker_is_news_where_workers_are_shown(self, monkeypatch, page, is_news):
        polls = "flask_delay.dashboard.polls"
        monkeypatch.setattr(f"{polls}.time", SimpleNamespace(monotonic=lambda: 1_000.0))
        monkeypatch.setattr(f"{polls}._events_counted", lambda: 7)
        figures = {"queued": 0, "held": 0, "running": 0, "threads": 1, "stuck": 0}
        state = SimpleNamespace(
            executor=SimpleNamespace(stats=lambda: figures),
            store=SimpleNamespace(version=lambda: None),
        )
        known = Polls()
        before = known.pulse(page, state, news=0)
        assert known.pulse(page, state, news=0) == before
        figures["threads"] = 2
        assert (known.pulse(page, state, news=0) != before) == is_news

    def test_a_job_that_is_paused_is_news(self, app):
        job = submit(app, int, every=3600, key="tidy")
        poll = Poll(app, "/jobs")
        assert not poll.is_new()
        job.pause()
        assert poll.is_new()

    def test_rights_and_filters_have_tags_of_their_own(self, make_app, extension):
        says = ["read"]
        app = mounted(make_app, extension, lambda: says[0])
        poll = Poll(app, "/running")
        assert not poll.is_new()
        says[0] = "act"
        assert poll.is_new()

    def test_visitors_who_see_different_things_have_different_tags(self, make_app, extension):
        def redact(view):
            from flask import request

            return replace(view, name=request.authorization.username)

        app = mounted(make_app, extension, lambda: "read", redact=redact)
        submit(app, fail, ValueError("x"))
        assert app.extensions["delay"].drain(20)
        ada, bob = "Basic YWRhOng=", "Basic Ym9iOng="
        poll = Poll(app, "/failed", Authorization=ada)
        assert not poll.is_new()
        poll._headers["Authorization"] = bob
        assert poll.is_new()
        assert not poll.is_new()


def test_a_function_has_one_name(durable_app, wait_until):
    visitor = Visitor(durable_app)
    with durable_app.app_context():
        future = twice.delay(1)
        future.result(20)
    assert future.name == "twice"
    for name in ("twice", f"{__name__}.twice"):
        assert visitor.data(f"/names/{name}")["tasks"][0]["id"] == future.id
        assert visitor.data(f"/finished?name={name}")["tasks"][0]["id"] == future.id
    assert "twice" in visitor.data("/names")["durable"]
