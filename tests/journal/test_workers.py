"""Durable tasks of several processes: all see every task, and what a dead one ran goes on."""

import signal
import sqlite3
import time

import pytest
from tests.journal.conftest import Raised, noted, run_flask

DEADLINE = 30.0


class TestSeen:
    def test_a_result(self, pair):
        one, two = pair
        id = one("add.delay((1, 2), right=(3,)).id")
        assert two(f"executor.get({id!r}).result(20)") == (1, 2, 3)
        assert two(f"executor.get({id!r}).state") == "finished"
        assert two(f"executor.get({id!r}).name") == "add"
        page = two(f"look({id!r})")
        assert page == {
            "status": 200,
            "id": id,
            "state": "finished",
            "result": [1, 2, 3],
            "progress": None,
            "error": None,
            "waits": None,
            "attempts": 1,
            "deaths": 0,
        }

    def test_an_error(self, pair):
        one, two = pair
        id = one("fail.delay('pear').id")
        two(f"caught = executor.get({id!r}).exception(20)")
        assert two("type(caught) is OutOfStock, str(caught), caught.sku") == (
            True,
            "no pear",
            "pear",
        )
        assert "raise OutOfStock(sku)" in two("caught.__notes__[0]")
        assert two(f"look({id!r})")["error"] == {"class": "OutOfStock", "message": "no pear"}
        with pytest.raises(Raised, match="OutOfStock: no pear"):
            two(f"executor.get({id!r}).result(20)")

    def test_an_error_of_a_class_that_is_not_here(self, start):
        one = start(
            "import xmlrpc.client\n@task(durable=True)\ndef rpc():\n"
            "    raise xmlrpc.client.ProtocolError('u', 1, 'm', {})\n"
        )
        two = start()
        id = one("rpc.delay().id")
        one(f"executor.get({id!r}).exception(20)")
        two(f"caught = executor.get({id!r}).exception(20)")
        assert two("type(caught).__name__, caught.kind") == (
            "RemoteError",
            "xmlrpc.client.ProtocolError",
        )
        assert not two("'xmlrpc.client' in sys.modules")

    def test_a_result_that_is_not_kept(self, pair):
        one, two = pair
        id = one("give_object.delay().id")
        one(f"executor.get({id!r}).exception(20)")
        assert two(f"executor.get({id!r}).exception(20)") is None
        with pytest.raises(Raised, match="^ResultNotKept: .*object"):
            two(f"executor.get({id!r}).result(20)")
        assert "object" in two(f"look({id!r})")["result_error"]

    def test_progress_and_state(self, pair, until):
        one, two = pair
        id = one("count.delay(4, 'go').id")
        until(two, f"executor.get({id!r}).progress == (1, 4, 'one')")
        assert two(f"executor.get({id!r}).state, executor.get({id!r}).running()") == (
            "running",
            True,
        )
        page = two(f"look({id!r})")
        assert (page["state"], page["progress"]) == (
            "running",
            {"done": 1, "total": 4, "note": "one"},
        )
        two("go('go')")
        assert two(f"executor.get({id!r}).result(20)") is None
        assert two(f"tuple(executor.get({id!r}).progress)") == (4, 4, "")

    def test_a_task_that_waits(self, pair, until):
        one, two = pair
        id = one("add.using(countdown=60).delay(1).id")
        assert two(f"executor.get({id!r}).state, executor.get({id!r}).done()") == ("pending", False)
        assert two(f"look({id!r})['waits']") == "scheduled"
        assert two(f"executor.get({id!r}).cancel()")
        assert one(f"executor.get({id!r}).cancelled()")
        assert one(f"look({id!r})['state']") == "cancelled"

    def test_awaits_and_callbacks(self, pair):
        one, two = pair
        id, other = one("wait_for.delay('go').id, add.delay(1).id")
        two("heard = []")
        two(f"future = executor.get({id!r})")
        two("future.add_done_callback(lambda future: heard.append(future.result()))")
        two("async def main(): return await asyncio.wait_for(future, 20)")
        two(f"others = [future, executor.get({other!r})]")
        two("go('go')")
        assert two("asyncio.run(main())") == one.pid
        assert two("len(concurrent.futures.wait(others, 20).done)") == 2
        assert two("len(list(concurrent.futures.as_completed(others, 20)))") == 2
        two("executor.drain(20)")
        assert two("heard") == [one.pid]

    def test_stop(self, pair, until, notes, wait_until):
        one, two = pair
        id = one("wait_for.delay('never').id")
        assert wait_until(lambda: noted(notes, "begins"))
        assert not two(f"executor.get({id!r}).cancel()")
        assert two(f"executor.get({id!r}).stop()")
        assert two(f"type(wait_for_end({id!r})).__name__") == "CancelledError"
        assert one(f"executor.get({id!r}).cancelled()")

    @pytest.fixture
    def start(self, start):
        code = """
import sys
def wait_for_end(id):
    try:
        return executor.get(id).result(20)
    except BaseException as error:
        return error
"""
        return lambda more="", **config: start(code + more, **config)

    def test_unique(self, pair):
        one, two = pair
        id = one("wait_for.using(unique=True).delay('go').id")
        assert two("wait_for.using(unique=True).delay('go').id") == id
        with pytest.raises(Raised, match=f"^DuplicateTask: .*{id}"):
            two("wait_for.using(unique='raise').delay('go')")
        two("go('go')")
        assert two(f"executor.get({id!r}).result(20)") == one.pid

    def test_once(self, pair):
        one, two = pair
        id = one("add.using(once='order-1').delay(1).id")
        assert two(f"executor.get({id!r}).result(20)") == 2
        with pytest.raises(Raised, match=f"^DuplicateTask: .*key of 'once' already.*{id}"):
            two("add.using(once='order-1', unique='raise').delay(5)")
        assert two("add.using(once='order-1').delay(5).result(20)") == 2
        with pytest.raises(
            Raised, match='^ValueError: .*"order-1".*belongs to a task of "shop.add"'
        ):
            two("fail.using(once='order-1').delay()")

    def test_an_id(self, pair):
        one, two = pair
        one("add.using(id='order 1').delay(1).result(20)")
        with pytest.raises(Raised, match="^DuplicateTask: there is a task with the id .order 1."):
            two("add.using(id='order 1').delay(1)")

    def test_work_is_shared(self, pair, notes, wait_until):
        one, two = pair
        one("futures = [wait_for.delay('go') for _ in range(2)]")
        assert wait_until(lambda: len(noted(notes, "begins")) == 2)
        one("go('go')")
        assert set(one("[future.result(20) for future in futures]")) == {one.pid, two.pid}


class TestPlain:
    """Tasks that are not durable, whose id was asked for, or given."""

    @pytest.mark.parametrize(
        "submitted",
        [
            "delay(plain_wait, 'go').id",
            # Nobody asks for it.
            "using(id='export-7').delay(plain_wait, 'go').name and 'export-7'",
        ],
    )
    def test_in_another_process(self, pair, until, submitted):
        one, two = pair
        id = one(submitted)
        assert two(f"look({id!r})")["state"] in {"pending", "running"}
        until(two, f"executor.get({id!r}).state == 'running'")
        two("go('go')")
        assert two(f"executor.get({id!r}).result(20)") == ("plain", one.pid)
        page = two(f"look({id!r})")
        assert (page["state"], page["result"]) == ("finished", ["plain", one.pid])
        assert "deaths" not in page

    def test_one_that_is_refused_is_known_to_nobody(self, start, until):
        one = start(DELAY_QUEUE_SIZE=1, DELAY_WHEN_FULL="raise", DELAY_MAX_WORKERS=1)
        two = start()
        id = one("delay(plain_wait, 'never').id")
        until(two, f"executor.get({id!r}) and executor.get({id!r}).state == 'running'")
        one("delay(plain_wait, 'never')")
        with pytest.raises(Raised, match="QueueFull"):
            one("using(id='export-8').delay(plain_wait, 'never')")
        assert two("look('export-8')['status']") == 404

    def test_an_id_that_is_used_again_is_that_of_the_last_task(self, start, until):
        one, two = start(), start()
        two("go('go')")
        for _ in range(2):
            one("using(id='export-9').delay(plain_wait, 'go').result(20)")
            until(two, f"look('export-9').get('result') == ['plain', {one.pid}]")
            assert one.end() == 0
            # It has forgotten the task with its process.
            one = start()

    def test_stop(self, pair, until):
        one, two = pair
        id = one("delay(plain_wait, 'never').id")
        until(two, f"executor.get({id!r}) and executor.get({id!r}).state == 'running'")
        assert not two(f"executor.get({id!r}).cancel()")
        assert two(f"executor.get({id!r}).stop()")
        until(one, f"executor.get({id!r}).cancelled()")
        until(two, f"look({id!r})['state'] == 'cancelled'")

    def test_a_poller_hears_of_the_death(self, pair, until):
        one, two = pair
        id = one("delay(plain_wait, 'never').id")
        until(two, f"executor.get({id!r}) and executor.get({id!r}).state == 'running'")
        one.kill()
        begin = time.monotonic()
        two(f"caught = executor.get({id!r}).exception(20)")
        assert time.monotonic() - begin < 2
        assert two("type(caught).__name__") == "WorkerDied"
        page = two(f"look({id!r})")
        assert (page["state"], page["error"]["class"]) == ("finished", "WorkerDied")

    def test_without_the_setting_it_is_unknown(self, start):
        one, two = start(DELAY_JOURNAL=None), start(DELAY_JOURNAL=None)
        one("add.delay(1).result(20)")
        id = one("delay(plain_wait, 'never').id")
        assert two(f"look({id!r})['status']") == 404
        # A durable one is known, since its file is there.
        durable = one("add.delay(1).id")
        assert two(f"executor.get({durable!r}).result(20)") == 2


class TestDeaths:
    def test_another_process_goes_on(self, pair, notes, wait_until):
        one, two = pair
        id = one("wait_for.delay('go').id")
        waiting = one("[add.delay(number).id for number in range(3)]")
        assert wait_until(lambda: noted(notes, "begins"))
        one.kill()
        two("go('go')")
        assert two(f"executor.get({id!r}).result(20)") == two.pid
        assert two(f"[executor.get(id).result(20) for id in {waiting!r}]") == [1, 2, 3]
        first, second = noted(notes, "begins")
        assert (first["pid"], second["pid"]) == (one.pid, two.pid)
        assert first["id"] == second["id"] == id
        page = two(f"look({id!r})")
        assert (page["attempts"], page["deaths"]) == (2, 0)

    def test_nobody_is_left(self, start, notes, wait_until):
        one = start()
        ids = one("wait_for.delay('go').id, add.using(countdown=0.2).delay(1).id")
        assert wait_until(lambda: noted(notes, "begins"))
        one.kill()
        two = start()
        two("go('go')")
        assert two(f"[executor.get(id).result(20) for id in {ids!r}]") == [two.pid, 2]

    def test_an_orderly_end_leaves_what_waits(self, start):
        one = start()
        id = one("add.using(countdown=0.5).delay(1).id")
        assert one.end() == 0
        two = start()
        assert two(f"executor.get({id!r}).result(20)") == 2

    def test_an_orderly_end_counts_against_nobody(self, start, notes, wait_until):
        one = start(DELAY_SHUTDOWN_TIMEOUT=0.2, DELAY_JOURNAL_DEATHS=1)
        id = one("wait_for.delay('go').id")
        assert wait_until(lambda: noted(notes, "begins"))
        one.signal(signal.SIGTERM)
        one.wait()
        two = start(DELAY_JOURNAL_DEATHS=1)
        two("go('go')")
        assert two(f"executor.get({id!r}).result(20)") == two.pid
        assert two(f"look({id!r})")["deaths"] == 0

    def test_a_task_that_kills_again_and_again(self, start, notes, wait_until):
        watcher = start("", DELAY_MAX_WORKERS=1)
        watcher("wait_for.delay('never')")
        first = start()
        first.send("die.delay().id")
        first.wait()
        (death,) = noted(notes, "dies")
        for _ in range(2):
            victim = start()
            victim.wait()
        assert wait_until(lambda: watcher(f"look({death['id']!r})['state']") == "finished")
        page = watcher(f"look({death['id']!r})")
        assert (page["error"]["class"], page["deaths"], page["attempts"]) == ("WorkerDied", 3, 3)
        assert [it["attempt"] for it in noted(notes, "dies")] == [1, 2, 3]
        watcher(f"caught = executor.get({death['id']!r}).exception(20)")
        assert watcher("type(caught).__name__") == "WorkerDied"

    def test_a_stopped_process_is_not_dead(self, pair, notes, wait_until):
        one, two = pair
        id = one("wait_for.delay('go').id")
        assert wait_until(lambda: noted(notes, "begins"))
        one.signal(signal.SIGSTOP)
        time.sleep(2.5)
        assert two(f"look({id!r})['state']") == "running"
        one.signal(signal.SIGCONT)
        two("go('go')")
        assert two(f"executor.get({id!r}).result(20)") == one.pid
        assert len(noted(notes, "begins")) == 1

    def test_a_retry_goes_on_elsewhere(self, start, wait_until):
        code = """
@task(durable=True, retry=Retry(5, waits=[0.5]))
def flaky():
    note("flaky", attempt=current_task.attempt)
    if current_task.attempt < 3:
        raise ConnectionError("again")
    return current_task.attempt, os.getpid()
"""
        one = start(code)
        id = one("flaky.delay().id")
        assert wait_until(lambda: one(f"look({id!r})['waits']") == "scheduled")
        one.kill()
        two = start(code)
        assert two(f"executor.get({id!r}).result(20)") == (3, two.pid)


class TestOptions:
    """Those given with `using` go with the task, and those of its `@task` are today's code's."""

    CODE = """
@task(durable=True{options})
def work(seconds=0):
    note("works", attempt=current_task.attempt)
    if seconds:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.01)
    raise OutOfStock("pear")
"""

    def code(self, options=""):
        return self.CODE.replace("{options}", options)

    def test_of_using(self, start, notes):
        one = start(self.code())
        id = one("work.using(retry=Retry(1, waits=[0.1], on=OutOfStock), countdown=0.3).delay().id")
        one.kill()
        two = start(self.code())
        assert two(f"type(executor.get({id!r}).exception(20)).__name__") == "OutOfStock"
        assert [it["attempt"] for it in noted(notes, "works")] == [1, 2]

    def test_timeout_of_using(self, start):
        one = start(self.code())
        id = one("work.using(timeout=0.2, countdown=0.3).delay(60).id")
        one.kill()
        two = start(self.code())
        assert two(f"type(executor.get({id!r}).exception(20)).__name__") == "TaskTimeout"

    def test_of_the_code(self, start, notes):
        one = start(self.code())
        id = one("work.using(countdown=0.3).delay().id")
        one.kill()
        two = start(self.code(", retry=Retry(2, waits=[0.1])"))
        assert two(f"type(executor.get({id!r}).exception(20)).__name__") == "OutOfStock"
        assert len(noted(notes, "works")) == 3

    def test_processes(self, start):
        config = {"DELAY_APP": "shop:app", "DELAY_PROCESSES": 1}
        one = start(**config)
        pid = one("where.using(backend='processes').delay().result(20)")
        assert pid != one.pid
        id = one("where.using(backend='processes', countdown=0.3).delay().id")
        one.kill()
        two = start(**config)
        assert two(f"executor.get({id!r}).result(20)") not in {one.pid, two.pid, pid}

    def test_processes_by_default(self, start):
        one = start(DELAY_APP="shop:app", DELAY_PROCESSES=1, DELAY_BACKEND="processes")
        assert one("where.delay().result(20)") != one.pid
        assert one("where.using(backend='threads').delay().result(20)") == one.pid
        with pytest.raises(Raised, match="OutOfStock: "):
            one("fail.delay('plum').result(20)")


class TestDeploys:
    NEW = """
@task(durable=True)
def new(value=1):
    return value, os.getpid()
"""

    def test_old_code_leaves_the_tasks_of_new_code_alone(self, start, wait_until):
        new, old = start(self.NEW), start()
        id = new("new.using(countdown=0.5).delay().id")
        new.kill()
        time.sleep(1.5)
        assert old(f"look({id!r})['waits']") in {"ready", "parked"}
        newer = start(self.NEW)
        assert newer(f"executor.get({id!r}).result(20)") == (1, newer.pid)

    def test_a_function_that_is_decorated_later(self, start):
        one = start(self.NEW)
        id = one("new.using(countdown=0.3).delay().id")
        one.kill()
        two = start()
        two("add.delay(1).result(20)")
        two(self.NEW)
        assert two(f"executor.get({id!r}).result(20)") == (1, two.pid)

    def test_a_function_that_was_renamed(self, start):
        one = start(self.NEW)
        id = one("new.using(countdown=0.3).delay().id")
        one.kill()
        two = start(
            "@task(durable=True, name='shop.renamed', also=['shop.new'])\n"
            "def renamed(value):\n    return 'renamed', value\n"
        )
        assert two("renamed.delay(2).result(20)") == ("renamed", 2)
        # Its arguments do not fit: nothing has run.
        assert two(f"look({id!r})['state']") == "pending"

    def test_arguments_that_do_not_fit_any_more(self, start, wait_until):
        one = start(self.NEW)
        id = one("new.using(countdown=0.3).delay(5).id")
        one.kill()
        two = start("@task(durable=True)\ndef new():\n    return 'changed'\n")
        assert wait_until(lambda: two(f"look({id!r})['waits']") == "parked"), two.log()
        page = two(f"look({id!r})")
        assert page["attempts"] == 0
        assert "new() takes 0 positional arguments but 1 was given" in page["reason"]
        assert "new" in two.log()
        # The next deploy has it fit again.
        three = start(self.NEW)
        assert three(f"executor.get({id!r}).result(20)") == (5, three.pid)

    def test_nothing_in_the_file_is_imported(self, start, tmp_path, wait_until):
        one = start()
        ids = one("[add.using(countdown=3).delay(1).id for _ in range(2)]")
        one.end()
        # Whatever somebody writes into it.
        file = sqlite3.connect(tmp_path / "journal.db")
        with file:
            file.execute("UPDATE function SET name = 'antigravity.fly' WHERE name = 'shop.add'")
            file.execute("UPDATE task SET due = due - 3000000")
            file.execute(
                "UPDATE task SET options = ? WHERE id = (SELECT id FROM task LIMIT 1)",
                ['{"retry": {"on": ["antigravity:fly"]}, "backend": "celery"}'],
            )
        file.close()
        two = start()
        for id in ids:
            assert two(f"look({id!r})['state']") == "pending"
        two("import sys")
        assert not two("'antigravity' in sys.modules or 'celery' in sys.modules")


class TestRoles:
    """Which processes run durable tasks."""

    def test_children_of_one_that_does_only_submit(self, start):
        one = start()
        one("add.delay(1).result(20)")
        one("def child():\n    future = where.delay()\n    return future.result(20), future.id\n")
        pid, id = one("fork(child)")
        assert pid == one.pid
        assert one(f"executor.get({id!r}).result(20)") == one.pid

    def test_a_future_of_the_parent(self, start):
        one = start()
        one("future = wait_for.delay('go')")
        one("def child():\n    go('go')\n    return future.result(20)\n")
        assert one("fork(child)") == one.pid

    @pytest.fixture
    def flask(self, tmp_path):
        """Run a command of `flask` with the app of the first process."""

        def run(*arguments, code="", **config):
            folder = tmp_path / "process-0"
            (folder / "wsgi.py").write_text(f"from shop import *\n{code}")
            config = {"DELAY_JOURNAL": str(tmp_path / "journal.db"), **config}
            return run_flask(
                folder, *arguments, app="wsgi", SHOP_CONFIG=repr(config), SHOP_FOLDER=str(folder)
            )

        return run

    def test_a_program_that_only_submits(self, start, flask):
        one = start()
        # It serves from now on.
        one("where.delay().result(20)")
        code = "@app.cli.command()\ndef submit():\n    print(where.delay().result(20))\n"
        done = flask("submit", code=code)
        assert done.stdout.strip() == str(one.pid), done.stderr
        assert "durable tasks of this process wait" not in done.stderr

    def test_a_command_that_is_alone(self, start, flask):
        # For the module.
        start().end()
        code = "@app.cli.command()\ndef submit():\n    print(len([where.delay(), where.delay()]))\n"
        done = flask("submit", code=code)
        assert done.stdout.strip() == "2", done.stderr
        assert done.stderr.count("durable tasks of this process wait until another one runs") == 1
        two = start()
        assert two("executor.drain(20)")

    def test_the_check(self, start, flask, tmp_path):
        start().end()
        done = flask("delay", "check")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "ok     journal" in done.stdout
        (tmp_path / "journal.db").write_bytes(b"no database, but something else" * 100)
        done = flask("delay", "check")
        assert done.returncode == 1, done.stdout
        assert "WRONG  journal" in done.stdout

    def test_the_check_before_the_first_task(self, start, flask, tmp_path):
        """Without the setting too: the tasks of the app say that there will be a file."""
        start(DELAY_JOURNAL=None).end()
        done = flask("delay", "check", DELAY_JOURNAL=None)
        assert f"ok     journal    {tmp_path / 'instance/delay'}" in done.stdout, done.stdout
        assert not (tmp_path / "instance/delay/journal.db").exists()
        (tmp_path / "instance/delay/journal").rmdir()
        (tmp_path / "instance/delay/journal").touch()
        done = flask("delay", "check", DELAY_JOURNAL=None)
        assert "WRONG  journal" in done.stdout, done.stdout
