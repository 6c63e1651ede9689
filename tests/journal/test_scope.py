"""`scope="machine"`: `limit` and `rate` of plain tasks, which count in all processes."""

import os
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from flask import Flask
from tests.journal.conftest import Raised, noted
from tests.journal.test_limits import check_rate, limited, most_at_once

from flask_delay import Delay, WaitCycleError, delay, task, using

DEADLINE = 30.0

CODE = (
    limited('scope="machine"')
    + """
@task(limit=1, scope="machine", retry=Retry(3, backoff=0.3, jitter=False))
def flaky(name):
    note("begins", name=name)
    if name == "bad" and current_task.attempt == 1:
        while not (folder / "fail").exists():
            time.sleep(0.005)
        raise OSError

def permits():
    import sqlite3
    with sqlite3.connect(app.config["DELAY_JOURNAL"]) as connection:
        return connection.execute("SELECT count(*) FROM task WHERE published = 2").fetchone()[0]

made = {}

def keep(name, future):
    made[name] = future
"""
)


@pytest.fixture
def both(start):
    """Two processes with these tasks, of four workers each."""
    return start(CODE, DELAY_MAX_WORKERS=4), start(CODE, DELAY_MAX_WORKERS=4)


def all_end(processes, *calls):
    """Submit these calls in each process, and wait for all of them."""
    for process in processes:
        for place, call in enumerate(calls):
            process(f"keep({place}, {call})")
    for process in processes:
        for place in range(len(calls)):
            process(f"made[{place}].result(20)")


class TestLimit:
    def test_of_a_function(self, both, notes, until):
        one, two = both
        one("keep('first', alone.delay('first'))")
        until(one, "made['first'].running()")
        two("keep('second', alone.delay('second'))")
        # It holds no worker, and a task of another function passes it.
        assert two("using(limit=1, scope='machine').delay(abs, -3).result(20)") == 3
        assert two("made['second'].state") == "pending"
        assert two("executor.stats()['held']") == 1
        one("go('second')")
        time.sleep(0.1)
        assert len(noted(notes, "begins")) == 1
        one("go('first')")
        two("made['second'].result(20)")
        assert most_at_once(notes, "")[0] == 1
        until(one, "permits() == 0")

    def test_of_a_key_for_each_account(self, both, notes):
        all_end(both, *["sync.delay('a')"] * 6, *["sync.delay('b')"] * 3)
        most, pids = most_at_once(notes, "a")
        assert most == 2
        assert pids == {process.pid for process in both}
        assert most_at_once(notes, "b")[0] == 2

    def test_of_a_key_that_plain_and_durable_tasks_share(self, both, notes):
        all_end(both, *["send.delay()", "receive.delay()"] * 4)
        assert most_at_once(notes, "mailbox")[0] == 1

    def test_of_a_function_that_is_durable_elsewhere(self, both, notes, until):
        one, two = both
        one("keep('first', alone.delay('first'))")
        until(one, "made['first'].running()")
        two("keep('second', alone.using(durable=True).delay('second'))")
        two("go('second')")
        view = "(lambda it: (it.state, it.waits, it.reason))(executor.tasks()[0])"
        assert two(view) == ("blocked", "limit", "alone: 1 of 1 run")
        assert len(two("executor.tasks()")) > 0
        one("go('first')")
        two("made['second'].result(20)")
        assert most_at_once(notes, "")[0] == 1

    def test_after_the_death_of_a_process(self, both, notes, until):
        one, two = both
        one("keep('first', alone.delay('first'))")
        until(one, "made['first'].running()")
        one("keep('lost', alone.delay('lost'))")
        two("keep('second', alone.delay('second'))")
        two("go('second')")
        time.sleep(0.1)
        assert two("made['second'].done()") is False
        one.kill()
        two("made['second'].result(20)")
        assert [it["name"] for it in noted(notes, "begins")] == ["first", "second"]
        until(two, "permits() == 0")

    def test_is_not_held_while_an_attempt_is_awaited(self, both, notes, until):
        one, two = both
        one("keep('bad', flaky.delay('bad'))")
        until_noted(notes, 1)
        two("keep('good', flaky.delay('good'))")
        until(two, "permits() == 2")
        two("go('fail')")
        one("made['bad'].result(20)")
        two("made['good'].result(20)")
        assert [it["name"] for it in noted(notes, "begins")] == ["bad", "good", "bad"]

    def test_ends_by_cancel_stop_and_expiry(self, both, until):
        one, two = both
        one("keep('first', alone.delay('first'))")
        until(one, "made['first'].running()")
        two("keep('cancelled', alone.delay('x'))")
        two("keep('stopped', alone.delay('x'))")
        two("keep('late', alone.using(expires=0.2).delay('x'))")
        until(two, "permits() == 4")
        assert two("made['cancelled'].cancel()") is True
        assert two("made['stopped'].stop()") is True
        assert two("made['stopped'].cancelled()") is True
        with pytest.raises(Raised, match="^TaskExpired"):
            two("made['late'].result(20)")
        until(two, "permits() == 1")
        two("keep('next', alone.delay('first'))")
        one("go('first')")
        two("made['next'].result(20)")

    @pytest.mark.parametrize("how", ['key="sleepy", scope="machine"', "durable=True"])
    def test_counts_code_that_goes_on_after_its_timeout(self, both, notes, how):
        one, two = both
        code = f"""
def sleepy():
    note("begins", account="", at=time.monotonic())
    time.sleep(1.0)
sleepy = task(limit=1, timeout=0.1, {how})(sleepy)
"""
        for process in both:
            process(code)
        one("keep('first', sleepy.delay())")
        until_noted(notes, 1)
        two("keep('second', sleepy.using(timeout=5).delay())")
        with pytest.raises(Raised, match="^TaskTimeout"):
            one("made['first'].result(20)")
        two("made['second'].result(20)")
        # The first one's exception may come at any place after the sleep.
        begins = [it["at"] for it in noted(notes, "begins")]
        assert begins[1] - begins[0] > 0.95

    def test_says_what_holds_a_task_up(self, both, until):
        one, two = both
        one("keep('first', alone.using(key='mailbox').delay('first'))")
        until(one, "made['first'].running()")
        two("keep('second', alone.using(key='mailbox').delay('second'))")
        until(two, "permits() == 2")
        page = two("look(made['second'].id)")
        assert (page["state"], page["waits"], page["reason"]) == (
            "pending",
            "limit",
            'key "mailbox": 1 of 1 run',
        )
        assert "waits" not in one("look(made['first'].id)")
        assert two("made['second'].cancel()") is True
        assert "waits" not in two("look(made['second'].id)")
        one("go('first')")
        one("made['first'].result(20)")

    def test_goes_by_priority(self, both, notes, until):
        one, two = both
        one("keep('first', alone.delay('first'))")
        until(one, "made['first'].running()")
        two("keep('low', alone.delay('first'))")
        one("keep('high', alone.using(priority=10).delay('second'))")
        until(one, "permits() == 3")
        one("go('second')")
        one("go('first')")
        two("made['low'].result(20)")
        assert [it["name"] for it in noted(notes, "begins")] == ["first", "second", "first"]

    def test_at_exit(self, both, notes, until):
        one, two = both
        two("keep('first', alone.delay('first'))")
        until(two, "made['first'].running()")
        one("keep('second', alone.delay('second'))")
        until(one, "permits() == 2")
        two("go('second')")
        # What was accepted is waited for.
        first = Path(one("str(folder / 'first')"))
        threading.Timer(0.3, first.touch).start()
        assert one.end() == 0
        assert {it["name"] for it in noted(notes, "ends")} == {"first", "second"}

    def test_in_a_forked_child(self, both, notes, until):
        one, _ = both
        one("keep('first', alone.delay('first'))")
        until(one, "made['first'].running()")
        one("go('second')")
        first = one("str(folder / 'first')")
        threading.Timer(0.3, Path(first).touch).start()
        assert one("fork(lambda: alone.delay('second').exception(20))") is None
        assert [it["name"] for it in noted(notes, "begins")] == ["first", "second"]


def until_noted(notes, count):
    deadline = time.monotonic() + DEADLINE
    while len(noted(notes, "begins")) < count:
        assert time.monotonic() < deadline
        time.sleep(0.005)


class TestRate:
    def test_of_a_function(self, both, notes):
        since = time.monotonic()
        all_end(both, *["fetch.delay()"] * 6)
        assert check_rate(notes, since, 4) == 12

    def test_shares_starts_with_durable_tasks(self, both, notes):
        since = time.monotonic()
        all_end(both, "fetch.delay()", "fetch.using(durable=True).delay()", "fetch.delay()")
        assert check_rate(notes, since, 4) == 6


class TestCircles:
    def test_through_the_own_key(self, make):
        with make(DELAY_JOURNAL=True).app_context():
            limited = using(limit=1, scope="machine", key="one")

            def inner():
                return 7

            def middle():
                return limited.delay(inner).result(DEADLINE)

            def outer():
                return delay(middle).result(DEADLINE)

            error = limited.delay(outer).exception(DEADLINE)
            assert isinstance(error, WaitCycleError)
            first, second, third = (fn.__qualname__ for fn in (outer, middle, inner))
            assert str(error) == (
                f'waiting for task "{third}" would never end: {second} waits for {third}, '
                f"whose key is held by {first}, which waits for {second}"
            )
            # All of them have left the lane.
            assert limited.delay(inner).result(DEADLINE) == 7

    def test_two_keys_refuse_one_of_two(self, make):
        with make(DELAY_JOURNAL=True).app_context():
            for _ in range(5):
                met = threading.Barrier(2)

                def outer(other, met=met):
                    met.wait(DEADLINE)
                    inner = using(limit=1, scope="machine", key=other).delay(os.getpid)
                    met.wait(DEADLINE)
                    return inner.result(DEADLINE)

                futures = [
                    using(limit=1, scope="machine", key=key).delay(outer, other)
                    for key, other in (("a", "b"), ("b", "a"))
                ]
                errors = [future.exception(DEADLINE) for future in futures]
                assert [type(error) for error in errors if error] == [WaitCycleError]

    def test_a_coroutine(self, make):
        with make(DELAY_JOURNAL=True).app_context():
            limited = using(limit=1, scope="machine", key="one")

            async def outer():
                return await limited.delay(os.getpid)

            assert isinstance(limited.delay(outer).exception(DEADLINE), WaitCycleError)

    @pytest.mark.parametrize("options", [{"limit": 2}, {"rate": "1/s"}, {"limit": 1, "key": "two"}])
    def test_what_is_none(self, make, options):
        with make(DELAY_JOURNAL=True).app_context():
            limited = using(**({"key": "one", "scope": "machine"} | options))

            def outer():
                return limited.delay(os.getpid).result(DEADLINE)

            outer_options = {"limit": 2} if "rate" not in options else {"rate": "1/s"}
            future = using(**outer_options, key="one", scope="machine").delay(outer)
            assert future.result(DEADLINE) == os.getpid()


class TestTrouble:
    @pytest.mark.parametrize("way", ["the disk has room", "the process ends"])
    def test_a_place_that_cannot_be_given_back(self, start, faults, wait_until, way):
        one = start(CODE)
        faults.spare_others()
        two = start(CODE)
        one("keep('first', alone.delay('first'))")
        assert wait_until(lambda: one("made['first'].running()"))
        two("keep('second', alone.delay('second'))")
        assert wait_until(lambda: two("permits() == 2"))
        two("go('second')")
        faults.begin("full")
        one("go('first')")
        assert one("made['first'].result(20)") is None
        assert wait_until(lambda: "the places of 1 plain tasks" in one.log())
        # Nothing else is said of tasks.
        assert "run again" not in one.log()
        assert two("made['second'].state") == "pending"
        with pytest.raises(Raised, match=r"^JournalUnavailable: .*make room on its disk"):
            one("alone.delay('third').result(20)")
        if way == "the process ends":
            one.kill()
        else:
            faults.end("full")
        two("made['second'].result(20)")
        assert wait_until(lambda: two("permits() == 0"))

    def test_a_file_that_is_gone(self, both, until):
        one, two = both
        one("keep('first', alone.delay('first'))")
        until(one, "made['first'].running()")
        two("keep('second', alone.delay('second'))")
        until(two, "permits() == 2")
        for end in ("", "-wal", "-shm"):
            Path(two("app.config['DELAY_JOURNAL']") + end).unlink()
        with pytest.raises(Raised, match="^JournalUnavailable.*removed or replaced"):
            two("made['second'].result(20)")
        one("go('first')")
        one("made['first'].result(20)")


@task
def plain():
    return 7


@pytest.fixture
def make(tmp_path):
    made = []

    def make(**config):
        app = Flask("app", instance_path=str(tmp_path / "instance"))
        app.config.update(config)
        Delay(app)
        made.append(app)
        return app

    yield make
    for app in made:
        app.extensions["delay"].owner.shutdown()


class TestOption:
    @pytest.mark.parametrize("value", ["process", "machine"])
    def test_good_values(self, value):
        assert repr(using(limit=1, scope=value)) == f"using(limit=1, scope={value!r})"
        assert repr(task(rate="1/s", scope=value)) == f"task(rate='1/s', scope={value!r})"

    @pytest.mark.parametrize("value", [None, 1, True, "", "Machine", "host", b"machine"])
    def test_bad_values(self, value):
        with pytest.raises((TypeError, ValueError), match="the option 'scope' is .*, but must be"):
            using(limit=1, scope=value)

    @pytest.mark.parametrize("options", [{}, {"unique": True}, {"key": "k", "unique": True}])
    @pytest.mark.parametrize("value", ["process", "machine"])
    def test_without_a_limit(self, value, options):
        with pytest.raises(ValueError, match=r"but neither 'limit' nor 'rate' is set"):
            using(scope=value, **options)

    def test_of_a_durable_task(self):
        with pytest.raises(ValueError, match="the option 'scope' is 'process', but the limit"):
            using(limit=1, scope="process", durable=True)
        using(limit=1, scope="machine", durable=True)

    def test_with_another_backend(self):
        with pytest.raises(ValueError, match="'scope' is not for this backend: its limits hold in"):
            using(limit=1, scope="machine", backend="processes")
        using(limit=1, scope="process", backend="processes")

    def test_without_a_journal(self, make):
        with (
            make().app_context(),
            pytest.raises(ValueError, match="set DELAY_JOURNAL to True, or to the path of a file"),
        ):
            using(limit=1, scope="machine").delay(plain)

    def test_without_an_app(self, run_script):
        # Here, an app of another test may still be there.
        code = "from flask_delay import using; using(limit=1, scope='machine').delay(print)"
        assert "ValueError: the option 'scope' is 'machine', but" in run_script(code).err

    @pytest.mark.parametrize("mode", ["immediate", "manual"])
    def test_without_threads(self, make, mode):
        app = make(DELAY_MODE=mode)
        with app.app_context():
            future = using(limit=1, scope="machine").delay(plain)
            if mode == "manual":
                app.extensions["delay"].executor.run_pending()
            assert future.result(0) == 7

    def test_of_what_has_no_name_elsewhere(self, make):
        with make(DELAY_JOURNAL=True).app_context():
            limited = using(limit=1, scope="machine")
            for fn in (lambda: 7, partial(plain.__wrapped__), "text".upper):
                with pytest.raises(TypeError, match="cannot be counted on the machine"):
                    limited.delay(fn)
            assert using(limit=1, scope="machine", key="k").delay(lambda: 7).result(DEADLINE) == 7
            assert limited.delay(os.getpid).result(DEADLINE) == os.getpid()

    def test_of_a_key_that_cannot_be_stored(self, make):
        with make(DELAY_JOURNAL=True).app_context():
            with pytest.raises(TypeError):
                using(limit=1, scope="machine", key=object()).delay(plain)
            with pytest.raises(ZeroDivisionError):
                using(limit=1, scope="machine", key=lambda: 1 / 0).delay(plain)

    def test_of_many_and_of_followers(self, make):
        with make(DELAY_JOURNAL=True).app_context():
            limited = using(limit=1, scope="machine", key="k")
            assert list(limited.map(abs, range(-3, 0))) == [3, 2, 1]
            step = task(limit=1, scope="machine", key="k")(abs)
            assert delay(int, "-3").then(step).result(DEADLINE) == 3
