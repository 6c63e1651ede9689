"""Plain tasks that another process has, on the page of the one that answers."""

import signal
import time

import pytest
from tests.journal.test_elsewhere import Pair

CODE = """
from flask_delay import Retry

def html(path):
    return app.test_client().get(f"/page{path}").get_data(as_text=True)

def get(path):
    return ask("GET", path)[1]

@task
def later(*args):
    return args

@task(limit=1)
def alone(name):
    while not (folder / name).exists():
        current_task.check()
        time.sleep(0.01)

def wait_quietly(name):
    # Not as `plain_wait`, which asks for its own id.
    while not (folder / name).exists():
        current_task.check()
        time.sleep(0.01)

def computes():
    time.sleep(60)

@task
def fail_once():
    raise OSError("not yet")

def live(path, tag=""):
    answer = app.test_client().get(f"/page/live{path}", headers={"HX-PTag": tag})
    return answer.status_code, answer.headers.get("HX-PTag")

HOSTILE = "<script>alert(1)</script>\\u202e\\udcff" + "x" * 2_000
"""


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two processes with a page each, as the workers of a server."""
    pair = Pair(tmp_path_factory.mktemp("others"), CODE, mounts=True)
    yield pair
    pair.end()


@pytest.fixture
def worker(pair):
    return pair.worker


@pytest.fixture
def page(pair):
    return pair.page


@pytest.fixture(autouse=True)
def _leave_nothing(pair):
    """Whatever became of a test, the next one finds no task of it that waits."""
    yield
    pair.worker("waits.cancel() if 'waits' in globals() else None")


@pytest.fixture
def busy(worker, until):
    """The only worker of the other process runs a task whose id nobody has asked for."""
    worker("stuck = delay(wait_quietly, 'busy')")
    until(worker, "stuck.running()")
    yield
    worker("stuck.stop(0)")
    until(worker, "stuck.done()")


def told(page, path, kind):
    """The tasks of a list by their ids."""
    return {it["id"]: it for it in page(f"get({path!r})[{kind!r}]")}


class TestQueue:
    def test_one_that_waits_for_a_worker(self, page, worker, busy):
        worker("waits = later.using(priority=3).delay()")
        id = worker("waits._quiet_id()")
        (view,) = told(page, "/queue", "queued").values()
        assert (view["id"], view["name"], view["waits"]) == (id, "later", "ready")
        assert (view["pid"], view["durable"], view["priority"]) == (worker.pid, False, 3)
        counts = page("get('/queue')['counts']")
        assert (counts["queued"], counts["oldest_waiting_since"][:19]) == (
            1,
            view["enqueued_at"][:19],
        )
        assert page("get('/')['counts']['queued']") == 1
        assert page("get('/queue?name=later')['queued']")
        assert not page("get('/queue?name=other')['queued']")
        text = page("html('/queue')")
        assert f'id="t-{id}"' in text
        assert str(worker.pid) in text
        worker("waits.cancel()")
        assert page("get('/queue')['queued']") == []

    def test_those_that_are_held_with_the_reasons(self, page, worker, until, wait_until):
        worker("again = using(retry=Retry(2, waits=[600])).delay(fail_once)")
        until(worker, "again.attempts == 1 and again.state == 'pending'")
        worker("runs = delay(alone, 'held')")
        until(worker, "runs.running()")
        worker(
            "held = [later.using(countdown=600).delay(), alone.delay('held'), runs.then(later),"
            " again]"
        )
        first, *ids = worker("[it._quiet_id() for it in (runs, *held)]")
        assert wait_until(lambda: len(told(page, "/queue", "held")) == 4)
        waits = [told(page, "/queue", "held")[id]["waits"] for id in ids]
        assert waits[:3] == ["scheduled", "limit", f"after alone {first[:8]}"]
        assert page(
            f"[it['attempts'] for it in get('/queue')['held'] if it['id'] == {ids[3]!r}]"
        ) == [1]
        assert page("get('/queue')['counts']['held']") == 4
        text = page("html('/queue')")
        assert "for its limit, alone: 1 of 1 run" in text
        worker("[it.cancel() for it in held]; go('held')")
        until(worker, "runs.done()")

    def test_its_row_of_the_journal_says_no_less(self, page, worker, until):
        """Once its id was asked for, the journal has it, without the reason."""
        id = worker("(waits := later.using(countdown=600).delay()).id")
        until(page, f"executor._view({id!r}) is not None")
        view = told(page, "/queue", "held")[id]
        assert (view["waits"], view["pid"]) == ("scheduled", worker.pid)
        assert told(page, "/queue", "queued") == {}
        assert page(f"get('/tasks/{id}')['task']['waits']") == "scheduled"
        worker("waits.cancel()")

    def test_more_than_are_shown(self, page, worker, busy):
        worker("many = [later.delay() for _ in range(70)]")
        counts, queued = page("(it := get('/queue'))['counts'], it['queued']")
        assert (counts["queued"], len(queued)) == (70, 50)
        ids = worker("[it._quiet_id() for it in many[:50]]")
        assert [it["id"] for it in queued] == ids
        assert "and 20 more" in page("html('/queue')")
        worker("[it.cancel() for it in many]")

    def test_a_button_of_it(self, page, worker, busy):
        worker("waits = later.delay()")
        id = worker("waits._quiet_id()")
        assert page(f"post('/tasks/{id}/cancel')") == (200, "cancel")
        assert worker("waits.cancelled()")


class TestRunning:
    def test_whose_id_nobody_has_asked_for(self, pair, page, worker, busy):
        id = worker("stuck._quiet_id()")
        (view,) = told(page, "/running", "tasks").values()
        assert (view["id"], view["name"], view["pid"]) == (id, "wait_quietly", worker.pid)
        assert view["thread"]
        assert page("get('/running')['count'], get('/')['counts']['running']") == (1, 1)
        # To look at it tells the journal nothing.
        assert pair.rows("SELECT count(*) FROM task WHERE id = ?", id) == [(0,)]

    def test_in_a_worker_process(self, page, worker, until):
        worker("computes = using(backend='processes').delay(computes)")
        until(worker, "computes.running()")
        id = worker("computes._quiet_id()")
        view = told(page, "/running", "tasks")[id]
        assert (view["name"], view["pid"]) == ("computes", worker.pid)
        assert page(f"get('/tasks/{id}')['task']['state']") == "running"
        until(page, f"'in computes' in stack({id!r})[1]")
        assert page(f"post('/tasks/{id}/stop')") == (200, "stop")
        until(worker, "computes.done()")


class TestTask:
    def test_its_page_and_its_end(self, page, worker, until):
        worker("waits = delay(wait_quietly, 'its-page')")
        id = worker("waits._quiet_id()")
        until(page, f"get('/tasks/{id}')['task']['state'] == 'running'")
        page("go('its-page')")
        until(page, f"get('/tasks/{id}')['task']['state'] == 'finished'")

    def test_an_unknown_one(self, page):
        began = time.monotonic()
        assert page("ask('GET', '/tasks/unknown')[0]") == 404
        assert time.monotonic() - began < 5


class TestQuestions:
    def test_without_news_nobody_is_asked(self, pair, page, worker, wait_until):
        """Whichever process answers: to ask the others is not news for their pages."""
        worker("waits = later.using(countdown=600).delay()")
        for process in (page, worker):
            process("asked = 0")
            process(
                "import flask_delay.journal.store as stores; others = stores.Store.others\n"
                "def counted(store):\n"
                "    global asked\n"
                "    asked += 1\n"
                "    return others(store)\n"
                "stores.Store.others = counted"
            )
        for path in ("/queue", "/running"):
            tags = {process: process(f"live({path!r})")[1] for process in (page, worker)}
            for _ in range(3):
                for process in (page, worker):
                    process(f"live({path!r}, {tags[process]!r})")

            def is_quiet(path=path, tags=tags):
                before = page("asked"), worker("asked")
                answers = [it(f"live({path!r}, {tags[it]!r})")[0] for it in (page, worker)]
                return answers == [304, 304] and before == (page("asked"), worker("asked"))

            assert wait_until(is_quiet)
            # And it stays so.
            assert is_quiet()
        worker("waits.cancel()")
        assert "delay-command" not in page("threads()")

    def test_news_of_another_process_come_to_an_open_page(self, page, worker, wait_until):
        tag = page("live('/queue')")[1]
        assert wait_until(lambda: page(f"live('/queue', {tag!r})")[0] == 304)
        worker("waits = later.using(countdown=600).delay()")
        assert wait_until(lambda: page(f"live('/queue', {tag!r})")[0] == 200)
        worker("waits.cancel()")

    def test_a_stopped_process_is_named(self, page, worker, wait_until):
        worker("waits = later.using(countdown=600).delay()")
        assert wait_until(lambda: page("get('/queue')['silent']") == [])
        worker.signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            answer = page("get('/queue')")
            # The bound is a tenth of a second, and the machine may be busy.
            assert time.monotonic() - began < 5
            assert (answer["silent"], answer["held"]) == ([worker.pid], [])
            assert f"Process {worker.pid} did not answer" in page("html('/queue')")
            for path in ("/", "/running"):
                assert page(f"get({path!r})['silent']") == [worker.pid]
            # An open page does not stay so.
            tag = page("live('/queue')")[1]
        finally:
            worker.signal(signal.SIGCONT)
        assert wait_until(lambda: page(f"live('/queue', {tag!r})")[0] == 200)
        assert wait_until(lambda: page("get('/queue')['silent']") == [])
        worker("waits.cancel()")

    def test_a_dead_process_is_not_asked(self, pair, page, until, wait_until):
        other = pair.start(CODE + "mount()\n")
        other("waits = delay(wait_quietly, 'never')")
        until(other, "waits.running()")
        id = other("waits._quiet_id()")
        assert id in told(page, "/running", "tasks")
        other.kill()
        assert wait_until(lambda: id not in told(page, "/running", "tasks"))
        assert page("get('/running')['silent']") == []


class TestHostile:
    def test_texts_are_cut_and_escaped(self, page, worker):
        worker("waits = using(countdown=600, limit=1, key=HOSTILE).delay(later)")
        id = worker("waits._quiet_id()")
        # A function's name has no such text, unless something else writes the file.
        worker("import json, flask_delay.observe.others as told; encoded = told.encoded")
        worker("named = json.dumps(HOSTILE)")
        worker("told.encoded = lambda *it: encoded(*it).replace('\"later\"', named)")
        view = told(page, "/queue", "held")[id]
        assert view["name"].startswith("<script>")
        assert len(view["name"]) == 500
        assert len(view["lane"]["name"]) <= 500
        for path in ("/queue", f"/tasks/{id}"):
            text = page(f"html({path!r})")
            assert "<script>alert" not in text
            assert "&lt;script&gt;alert" in text
        worker("told.encoded = encoded; waits.cancel()")

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "null",
            "[]",
            '{"app": "SPACE", "running": [1, [{}]], "queued": [0, []], "held": [0, []]}',
            '{"app": "SPACE", "running": [-1, []], "queued": [0, []], "held": [0, []]}',
            "[" * 100_000,
        ],
    )
    def test_an_answer_that_cannot_be_read(self, pair, page, worker, text):
        space = page("executor._state().store._space")
        worker("import flask_delay.observe.others as told; encoded = told.encoded")
        worker(f"told.encoded = lambda *_: {text.replace('SPACE', space)!r}")
        try:
            assert page("get('/queue')['silent']") == [worker.pid]
        finally:
            worker("told.encoded = encoded")


class TestRedaction:
    def test_of_arguments(self, pair, page, worker):
        """Another process may keep them; a page without `arguments` does not show them."""
        worker("import flask_delay.dashboard.recorder as recorders")
        worker("recorders.of(app).keep_arguments()")
        worker("waits = later.using(countdown=600).delay('secret')")
        id = worker("waits._quiet_id()")
        assert told(page, "/queue", "held")[id]["arguments"] is None
        other = pair.start(
            f"{CODE}from dataclasses import replace\n"
            "app.register_blueprint(executor.dashboard_blueprint(authorize=None, arguments=True,"
            " redact=lambda view: replace(view, name='hidden')), url_prefix='/page')\n"
        )
        view = told(other, "/queue", "held")[id]
        assert (view["arguments"], view["name"]) == ("'secret'", "hidden")
        other.end()


class TestLinks:
    def test_of_plain_tasks_during_and_after(self, page, worker, until):
        worker("first = delay(plain_wait, 'links'); then = first.then(later)")
        worker("both = gather(first, then)")
        first, then, both = worker("[it._quiet_id() for it in (first, then, both)]")
        until(page, f"get('/tasks/{first}')['task']['state'] == 'running'")

        def links(id):
            told = page(f"get('/tasks/{id}')")
            return [
                [(it["name"], it["id"]) for it in told[kind]] for kind in ("follows", "followed_by")
            ]

        expected = {
            first: [[], [("later", then), ("gather", both)]],
            then: [[("plain_wait", first)], [("gather", both)]],
            both: [[("plain_wait", first), ("later", then)], []],
        }
        assert {id: links(id) for id in expected} == expected
        text = page(f"html('/tasks/{then}')")
        assert f'href="/page/tasks/{first}"' in text
        assert f'href="/page/tasks/{both}"' in text
        page("go('links')")
        until(worker, "both.done()")
        # Nobody but the journal knows the tasks from now on.
        worker("del first, then, both")
        until(page, f"get('/tasks/{both}')['task']['state'] == 'finished'")
        assert {id: links(id) for id in expected} == expected
        timeline = page(f"get('/tasks/{then}')['timeline']")
        assert "follows" not in {it["kind"] for it in timeline}

    def test_of_durable_tasks_during_and_after(self, page, worker, until):
        first = page("(one := wait_for.delay('durable-links')).id")
        then = page("(two := one.then(keep)).id")
        both = page("(three := gather(one, two)).id")

        def links(process, id):
            told = process(f"get('/tasks/{id}')")
            return [[it["id"] for it in told[kind]] for kind in ("follows", "followed_by")]

        expected = {first: [[], [then, both]], then: [[first], [both]], both: [[first, then], []]}
        for process in (page, worker):
            assert {id: links(process, id) for id in expected} == expected
        page("go('durable-links')")
        page("three.result(20)")
        for process in (page, worker):
            assert {id: links(process, id) for id in expected} == expected


class TestPlots:
    @pytest.mark.parametrize("durable", [False, True])
    def test_what_is_held_is_in_the_plot_of_each_process(
        self, pair, page, worker, wait_until, durable
    ):
        """A point has the most that were held in its seconds, so the row tells of the end."""

        def held() -> object:
            found = pair.rows("SELECT held FROM sample WHERE step = 1 ORDER BY at DESC LIMIT 1")
            return found[0][0] if found else 0

        def shown(process):
            return process("get('/')['points']['held'][-1]")

        assert wait_until(lambda: held() == 0)
        worker(f"waits = using(countdown=600).delay({'add' if durable else 'later'}, 1)")
        assert wait_until(lambda: held() == shown(page) == shown(worker) == 1)
        worker("waits.cancel()")
        assert wait_until(lambda: held() == 0)
