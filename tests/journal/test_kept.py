"""What a durable task keeps for its next attempt: checkpoints, loops that go on, steps."""

import asyncio
import signal
import threading
import time
from collections.abc import Callable
from datetime import date
from decimal import Decimal

import pytest
from flask import Flask
from tests.journal.conftest import Raised
from tests.journal.record import reading

from flask_delay import Delay, Retry, current_task, delay, task, track
from flask_delay._native import _journal_encode

DEADLINE = 20.0

seen: list[object] = []
acts: list[Callable[[], object]] = []


@pytest.fixture(autouse=True)
def _clear():
    seen.clear()
    acts.clear()


@pytest.fixture
def app(make_app):
    app = make_app()
    with app.app_context():
        yield app


def noted(notes, what):
    return [it for it in notes() if it["what"] == what]


@pytest.fixture
def stored(tmp_path):
    """The text of the checkpoint in the file; None if there is none."""

    def stored():
        with reading(tmp_path / "journal.db") as connection:
            found = connection.execute("SELECT value FROM checkpoint").fetchone()
        return found and found[0]

    return stored


# --- One process ----------------------------------------------------------------------


@task(durable=True, retry=Retry(1, on=ConnectionError, waits=[0]))
def act():
    """What the test says."""
    return acts[0]()


def acting(function):
    """A task of this function. The journal refuses functions that are defined in others."""
    acts[:] = [function]
    return act


@task(durable=True, retry=Retry(3, waits=[0]))
def count_up(*values):
    """Keep one value in each attempt, and fail after it."""
    seen.append(current_task.checkpointed)
    if current_task.attempt <= len(values):
        current_task.checkpoint(values[current_task.attempt - 1])
        raise ConnectionError
    return current_task.checkpointed


@task(durable=True)
def keep(value):
    current_task.checkpoint(value)
    return current_task.checkpointed


@task(durable=True, retry=Retry(3, waits=[0]))
def pay(order, failures):
    def charge(order, *, amount):
        seen.append("charge")
        return {"order": order, "amount": amount, "on": date(2026, 11, 30)}

    def mail(receipt):
        seen.append("mail")
        if seen.count("mail") <= failures:
            raise ConnectionError
        return receipt["order"]

    receipt = current_task.step("charge", charge, order, amount=Decimal("1.10"))
    return current_task.step("mail", mail, receipt), receipt


@task(durable=True)
def steps(*named):
    """Steps of these names and results."""
    return [current_task.step(name, lambda it=result: it) for name, result in named]


@task(durable=True)
def long_step():
    current_task.step("long", lambda: "x" * 1_000_000)


@task(durable=True)
def step_of_an_object():
    current_task.step("sell", object)


@task(durable=True)
def step_again():
    """A step that raises may be called again."""

    def flaky():
        seen.append("flaky")
        if len(seen) < 3:
            raise ConnectionError
        return len(seen)

    while True:
        try:
            return current_task.step("flaky", flaky)
        except ConnectionError:
            continue


@task(durable=True, retry=Retry(3, waits=[0]))
async def pay_async(failures):
    async def charge(amount, *, currency):
        await asyncio.sleep(0.01)
        seen.append("charge")
        return {"amount": amount, "currency": currency}

    async def mail():
        await asyncio.sleep(0)
        seen.append("mail")
        if seen.count("mail") <= failures:
            raise ConnectionError

    current_task.step("begin", seen.append, "begin")
    first, _ = await asyncio.gather(
        current_task.step("charge", charge, 7, currency="EUR"),
        current_task.step("wait", asyncio.sleep, 0.01),
    )
    await current_task.step("mail", mail)
    return first


@task(durable=True)
async def step_twice():
    await current_task.step("wait", asyncio.sleep, 0)
    await current_task.step("wait", asyncio.sleep, 0)


@task(durable=True)
async def step_of_an_object_async():
    async def sell():
        return object()

    await current_task.step("sell", sell)


@task(durable=True)
def step_of_a_coroutine():
    current_task.step("wait", asyncio.sleep, 0)


@task(durable=True, retry=Retry(3, waits=[0]))
def loops(first, second, fails_at):
    seen.extend(track(first, resume=True, note="first"))
    for row in track(second, resume=True):
        if row == fails_at and current_task.attempt == 1:
            raise ConnectionError
        seen.append(row)
    return current_task.future.progress


@task(durable=True, retry=Retry(3, waits=[0]))
async def loop_async(rows):
    async def each():
        for row in range(rows):
            yield row

    async for row in track(each(), rows, resume=True):
        if row == 2 and current_task.attempt == 1:
            raise ConnectionError
        seen.append(row)


@task(durable=True)
def nested_loops():
    for _ in track("ab", resume=True):
        for _ in track("cd", resume=True):
            pass


@task
def plain(what):
    return {
        "checkpoint": lambda: current_task.checkpoint(1),
        "checkpointed": lambda: current_task.checkpointed,
        "step": lambda: current_task.step("charge", int),
        "track": lambda: list(track(range(3), resume=True)),
    }[what]()


class TestCheckpoint:
    def test_the_next_attempt_has_the_last_one(self, app):
        assert count_up.delay(1, {"row": (2, 3)}).result(DEADLINE) == {"row": (2, 3)}
        assert seen == [None, 1, {"row": (2, 3)}]

    def test_it_has_a_copy(self, app):
        @acting
        def copies():
            kept = [1]
            current_task.checkpoint(kept)
            kept.append(2)
            current_task.checkpointed.append(3)
            return current_task.checkpointed

        assert copies.delay().result(DEADLINE) == [1]

    def test_none_is_a_value(self, app):
        assert count_up.delay(1, None).result(DEADLINE) is None
        assert seen == [None, 1, None]

    @pytest.mark.parametrize(
        ("value", "error", "text"),
        [
            (lambda: {"rows": [object()]}, TypeError, r"^the checkpoint\['rows'\]\[0\] of task "),
            (lambda: float("nan"), TypeError, "^the checkpoint of task .* is nan"),
            (lambda: "x" * 100, ValueError, "^the checkpoint of task .* more than 90 bytes"),
        ],
    )
    def test_what_cannot_be_kept(self, make_app, value, error, text):
        @acting
        def refused():
            current_task.checkpoint(value())

        with make_app(DELAY_JOURNAL_MAX_BYTES=90).app_context(), pytest.raises(error, match=text):
            refused.delay().result(DEADLINE)

    def test_it_costs_little(self, app):
        @acting
        def measures():
            begin = time.perf_counter()
            for number in range(10_000):
                current_task.checkpoint(number)
            return (time.perf_counter() - begin) / 10_000

        # The goal is 5 us. This is to notice if one waits for the file.
        assert measures.delay().result(DEADLINE) < 50e-6


class TestSteps:
    @pytest.mark.parametrize("failures", [0, 1, 2])
    def test_once_for_each_task(self, app, failures):
        receipt = {"order": 7, "amount": Decimal("1.10"), "on": date(2026, 11, 30)}
        assert pay.delay(7, failures).result(DEADLINE) == (7, receipt)
        assert seen == ["charge", *["mail"] * (failures + 1)]

    def test_of_each_task(self, app):
        for _ in range(2):
            assert pay.delay(7, 0).result(DEADLINE)[0] == 7
        assert seen == ["charge", "mail"] * 2

    def test_no_name_twice(self, app):
        text = 'the step "a" was used before in this attempt of task "steps": give each'
        with pytest.raises(ValueError, match=text):
            steps.delay(("a", 1), ("b", 1), ("a", 2)).result(DEADLINE)

    def test_a_result_that_cannot_be_kept(self, app):
        with pytest.raises(TypeError, match='^the result of the step "sell" of task .* object'):
            step_of_an_object.delay().result(DEADLINE)
        with pytest.raises(TypeError, match='^the result of the step "sell" of task .* object'):
            step_of_an_object_async.delay().result(DEADLINE)

    def test_one_that_raises_may_be_called_again(self, app):
        assert step_again.delay().result(DEADLINE) == 3

    def test_the_result_is_a_copy(self, app):
        @acting
        def copied():
            made = [(1, 2)]
            got = current_task.step("make", lambda: made)
            return got == made, got is made

        assert copied.delay().result(DEADLINE) == (True, False)

    @pytest.mark.parametrize("failures", [0, 2])
    def test_of_a_coroutine(self, app, failures):
        assert pay_async.delay(failures).result(DEADLINE) == {"amount": 7, "currency": "EUR"}
        assert seen == ["begin", "charge", *["mail"] * (failures + 1)]

    def test_no_name_twice_in_a_coroutine(self, app):
        with pytest.raises(ValueError, match='the step "wait" was used before'):
            step_twice.delay().result(DEADLINE)

    def test_a_coroutine_function_needs_a_coroutine(self, app):
        text = 'the step "wait" is a coroutine function, and the task "step_of_a_coroutine" is not'
        with pytest.raises(TypeError, match=text):
            step_of_a_coroutine.delay().result(DEADLINE)

    @pytest.mark.parametrize("args", [(), ("a",), (1, int)])
    def test_arguments(self, app, args):
        @acting
        def badly():
            current_task.step(*args)

        with pytest.raises(TypeError, match=r"step\(\)|the name of a step is 1, but must be a str"):
            badly.delay().result(DEADLINE)

    def test_a_result_that_is_too_long(self, app):
        text = (
            '^the result of the step "long" of task "long_step" would take more than 1000000 bytes'
        )
        with pytest.raises(ValueError, match=text):
            long_step.delay().result(DEADLINE)


class TestTrack:
    def test_what_was_done_is_skipped(self, app):
        progress = loops.delay("abc", "defg", "f").result(DEADLINE)
        assert "".join(seen) == "abcdefg"
        assert (progress.done, progress.total) == (4, 4)

    def test_an_asynchronous_one(self, app):
        loop_async.delay(5).result(DEADLINE)
        assert seen == [0, 1, 2, 3, 4]

    def test_fewer_items_than_were_done(self, app):
        @acting
        def shrinks():
            rows = list(track(range(9 - 5 * current_task.attempt), resume=True))
            if current_task.attempt == 1:
                raise ConnectionError
            return rows

        assert shrinks.delay().result(DEADLINE) == []

    def test_one_at_a_time(self, app):
        with pytest.raises(RuntimeError, match=r"track\(resume=True\) is inside of another one"):
            nested_loops.delay().result(DEADLINE)

    def test_one_that_was_left(self, app):
        @acting
        def leaves():
            for row in track("abc", resume=True):
                if row == "b":
                    break
            rows = list(track("def", resume=True))
            if current_task.attempt == 1:
                raise ConnectionError
            return rows

        assert leaves.delay().result(DEADLINE) == []

    def test_it_does_not_touch_the_checkpoint(self, app):
        @acting
        def both():
            for row in track(range(3), resume=True):
                current_task.checkpoint({"row": row})
            if current_task.attempt == 1:
                raise ConnectionError
            return current_task.checkpointed

        assert both.delay().result(DEADLINE) == {"row": 2}

    def test_where_no_task_runs(self):
        assert list(track("abc", resume=True)) == ["a", "b", "c"]


class TestPlain:
    @pytest.mark.parametrize("what", ["checkpoint", "checkpointed", "step"])
    def test_refused(self, app, what):
        text = f'current_task.{what}.* is for durable tasks, and this task "plain" is not one'
        with pytest.raises(RuntimeError, match=text):
            delay(plain, what).result(DEADLINE)

    def test_a_loop(self, app):
        assert delay(plain, "track").result(DEADLINE) == [0, 1, 2]

    def test_outside_a_task(self):
        for act in (
            lambda: current_task.checkpoint(1),
            lambda: current_task.checkpointed,
            lambda: current_task.step("a", int),
        ):
            with pytest.raises(RuntimeError, match="no task runs on this thread"):
                act()

    def test_in_a_thread_of_the_task(self, app):
        @acting
        def threaded():
            told = []

            def work():
                try:
                    current_task.checkpoint(1)
                except RuntimeError as error:
                    told.append(str(error))

            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
            return told

        (told,) = threaded.delay().result(DEADLINE)
        assert "no task runs on this thread" in told


class TestWithoutAJournal:
    """In tests, where a task runs at once."""

    @pytest.fixture(params=["immediate", "manual"])
    def run(self, request, tmp_path):
        app = Flask("app", static_folder=None, instance_path=str(tmp_path))
        app.config.update(DELAY_MODE=request.param, DELAY_JOURNAL_MAX_BYTES=90)
        executor = Delay(app)

        def run(call):
            future = call()
            while request.param == "manual" and not future.done():
                executor.run_pending()
            return future.result(DEADLINE)

        with app.app_context():
            yield run

    def test_checkpoints(self, run):
        assert run(lambda: count_up.delay(1, (2, 3))) == (2, 3)
        assert seen == [None, 1, (2, 3)]

    def test_steps(self, run):
        assert run(lambda: pay.delay(7, 2))[0] == 7
        assert seen == ["charge", "mail", "mail", "mail"]
        with pytest.raises(ValueError, match='the step "a" was used before'):
            run(lambda: steps.delay(("a", 1), ("a", 2)))
        with pytest.raises(TypeError, match='^the result of the step "sell"'):
            run(step_of_an_object.delay)

    def test_steps_of_a_coroutine(self, run):
        assert run(lambda: pay_async.delay(1)) == {"amount": 7, "currency": "EUR"}
        assert seen == ["begin", "charge", "mail", "mail"]

    def test_loops(self, run):
        run(lambda: loops.delay("abc", "defg", "f"))
        assert "".join(seen) == "abcdefg"

    def test_what_is_refused(self, run):
        with pytest.raises(ValueError, match="more than 90 bytes"):
            run(lambda: keep.delay("x" * 50 + "y" * 38))
        with pytest.raises(RuntimeError, match="is for durable tasks"):
            run(lambda: delay(plain, "checkpoint"))

    def test_by_the_setting(self, tmp_path):
        app = Flask("app", static_folder=None, instance_path=str(tmp_path))
        app.config.update(DELAY_MODE="immediate", DELAY_DURABLE=True)
        Delay(app)
        with app.app_context():
            assert delay(keep.__wrapped__, 1).result() == 1


# --- Several processes ----------------------------------------------------------------

CODE = """
from flask_delay import track

@task(durable=True)
def count_to(steps, name, *, swallows=False):
    begun = current_task.checkpointed or 0
    note("begins", attempt=current_task.attempt, at=begun)
    for number in range(begun, steps):
        if number == steps // 2:
            while not (folder / name).exists():
                current_task.check()
                time.sleep(0.005)
                if swallows:
                    try:
                        current_task.checkpoint(number)
                    except BaseException:
                        raise LookupError("in an except clause")
        try:
            current_task.checkpoint(number + 1)
        except Exception:
            note("caught")
        note("counts", number=number)
        if number >= steps // 2:
            time.sleep(0.005)
    return os.getpid()

@task(durable=True)
def rows(count, name):
    note("begins", attempt=current_task.attempt)
    for row in track(range(count), resume=True):
        note("row", row=row)
        if row >= count // 2:
            while not (folder / name).exists() and row < count // 2 + 1:
                current_task.check()
                time.sleep(0.005)

@task(durable=True)
def pay(name):
    note("begins", attempt=current_task.attempt)
    paid = current_task.step("charge", charge)
    current_task.checkpoint("charged")
    mailed = current_task.step("mail", mail, name)
    return paid, mailed, current_task.checkpointed

def charge():
    note("charge")
    return os.getpid()

def mail(name):
    note("mail")
    while not (folder / name).exists():
        current_task.check()
        time.sleep(0.005)
    return os.getpid()

@task(durable=True)
async def pay_async(name):
    note("begins", attempt=current_task.attempt)
    async def charge():
        note("charge")
        return os.getpid()
    paid = await current_task.step("charge", charge)
    while not (folder / name).exists():
        current_task.checkpoint("waits")
        await asyncio.sleep(0.005)
    return paid, current_task.checkpointed
"""


@pytest.fixture
def pair(start):
    """One that runs a task already, with a single worker, and another one."""
    return start(CODE, DELAY_MAX_WORKERS=1), start(CODE, DELAY_MAX_WORKERS=1)


class TestCrash:
    def test_a_checkpoint(self, pair, notes, stored, wait_until):
        one, two = pair
        id = one("count_to.delay(20, 'go').id")
        assert wait_until(lambda: len(noted(notes, "counts")) == 10)
        # It is written some milliseconds later.
        assert wait_until(lambda: stored() == "10")
        one.kill()
        two("go('go')")
        assert two(f"executor.get({id!r}).result(20)") == two.pid
        first, second = noted(notes, "begins")
        assert (first["at"], second["at"], second["attempt"]) == (0, 10, 2)
        assert [it["number"] for it in noted(notes, "counts")] == list(range(20))

    def test_a_loop(self, pair, notes, stored, wait_until):
        one, two = pair
        id = one("rows.delay(10, 'go').id")
        assert wait_until(lambda: len(noted(notes, "row")) == 6)
        assert wait_until(lambda: stored() == "5")
        one.kill()
        two("go('go')")
        two(f"executor.get({id!r}).result(20)")
        # The one in which it died was not done.
        assert [it["row"] for it in noted(notes, "row")] == [*range(6), *range(5, 10)]
        page = two(f"look({id!r})")
        assert page["progress"]["done"] == 10

    @pytest.mark.parametrize("ask", ["pay.delay('go').id", "pay_async.delay('go').id"])
    def test_steps(self, pair, notes, stored, wait_until, ask):
        one, two = pair
        id = one(ask)
        assert wait_until(lambda: noted(notes, "charge") and stored())
        one.kill()
        two("go('go')")
        result = two(f"executor.get({id!r}).result(20)")
        assert result[0] == one.pid
        assert result[-1] in {"charged", "waits"}
        assert len(noted(notes, "charge")) == 1
        # One that had begun has run again.
        begun = {it["pid"] for it in noted(notes, "mail")}
        assert begun == ({one.pid, two.pid} if ask.startswith("pay.") else set())

    def test_a_retry_elsewhere(self, start, notes, wait_until):
        code = (
            CODE
            + """
@task(durable=True, retry=Retry(3, waits=[0.5]))
def flaky():
    paid = current_task.step("charge", charge)
    current_task.checkpoint((current_task.checkpointed or 0) + 1)
    if current_task.attempt < 3:
        raise ConnectionError
    return paid, current_task.checkpointed
"""
        )
        one = start(code)
        id = one("flaky.delay().id")
        assert wait_until(lambda: one(f"look({id!r})['waits']") == "scheduled")
        one.kill()
        two = start(code)
        assert two(f"executor.get({id!r}).result(20)") == (one.pid, 3)


class TestDeploy:
    """A process is told to end, and what it runs goes on in the next one."""

    @pytest.mark.parametrize("kind", ["signal", "end"])
    def test_a_checkpoint(self, start, notes, tmp_path, wait_until, kind):
        steps, go = 1000, tmp_path / "go"
        one = start(CODE, DELAY_SHUTDOWN_TIMEOUT=600)
        id = one(f"count_to.delay({steps}, 'go').id")
        assert wait_until(lambda: len(noted(notes, "counts")) == 500)
        one("go('go')" if kind == "end" else "None")
        if kind == "end":
            one.end()
        else:
            one.signal(signal.SIGTERM)
            time.sleep(0.3)
            go.touch()
            one.wait()
        counted = len(noted(notes, "counts"))
        assert 500 <= counted < steps
        two = start(CODE)
        assert two(f"executor.get({id!r}).result(20)") == two.pid
        first, second = noted(notes, "begins")
        # The one that was kept when it was told to end.
        assert (first["at"], second["at"]) == (0, counted + 1)
        # The attempt that was ended does not count, nor is the process dead.
        assert second["attempt"] == 1
        page = two(f"look({id!r})")
        assert (page["attempts"], page["deaths"]) == (1, 0)
        assert not noted(notes, "caught")

    def test_an_exception_on_the_way(self, start, notes, wait_until):
        one = start(CODE)
        id = one("count_to.delay(10, 'go', swallows=True).id")
        assert wait_until(lambda: len(noted(notes, "counts")) == 5)
        one.signal(signal.SIGTERM)
        one.wait()
        two = start(CODE)
        two("go('go')")
        assert two(f"executor.get({id!r}).result(20)") == two.pid
        assert [it["attempt"] for it in noted(notes, "begins")] == [1, 1]

    def test_a_loop(self, start, notes, wait_until):
        code = (
            CODE
            + """
@task(durable=True)
def endless(count):
    for row in track(range(count), resume=True):
        note("row", row=row)
        time.sleep(0.002)
"""
        )
        one = start(code, DELAY_SHUTDOWN_TIMEOUT=600)
        id = one("endless.delay(400).id")
        assert wait_until(lambda: len(noted(notes, "row")) > 10)
        one.signal(signal.SIGTERM)
        one.wait()
        two = start(code)
        two(f"executor.get({id!r}).result(20)")
        assert [it["row"] for it in noted(notes, "row")] == list(range(400))
        assert len({it["pid"] for it in noted(notes, "row")}) == 2

    def test_a_coroutine(self, start, notes, stored, wait_until):
        one = start(CODE, DELAY_SHUTDOWN_TIMEOUT=600)
        id = one("pay_async.delay('go').id")
        assert wait_until(lambda: noted(notes, "charge") and stored())
        one.signal(signal.SIGTERM)
        one.wait()
        two = start(CODE)
        two("go('go')")
        assert two(f"executor.get({id!r}).result(20)") == (one.pid, "waits")
        assert [it["attempt"] for it in noted(notes, "begins")] == [1, 1]
        assert len(noted(notes, "charge")) == 1

    def test_another_process_takes_it_at_once(self, pair, notes, wait_until):
        """Its waiters in the process that ends hear of its end, too."""
        one, two = pair
        one("future = count_to.delay(10, 'go')")
        assert wait_until(lambda: len(noted(notes, "counts")) == 5)
        one("executor.shutdown(wait=False)")
        two("go('go')")
        assert one("future.result(20)") == two.pid
        assert [it["attempt"] for it in noted(notes, "begins")] == [1, 1]

    def test_one_that_was_told_to_stop(self, start, notes, wait_until):
        code = (
            CODE
            + """
@task(durable=True)
def stubborn():
    note("begins")
    while True:
        current_task.checkpoint(1)
        time.sleep(0.005)
"""
        )
        one = start(code)
        id = one("stubborn.delay().id")
        assert wait_until(lambda: noted(notes, "begins"))
        one(f"executor.get({id!r}).stop(after=None)")
        one.signal(signal.SIGTERM)
        one.wait()
        two = start(code)
        assert two(f"executor.get({id!r}).cancelled()")

    def test_in_worker_processes(self, start):
        one = start(
            """
@task(durable=True, backend="processes")
def far(what):
    if what == "track":
        return list(flask_delay.track(range(3), resume=True))
    return current_task.checkpoint(1)
""",
            DELAY_APP="shop:app",
        )
        assert one("far.delay('track').result(20)") == [0, 1, 2]
        with pytest.raises(Raised, match="^RuntimeError: .* is not for tasks in worker processes"):
            one("far.delay('checkpoint').result(20)")

    def test_a_child_of_the_task(self, start):
        """It is not the task."""
        one = start(
            CODE
            + """
@task(durable=True)
def forks():
    reading, writing = os.pipe()
    if os.fork() == 0:
        try:
            current_task.checkpoint(1)
        except RuntimeError as error:
            os.write(writing, type(error).__name__.encode())
        os._exit(0)
    os.close(writing)
    told = os.read(reading, 100).decode()
    os.wait()
    return told, current_task.checkpointed
"""
        )
        assert one("forks.delay().result(20)") == ("ForkedFutureError", None)


def test_a_person_can_read_it(app, stored):
    value = {"row": 7, "name": "é"}
    keep.delay(value).result(DEADLINE)
    assert stored() == _journal_encode(value)
