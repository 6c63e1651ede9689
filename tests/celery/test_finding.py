"""A task in a Celery worker is found by its id in every process, which need not have sent it."""

import importlib.util
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from flask import Flask
from tests.celery import work
from tests.celery.harness import DEADLINE, ROOT, Redis, Worker, entered, let_go
from tests.servers.harness import address, poll

from flask_delay import BrokerUnavailable, DuplicateTask, TaskExpired
from flask_delay.backends.celery import results

pytestmark = pytest.mark.servers


class Asker:
    """`asker.py` in a process of its own."""

    def __init__(self, url: str, settings: dict[str, object]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.celery.asker", url],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "ASKER": json.dumps(settings)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._read()

    def __call__(self, expression: str) -> Any:
        """The value of the expression in that process, as JSON carries it."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{expression}\n")
        self._process.stdin.flush()
        return self._read()

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(DEADLINE) == 0

    def kill(self) -> None:
        # With its pipes.
        with self._process:
            self._process.kill()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process has ended"
        return json.loads(line)


@pytest.fixture
def start_asker() -> Iterator[Callable[..., Asker]]:
    with ExitStack() as stack:

        def start(url: str, **settings: object) -> Asker:
            asker = Asker(url, settings)
            stack.callback(asker.kill)
            return asker

        yield start


@pytest.fixture
def ask(app: Flask, shared_redis: Redis, start_asker: Callable[..., Asker]) -> Asker:
    """A process beside that of `app`, with the same worker."""
    return start_asker(shared_redis.url)


def test_every_state_in_another_process(ask: Asker, shared_redis: Redis):
    waiting = work.add.using(countdown=60).delay(1)
    id = waiting.id
    pending = {"id": id, "state": "pending", "progress": None, "error": None}
    assert ask(f"page('{id}')") == [200, pending]
    assert ask(f"[get('{id}').state, get('{id}').name, get('{id}').done()]") == [
        "pending",
        waiting.name,
        False,
    ]
    waiting.cancel()
    running = work.meet.delay(shared_redis.url, "states")
    entered(shared_redis.url, "states")
    told = {"done": 1, "total": 2, "note": "waiting"}
    page = {"id": running.id, "state": "running", "progress": told, "error": None}
    assert poll(lambda: ask(f"page('{running.id}')") == [200, page])
    assert ask(f"setattr(kept, 'it', get('{running.id}'))") is None
    assert ask("[kept.it.state, kept.it.progress]") == ["running", [1, 2, "waiting"]]
    let_go(shared_redis.url, "states")
    assert ask(f"kept.it.result({DEADLINE})") == running.result(DEADLINE)
    ended = {**page, "state": "finished", "result": running.result()}
    assert ask(f"page('{running.id}')") == [200, ended]
    assert ask(f"[get('{running.id}').result(), get('{running.id}').progress.note]") == [
        running.result(),
        "waiting",
    ]


def test_every_wait_in_another_process(ask: Asker, shared_redis: Redis):
    ways = {
        "result": "kept.it.result(20)",
        "exception": "kept.it.exception(20)",
        "await": "asyncio.run(awaited(kept.it))",
        "wait": "len(wait([kept.it], 20).done)",
        "as_completed": "next(as_completed([kept.it], 20)).result()",
        "then": "kept.it.then(lambda it: [it, os.getpid()]).result(20)",
    }
    futures = {way: work.meet.delay(shared_redis.url, f"ways-{way}") for way in ways}
    for way, expression in ways.items():
        future = futures[way]
        pid = entered(shared_redis.url, f"ways-{way}")
        ask(f"setattr(kept, 'it', get('{future.id}'))")
        ask("kept.it.add_done_callback(lambda it: told.append(it.state))")
        assert ask("kept.it.done()") is False
        let_go(shared_redis.url, f"ways-{way}")
        value = ask(expression)
        here = ask("os.getpid()")
        expected = {"exception": None, "wait": 1, "then": [pid, here]}
        assert value == expected.get(way, pid)
    # Their callbacks; and for the follower alone what is for the process that has sent a task.
    whole = ["default", *["finished"] * len(ways), "signal", "signal"]
    assert poll(lambda: sorted(ask("told")) == whole)
    # The one that was counted is the follower, which is this process's.
    assert ask("delay.stats()['done'] + delay.stats()['failed']") == 1
    assert ask("delay.drain(20)") is True


def test_an_exception_in_another_process(ask: Asker):
    future = work.fail_with.delay("own")
    assert ask(f"get('{future.id}').exception(20).args") == ["shop has only 2"]
    assert ask(f"type(get('{future.id}').exception()).__name__") == "OutOfStock"
    status, page = ask(f"page('{future.id}')")
    assert (status, page["state"], page["error"]["class"]) == (200, "finished", "OutOfStock")


def test_a_task_that_was_stopped_elsewhere(ask: Asker, worker: Worker, shared_redis: Redis):
    queued = work.add.using(countdown=60).delay(1)
    assert ask(f"get('{queued.id}').cancel()") is True
    assert poll(queued.cancelled)
    assert ask(f"page('{queued.id}')[1]['state']") == "cancelled"
    running = work.meet.delay(shared_redis.url, "elsewhere")
    entered(shared_redis.url, "elsewhere")
    assert ask(f"get('{running.id}').cancel()") is False
    assert ask(f"get('{running.id}').stop()") is True
    worker.wait_for(f"task meet ({running.id}) was stopped")
    assert poll(running.cancelled)
    assert poll(lambda: ask(f"page('{running.id}')[1]['state']") == "cancelled")


def test_a_cancelled_task_is_not_taken_for_one_that_waits(ask: Asker, start_asker, shared_redis):
    """Although no worker has come to it yet."""
    future = work.add.using(countdown=60).delay(1)
    watched = f"setattr(kept, 'it', get('{future.id}'))"
    ask(watched)
    assert future.cancel()
    assert ask("[kept.it.exception(20)] if not kept.it.cancelled() else 'cancelled'") in (
        "cancelled",
        {"raised": "CancelledError"},
    )
    assert start_asker(shared_redis.url)(f"get('{future.id}').state") == "cancelled"


def test_a_result_outlives_the_processes(app: Flask, start_asker, shared_redis: Redis):
    first = start_asker(shared_redis.url)
    id = first("work.echo.delay([1, 2]).id")
    first.end()
    second = start_asker(shared_redis.url)
    assert second(f"get('{id}').result(20)") == [1, 2]
    assert second(f"get('{id.upper()}').result(20)") == [1, 2]
    found = app.extensions["delay"].owner.get(id)
    assert found.result(DEADLINE) == [1, 2]
    assert found.name == "echo"


def test_with_a_journal_too(app: Flask, start_asker, shared_redis: Redis, tmp_path):
    """It is asked first, and knows nothing of what was sent to Celery."""
    ask = start_asker(shared_redis.url, DELAY_JOURNAL=str(tmp_path / "journal.db"))
    id = work.echo.delay("sent here").id
    assert ask(f"get('{id}').result(20)") == "sent here"
    assert poll(lambda: ask(f"page('{id}')[1]['state']") == "finished")
    id = ask("work.echo.delay('sent there').id")
    found = app.extensions["delay"].owner.get(id)
    assert found.result(DEADLINE) == "sent there"
    assert ask(f"page('{uuid.uuid4()}')[0]") == 404


def test_ids_that_are_unknown_or_forgotten(make_site, start_asker, own_redis, start_worker):
    start_worker(own_redis.url, "-c", "1", environment=expiring(own_redis.url))
    ask = start_asker(own_redis.url, CELERY_RESULT_EXPIRES=1)
    for id in (uuid.uuid4(), "an id", "\N{SNOWMAN}", "x" * 101, "celery-task-meta-"):
        assert ask(f"get('{id}')") is None
        assert ask(f"page('{id}')[0]") == 404
    with make_site(own_redis.url, CELERY_RESULT_EXPIRES=1).app_context():
        id = work.echo.delay(1).id
        assert ask(f"get('{id}').result(20)") == 1
        assert poll(lambda: ask(f"page('{id}')[0]") == 404, 10)
        assert ask(f"get('{id}')") is None


def expiring(url):
    more = json.dumps({"CELERY_RESULT_EXPIRES": 1})
    return {"SITE_REDIS": url, "FLASK_APP": "tests.celery.site:app", "SITE_MORE": more}


def test_an_id_is_taken_for_all_processes(app: Flask, ask: Asker):
    id = f"order 7 {uuid.uuid4()}"
    future = work.echo.using(id=id).delay("first")
    assert ask(f"work.echo.using(id='{id}').delay('second')") == {"raised": "DuplicateTask"}
    # What waits for the first one is not disturbed by that.
    assert ask(f"get('{id}').result(20)") == "first"
    assert ask(f"work.echo.using(id='{id}').delay('second')") == {"raised": "DuplicateTask"}
    other = ask(f"work.echo.using(id='{id} 2').delay('other').id")
    with pytest.raises(DuplicateTask, match="until the task has been forgotten"):
        work.echo.using(id=other).delay("third")
    assert future.result(DEADLINE) == "first"
    assert app.extensions["delay"].owner.get(other).result(DEADLINE) == "other"


def test_the_sender_keeps_its_future(app: Flask, shared_redis: Redis):
    """It is found by the id, even where nobody here has asked for that yet."""
    future = work.meet.delay(shared_redis.url, "sender")
    entered(shared_redis.url, "sender")
    backend = app.extensions["delay"].backend("celery")
    client = next(iter(backend._clients.values()))
    (id,) = [it.future.id for it in client._pending.values() if it.future is future]
    assert backend.find(id) is future
    let_go(shared_redis.url, "sender")
    future.result(DEADLINE)


def test_an_unsent_task_is_unknown(make_site, own_redis: Redis, shared_redis: Redis):
    app = make_site(own_redis.url, CELERY_RESULT_BACKEND=shared_redis.url)
    own_redis.kill()
    found = app.extensions["delay"].owner
    with app.app_context():
        for _ in range(2):
            # The second time too: the first one has left nothing behind.
            with pytest.raises(BrokerUnavailable):
                work.add.using(id="unsent").delay(1)
            assert found.get("unsent") is None


def test_results_that_cannot_be_reached(make_site, own_redis: Redis):
    app = make_site(own_redis.url)
    found = app.extensions["delay"].owner
    app.register_blueprint(found.status_blueprint(url_prefix="/tasks"))
    own_redis.kill()
    with app.app_context():
        begin = time.monotonic()
        with pytest.raises(BrokerUnavailable, match="the results' Redis redis://"):
            found.get(str(uuid.uuid4()))
        answer = app.test_client().get(f"/tasks/{uuid.uuid4()}")
        assert (answer.status_code, answer.json["state"]) == (503, "unavailable")
        assert answer.headers["Retry-After"] == "1"
        assert time.monotonic() - begin < 4.0
        # What this process knows it tells all the same, and threads do not depend on a Redis.
        future = work.for_threads.using(id="mine").delay()
        assert found.get("mine") is future
        assert future.result(DEADLINE) == "here"


def test_a_lost_message_with_a_time_limit(make_site, own_redis: Redis, start_asker, monkeypatch):
    """No worker comes to it, and other processes know too that none will."""
    monkeypatch.setattr(results, "GRACE", 0.0)
    app, other = make_site(own_redis.url), make_site(own_redis.url)
    with app.app_context():
        future = work.add.using(expires=0.2).delay(1)
        found = other.extensions["delay"].get(future.id)
        assert type(future.exception(DEADLINE)) is TaskExpired
        assert type(found.exception(DEADLINE)) is TaskExpired
    ask = start_asker(own_redis.url)
    assert ask(f"page('{future.id}')[1]['error']['class']") == "TaskExpired"


def test_a_fork_finds_what_its_parent_has_sent(ask: Asker, shared_redis: Redis):
    ask("setattr(kept, 'sent', work.echo.delay('parent'))")
    id = ask("kept.sent.id")
    assert ask("kept.sent.result(20)") == "parent"
    forked = (
        f"(lambda pid: os.waitpid(pid, 0)[1] if pid else os._exit("
        f"get('{id}').result(20) != 'parent' or page('{id}')[0] != 200))(os.fork())"
    )
    assert ask(forked) == 0


SERVED = """
import os
from tests.celery import site, work

app = site.make(os.environ["SITE_REDIS"])
found = app.extensions["delay"].owner
app.register_blueprint(found.status_blueprint(url_prefix="/tasks", results=True))


@app.get("/")
def index():
    return {"process": os.getpid()}


@app.get("/start")
def start():
    return {"id": work.echo.delay("done").id, "process": os.getpid()}


@app.after_request
def tell_process(response):
    response.headers["X-Process"] = str(os.getpid())
    return response
"""


@pytest.mark.skipif(
    importlib.util.find_spec("gunicorn") is None, reason="gunicorn is not installed"
)
def test_a_page_that_polls_any_worker_of_a_server(worker: Worker, shared_redis: Redis, tmp_path):
    (tmp_path / "served.py").write_text(SERVED)
    host, port = address()
    root = f"http://{host}:{port}"

    def get(path: str) -> tuple[int, str, dict[str, object]]:
        try:
            with urllib.request.urlopen(root + path, timeout=DEADLINE) as answer:
                return answer.status, answer.headers["X-Process"], json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, error.headers["X-Process"], json.load(error)
        except OSError:
            return 0, "", {}

    gunicorn = ["-m", "gunicorn", "--no-control-socket", "--workers", "4", "--bind"]
    process = subprocess.Popen(
        [sys.executable, *gunicorn, f"{host}:{port}", "served:app"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}", "SITE_REDIS": shared_redis.url},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert poll(lambda: get("/")[0] == 200)
        _, owner, body = get("/start")
        answers = []

        def asked() -> bool:
            answers.append(get(f"/tasks/{body['id']}"))
            others = {process for _, process, _ in answers} - {owner}
            return len(answers) >= 11 and bool(others) and answers[-1][2]["state"] == "finished"

        assert poll(asked)
        assert {status for status, _, _ in answers} == {200}, answers
        assert answers[-1][2]["result"] == "done"
    finally:
        process.terminate()
        process.wait(DEADLINE)
