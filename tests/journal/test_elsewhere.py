"""Actions and stacks of the page for tasks and jobs that another process has."""

import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from functools import cached_property
from pathlib import Path

import pytest
from tests.journal.conftest import DRIVER, SHOP, Process

CODE = """
from flask_delay import dashboard_acted

def ask(method, path):
    headers = {"Accept": "application/json", "Sec-Fetch-Site": "same-origin"}
    answer = app.test_client().open(f"/page{path}", method=method, headers=headers)
    return answer.status_code, answer.get_json()

def mount():
    app.register_blueprint(
        executor.dashboard_blueprint(authorize=lambda: "act", actor=lambda: "ada"),
        url_prefix="/page",
    )

def post(path):
    status, answer = ask("POST", path)
    return status, answer.get("done") or answer.get("message")

def poll(tag):
    answer = app.test_client().get("/page/live/", headers={"HX-PTag": tag})
    return answer.status_code, answer.headers.get("HX-PTag")

def stack(id):
    status, answer = ask("GET", f"/tasks/{id}/stack")
    return status, "".join(answer["stack"]), answer["no_stack"]

@task
async def plain_await():
    await asyncio.Event().wait()

@task(durable=True, backend="processes")
def elsewhere():
    time.sleep(60)

def threads():
    return [it.read_text().strip() for it in Path("/proc/self/task").glob("*/comm")]
"""


class Pair:
    """A worker without a page, and a process with one."""

    def __init__(self, folder: Path, code: str = "", *, mounts: bool = False) -> None:
        self._folder = folder
        self.started: list[Process] = []
        self.worker = self.start(code + "mount()\n" * mounts)
        self.page = self.start(code + "mount()\n")

    @cached_property
    def other(self) -> Process:
        """A third one, with a page."""
        return self.start("mount()\n", DELAY_SHUTDOWN_TIMEOUT=20)

    def start(self, code: str = "", **config: object) -> Process:
        folder = self._folder / f"process-{len(self.started)}"
        folder.mkdir()
        (folder / "shop.py").write_text(SHOP.read_text() + CODE + code)
        config = {
            "DELAY_JOURNAL": str(self._folder / "journal.db"),
            "DELAY_MAX_WORKERS": 1,
            "DELAY_APP": "shop:app",
            **config,
        }
        process = Process(folder, DRIVER, name="process", **config)
        self.started.append(process)
        # It has its place in the journal.
        process("executor._view('none')")
        return process

    def end(self) -> None:
        for process in self.started:
            process.clean()

    def rows(self, sql: str, *values: object) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self._folder / "journal.db")) as connection:
            found = connection.execute(sql, values).fetchall()
            connection.commit()
            return found


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    pair = Pair(tmp_path_factory.mktemp("elsewhere"))
    yield pair
    pair.end()


@pytest.fixture
def worker(pair):
    return pair.worker


@pytest.fixture
def page(pair):
    return pair.page


@pytest.fixture
def running(pair, until, request):
    """A plain task that is stuck on the only worker of its process; its id."""
    pair.worker(f"stuck = delay(plain_wait, {request.node.name!r})")
    until(pair.worker, "stuck.running()")
    id = pair.worker("stuck.id")
    until(pair.page, f"executor._view({id!r}) is not None")
    yield id
    pair.worker("stuck.stop(0)")
    until(pair.worker, "stuck.done()")


class TestStack:
    def test_of_a_plain_task_whose_process_has_no_idle_worker(self, page, running):
        status, frames, why = page(f"stack({running!r})")
        assert (status, why) == (200, None)
        assert "in plain_wait" in frames
        assert "time.sleep(0.01)" in frames

    def test_of_a_coroutine(self, pair, page, worker, until):
        id = worker("(other := plain_await.delay()).id")
        until(page, f"executor.get({id!r}) and executor.get({id!r}).state == 'running'")
        assert "in plain_await" in page(f"stack({id!r})")[1]
        worker("other.cancel()")

    def test_of_a_durable_task(self, page, worker, until):
        id = worker("wait_for.delay('durable-stack').id")
        until(page, f"executor.get({id!r}).state == 'running'")
        until(page, f"'in wait_for' in stack({id!r})[1]")
        page("go('durable-stack')")
        assert page(f"executor.get({id!r}).result(20)") == worker.pid
        assert page(f"stack({id!r})") == (200, "", None)

    def test_of_a_task_in_a_worker_process(self, page, worker, until):
        id = worker("elsewhere.delay().id")
        until(page, f"stack({id!r})[1]")
        status, frames, why = page(f"stack({id!r})")
        assert (status, why) == (200, None)
        assert "in elsewhere" in frames
        assert "flask_delay" not in frames
        page(f"executor.get({id!r}).stop(0)")

    def test_two_at_once(self, page, running):
        code = f"list(concurrent.futures.ThreadPoolExecutor(4).map(stack, [{running!r}] * 8))"
        answers = page(f"(lambda: {code})()")
        assert {(status, why) for status, _, why in answers} == {(200, None)}
        assert all("in plain_wait" in frames for _, frames, _ in answers)

    def test_from_a_forked_process(self, page, running):
        status, frames, _ = page(f"fork(lambda: stack({running!r}))")
        assert status == 200
        assert "in plain_wait" in frames


class TestCancel:
    def test_a_plain_task_that_waits(self, page, worker, running, until):
        id = worker("(waits := delay(plain_wait, 'never')).id")
        until(page, f"executor._view({id!r}) is not None")
        assert page(f"post('/tasks/{id}/cancel')") == (200, "cancel")
        assert worker("waits.cancelled()")
        # The same once more.
        status, why = page(f"post('/tasks/{id}/cancel')")
        assert (status, why) == (409, "The task has ended already, so it cannot be cancelled.")

    def test_a_plain_task_that_waits_by_its_future(self, page, worker, running, until):
        id = worker("(waits := delay(plain_wait, 'never')).id")
        until(page, f"executor.get({id!r}) is not None")
        assert page(f"executor.get({id!r}).cancel()")
        assert worker("waits.cancelled()")
        assert page(f"executor.get({id!r}).cancelled()")
        assert not page(f"executor.get({running!r}).cancel()")

    def test_a_plain_task_that_runs(self, page, running):
        status, why = page(f"post('/tasks/{running}/cancel')")
        assert (status, why) == (409, "The task runs already, so it cannot be cancelled.")

    def test_an_unknown_task(self, page):
        status, why = page("post('/tasks/unknown/cancel')")
        assert status == 404
        assert "No task 'unknown' is known" in why


class TestStop:
    def test_a_plain_task(self, page, worker, running, until):
        assert page(f"post('/tasks/{running}/stop')") == (200, "stop")
        until(worker, "stuck.cancelled()")
        # The process that answers hears of the end a little later.
        until(page, f"post('/tasks/{running}/stop')[0] == 409")
        _, why = page(f"post('/tasks/{running}/stop')")
        assert why == "The task has ended already, so there is nothing to stop."

    @pytest.mark.parametrize("verb", ["stop", "cancel"])
    def test_a_durable_task_in_every_state(self, pair, page, worker, until, verb):
        runs = worker("wait_for.delay('never').id")
        until(page, f"executor.get({runs!r}).state == 'running'")
        # So that this process is busy, too.
        name = f"{verb}-states"
        page(f"own = wait_for.delay({name!r})")
        until(page, "own.running()")
        waits = {
            "ready": page("add.delay(1).id"),
            "scheduled": page("add.using(countdown=60).delay(1).id"),
            "blocked": page(f"executor.get({runs!r}).then(keep).id"),
        }
        for state, id in waits.items():
            assert page(f"executor._view({id!r}).waits") in {state, f"after wait_for {runs[:8]}"}
            assert page(f"post('/tasks/{id}/{verb}')") == (200, verb)
            assert page(f"executor._view({id!r}).state") == "cancelled"
        if verb == "cancel":
            assert page(f"post('/tasks/{runs}/cancel')")[0] == 409
            page(f"executor.get({runs!r}).stop()")
        else:
            assert page(f"post('/tasks/{runs}/stop')") == (200, "stop")
        until(page, f"executor._view({runs!r}).state == 'cancelled'")
        assert page(f"post('/tasks/{runs}/{verb}')")[0] == 409
        page(f"go({name!r})")
        until(page, "own.done()")


class TestJobs:
    def test_one_that_another_process_has(self, pair, page, worker, until):
        worker("job = using(every=3600).delay(plain_wait, 'job')")
        key = worker("job.id")
        until(page, f"{key!r} in [it['id'] for it in ask('GET', '/jobs')[1]['jobs']]")
        (listed,) = [it for it in page("ask('GET', '/jobs')[1]['jobs']") if it["id"] == key]
        assert (listed["here"], listed["schedule"]) == (False, "every 3600 s")
        assert "in other processes" in page("app.test_client().get('/page/jobs').text")
        assert page(f"post('/jobs/{key}/run')") == (200, "run")
        until(worker, "job.last.running()")
        status, why = page(f"post('/jobs/{key}/run')")
        assert status == 409
        assert "goes on in process" in why
        page("go('job')")
        until(worker, "job.last.done()")
        assert page(f"post('/jobs/{key}/pause')") == (200, "pause")
        assert worker("job.paused")
        assert page(f"post('/jobs/{key}/resume')") == (200, "resume")
        assert not worker("job.paused")
        worker("job.cancel()")
        status, why = page(f"post('/jobs/{key}/run')")
        assert (status, why.startswith("No process that is known")) == (404, True)
        # Who it was is in both logs.
        for verb in ("run", "pause", "resume"):
            line = f"INFO flask_delay.dashboard: {verb} shop.plain_wait, by ada"
            assert f"{line}\n" in page.log()
            assert f"{line}, through another process\n" in worker.log()


class TestPolls:
    def test_the_overview_is_the_same_from_whichever_process(self, pair, page, until, wait_until):
        tags = []

        def has_no_news():
            tags.append(page("poll('')")[1])
            polls = [it(f"poll({tags[-1]!r})") for it in (page, pair.other) * 2]
            return [status for status, _ in polls] == [304] * 4

        assert wait_until(has_no_news)
        pair.other("delay(int)")
        until(page, f"poll({tags[-1]!r})[0] == 200")
        until(page, "ask('GET', '/')[1]['names'].get('int', {}).get('done')")


class TestTrouble:
    def test_a_process_that_does_not_answer_is_asked(self, page, worker, running, until):
        id = worker("(waits := delay(plain_wait, 'never')).id")
        until(page, f"executor._view({id!r}) is not None")
        worker.signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            assert page(f"post('/tasks/{id}/cancel')") == (202, "asked")
            assert 0.9 < time.monotonic() - began < 5
            assert "has not answered yet" in page(f"stack({running!r})")[2]
        finally:
            worker.signal(signal.SIGCONT)
        until(worker, "waits.cancelled()")

    def test_one_that_is_killed_has_gone(self, pair, page, until):
        other = pair.start()
        other("import flask_delay.journal.commands as commands")
        # Between the command and its outcome.
        other("commands.stack_here = lambda future: os.kill(os.getpid(), signal.SIGKILL)")
        id = other("(stuck := delay(plain_wait, 'never')).id")
        until(page, f"executor.get({id!r}) and executor.get({id!r}).state == 'running'")
        status, frames, why = page(f"stack({id!r})")
        assert (status, frames) == (200, "")
        assert why == "Its process has gone."
        other.wait()
        assert pair.rows("SELECT count(*) FROM command WHERE target = ?", id) in ([(0,)], [(1,)])
        until(page, f"executor._view({id!r}).state == 'failed'")
        assert pair.rows("SELECT count(*) FROM command WHERE target = ?", id) == [(0,)]
        assert page(f"post('/tasks/{id}/stop')")[0] == 409

    def test_a_task_whose_id_nobody_asked_for(self, pair, page, until):
        other = pair.other
        other("stuck = delay(plain_wait, 'never')")
        until(other, "stuck.running()")
        other("waits = delay(plain_wait, 'never')")
        id = other("waits._quiet_id()")
        assert pair.rows("SELECT count(*) FROM task WHERE id = ?", id) == [(0,)]
        assert page(f"post('/tasks/{id}/cancel')") == (200, "cancel")
        assert other("waits.cancelled()")
        other("stuck.stop(0)")
        until(other, "stuck.done()")

    def test_one_that_drains_still_answers(self, pair, page, until):
        other = pair.other
        id = other("(stuck := delay(plain_wait, 'drained')).id")
        until(page, f"executor.get({id!r}) and executor.get({id!r}).state == 'running'")
        ended = threading.Thread(target=other.end)
        ended.start()
        time.sleep(0.3)
        assert "in plain_wait" in page(f"stack({id!r})")[1]
        page("go('drained')")
        ended.join(20)
        assert not ended.is_alive()
        assert "Traceback" not in other.log()

    def test_an_unknown_verb_is_refused(self, pair, page, worker, wait_until):
        ((slot,),) = pair.rows("SELECT slot FROM process WHERE pid = ?", worker.pid)
        pair.rows(
            "INSERT INTO command (application, given_at, verb, target, process, sender)"
            " VALUES (1, ?, 'eval', '1 + 1', ?, 0)",
            int(time.time() * 1e6),
            slot,
        )
        page("executor.prune(10)")
        sql = "SELECT outcome FROM command WHERE verb = 'eval' AND outcome IS NOT NULL"
        assert wait_until(lambda: pair.rows(sql))
        assert "does not know 'eval'" in pair.rows(sql)[0][0]

    def test_no_thread_is_left(self, worker, until):
        until(worker, "'delay-command' not in threads()")

    def test_the_rows_are_gone_after_a_minute(self, pair, page, running, wait_until):
        page(f"stack({running!r})")
        pair.rows("UPDATE command SET given_at = given_at - 61000000")
        assert wait_until(lambda: pair.rows("SELECT count(*) FROM command") == [(0,)])
