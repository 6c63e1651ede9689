"""`limit`, `rate` and `key` of durable tasks, which count in all processes."""

import time

import pytest
from tests.journal.conftest import Raised, noted

DEADLINE = 30.0

LIMITED = """
@task(HOW, limit=1)
def alone(name):
    note("begins", name=name, account="", at=time.monotonic())
    while not (folder / name).exists():
        current_task.check()
        time.sleep(0.005)
    note("ends", name=name, account="", at=time.monotonic())

@task(HOW, limit=2, key=lambda account: f"account {account}")
def sync(account):
    note("begins", account=account, at=time.monotonic())
    time.sleep(0.05)
    note("ends", account=account, at=time.monotonic())

@task(HOW, rate="4/s")
def fetch():
    note("begins", at=time.monotonic())

@task(HOW, limit=1, key="mailbox")
async def send():
    note("begins", account="mailbox", at=time.monotonic())
    await asyncio.sleep(0.02)
    note("ends", account="mailbox", at=time.monotonic())

@task(durable=True, limit=1, key="mailbox")
def receive():
    note("begins", account="mailbox", at=time.monotonic())
    time.sleep(0.02)
    note("ends", account="mailbox", at=time.monotonic())
"""


def limited(how):
    """Tasks with limits that hold on the machine by this option, and a durable one."""
    return LIMITED.replace("HOW", how)


CODE = (
    limited("durable=True")
    + """
@task(durable=True, limit=1, retry=Retry(3, backoff=0.3, jitter=False))
def flaky(name):
    note("begins", name=name)
    if name == "bad" and current_task.attempt == 1:
        raise OSError
"""
)


@pytest.fixture
def both(start):
    """Two processes with these tasks, of four workers each."""
    return start(CODE, DELAY_MAX_WORKERS=4), start(CODE, DELAY_MAX_WORKERS=4)


def most_at_once(notes, account):
    """How many tasks of a key ran at once, and in which processes."""
    events = [it for it in notes() if it.get("account") == account]
    running = most = 0
    for event in sorted(events, key=lambda it: it["at"]):
        running += 1 if event["what"] == "begins" else -1
        most = max(most, running)
    return most, {it["pid"] for it in events}


def check_rate(notes, since, most):
    """No more starts in any second since then.

    A start counts when it is committed, which may be long before the function notes it: each of
    them is held to those before it, whose first one was not before `since`.
    """
    begins = sorted(it["at"] for it in noted(notes, "begins"))
    for number, at in enumerate(begins):
        assert at - since > number // most - 0.01
    return len(begins)


def submit_and_wait(processes, *calls):
    ids = [[process(f"{call}.id") for call in calls] for process in processes]
    for process, mine in zip(processes, ids, strict=True):
        for id in mine:
            process(f"executor.get({id!r}).result(20)")


class TestLimit:
    def test_of_a_function(self, both, notes, until):
        one, two = both
        first = one("alone.delay('first').id")
        until(one, f"executor.get({first!r}).state == 'running'")
        later = two("alone.delay('second').id")
        # A task of another function passes it.
        assert two("add.delay(1).result(20)") == 2
        assert two(f"executor.get({later!r}).state") == "pending"
        one("go('second')")
        time.sleep(0.1)
        assert len(noted(notes, "begins")) == 1
        one("go('first')")
        two(f"executor.get({later!r}).result(20)")
        assert most_at_once(notes, "")[0] == 1

    def test_of_a_key_for_each_account(self, both, notes, wait_until):
        def have_both_run() -> bool:
            submit_and_wait(both, *["sync.delay('a')"] * 6, *["sync.delay('b')"] * 3)
            most, pids = most_at_once(notes, "a")
            assert most == 2
            assert most_at_once(notes, "b")[0] == 2
            return pids == {process.pid for process in both}

        # A process that is quick enough takes all of a batch.
        assert wait_until(have_both_run)

    def test_of_a_key_that_functions_share(self, both, notes):
        calls = ["send.delay()", "receive.delay()"]
        submit_and_wait(both, *calls * 4, "using(limit=1, key='mailbox').delay(receive)")
        assert most_at_once(notes, "mailbox")[0] == 1

    def test_after_the_death_of_a_process(self, both, notes, until):
        one, two = both
        first = one("alone.delay('go').id")
        until(one, f"executor.get({first!r}).state == 'running'")
        ids = [two("alone.delay('go').id") for _ in range(2)]
        one.kill()
        two("go('go')")
        for id in [first, *ids]:
            two(f"executor.get({id!r}).result(20)")
        # The first of the three begins for the second time.
        begun = noted(notes, "begins")
        assert [it["pid"] for it in begun] == [one.pid, two.pid, two.pid, two.pid]

    def test_is_not_held_while_an_attempt_is_awaited(self, both, notes):
        one, two = both
        bad = one("flaky.delay('bad').id")
        good = two("flaky.delay('good').id")
        one(f"executor.get({bad!r}).result(20)")
        two(f"executor.get({good!r}).result(20)")
        assert [it["name"] for it in noted(notes, "begins")] == ["bad", "good", "bad"]

    def test_says_what_holds_a_task_up(self, both, until):
        one, two = both
        first = one("using(limit=1, key='mailbox').delay(alone, 'first').id")
        until(one, f"executor.get({first!r}).state == 'running'")
        id = two("using(limit=1, key='mailbox').delay(alone, 'second').id")
        view = "(lambda it: (it.state, it.waits, it.reason, it.due))"
        assert two(f"{view}(executor.tasks()[0])") == (
            "blocked",
            "limit",
            'key "mailbox": 1 of 1 run',
            None,
        )
        page = two(f"look({id!r})")
        assert (page["state"], page["waits"], page["reason"]) == (
            "pending",
            "limit",
            'key "mailbox": 1 of 1 run',
        )
        assert two("executor.stats()['journal']['blocked']") == 1
        assert two(f"executor.get({id!r}).cancel()") is True
        one("go('first')")
        one(f"executor.get({first!r}).result(20)")

    def test_is_not_held_by_a_paused_function(self, both, until):
        one, two = both
        first = one("alone.using(key='mailbox').delay('first').id")
        until(one, f"executor.get({first!r}).state == 'running'")
        blocked = two("alone.using(key='mailbox').delay('first').id")
        two("executor.pause('alone')")
        passing = two("receive.delay().id")
        one("go('first')")
        one(f"executor.get({passing!r}).result(20)")
        assert two(f"executor.get({blocked!r}).done()") is False
        two("executor.resume('alone')")
        two(f"executor.get({blocked!r}).result(20)")


class TestRate:
    def test_of_a_function(self, both, notes):
        since = time.monotonic()
        submit_and_wait(both, *["fetch.delay()"] * 6)
        assert check_rate(notes, since, 4) == 12

    def test_says_until_when(self, both):
        one, two = both
        assert one("using(rate='1/h').delay(add, 1).result(20)") == 2
        two("using(rate='1/h').delay(add, 1).id")
        waits, reason, seconds = two(
            "(lambda it: (it.waits, it.reason, (it.due - it.enqueued_at).total_seconds()))"
            "(executor.tasks()[0])"
        )
        assert (waits, reason) == ("rate", "add: 1/h")
        assert 3590 < seconds <= 3600

    def test_counts_attempts(self, start, notes):
        process = start(
            CODE + "\n@task(durable=True, rate='2/s', retry=Retry(2, waits=[0.0]))\ndef often():\n"
            "    note('begins', at=time.monotonic())\n    raise OSError\n"
        )
        since = time.monotonic()
        process("often.delay().exception(20)")
        assert check_rate(notes, since, 2) == 3


class TestKey:
    def test_is_a_value_that_the_journal_can_keep(self, both):
        one, two = both
        assert one("using(limit=1, key=(1, 'a')).delay(add, 1).result(20)") == 2
        with pytest.raises(Raised, match="^TypeError"):
            one("using(limit=1, key=object()).delay(add, 1)")
        with pytest.raises(Raised, match="^ZeroDivisionError"):
            two("using(rate='1/s', key=lambda it: 1 / 0).delay(add, 1)")
