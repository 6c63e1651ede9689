"""`Delay.stats()`: what became of tasks, by their names, and how long they waited and ran."""

import asyncio
import functools
import json
import threading
import time
from collections import Counter
from datetime import UTC, datetime

import pytest
from tests.core.helpers import Gate, occupied, together, unlogged

from flask_delay import Delay, Executor, Retry, TaskExpired, current_task

COUNTS = ("done", "failed", "cancelled", "retried")
# As many names as are told apart.
NAMES = 200


@pytest.fixture
def extension(make_app):
    """A Delay whose app is the only one."""
    extension = Delay()
    extension.test_app = make_app(extension=extension, DELAY_MAX_WORKERS=2)
    with unlogged():
        yield extension


def counts(figures):
    return tuple(figures[name] for name in COUNTS)


def fail():
    raise LookupError("no such row")


async def double(value):
    return 2 * value


def called(name, function=int):
    """A function of that name, new each time."""

    def make():
        return function()

    # Not the same object as the name of another one.
    make.__qualname__ = "".join(name)
    return make


def test_nothing_yet(extension):
    assert counts(extension.stats()) == (0, 0, 0, 0)
    assert extension.stats()["tasks"] == {}


def test_a_plain_executor_counts_nothing():
    with Executor(1) as executor:
        executor.submit(int).result()
        assert not {*COUNTS, "tasks"} & executor.stats().keys()


@pytest.mark.parametrize("mode", ["threads", "immediate", "manual"])
def test_each_end(make_app, deadline, mode):
    extension = Delay()
    make_app(extension=extension, DELAY_MODE=mode)
    with unlogged():
        futures = [extension.delay(fn) for fn in (int, int, fail, fail, fail)]
        futures.append(extension.delay(double, 2))
        if mode == "manual":
            assert extension.delay(int).cancel()
        extension.drain(deadline)
    assert all(future.done() for future in futures)
    cancelled = int(mode == "manual")
    stats = extension.stats()
    assert counts(stats) == (3, 3, cancelled, 0)
    assert {name: counts(it) for name, it in stats["tasks"].items()} == {
        "int": (2, 0, cancelled, 0),
        "fail": (0, 3, 0, 0),
        "double": (1, 0, 0, 0),
    }
    assert {name: it["run"]["count"] for name, it in stats["tasks"].items()} == {
        "int": 2,
        "fail": 3,
        "double": 1,
    }


def test_under_load_everything_adds_up(make_app, deadline):
    extension = Delay()
    make_app(extension=extension, DELAY_MAX_WORKERS=4)
    each, cancelled = 500, []

    def submit():
        futures = [
            extension.delay(fn, *args)
            for _ in range(each)
            for fn, args in ((int, ()), (fail, ()), (double, (1,)))
        ]
        cancelled.append(sum(future.cancel() for future in futures[::7]))

    with unlogged():
        together(*[submit] * 4, *[lambda: [extension.stats() for _ in range(50)]] * 2)
        assert extension.drain(deadline)
    stats = extension.stats()
    tasks = stats["tasks"]
    assert {name: sum(counts(it)) for name, it in tasks.items()} == dict.fromkeys(
        ("int", "fail", "double"), 4 * each
    )
    assert stats["cancelled"] == sum(cancelled)
    assert (tasks["fail"]["done"], tasks["int"]["failed"], stats["retried"]) == (0, 0, 0)
    for it in tasks.values():
        ended = it["done"] + it["failed"]
        assert it["wait"]["count"] == it["run"]["count"] == ended
    assert sum(counts(stats)) == 12 * each


def test_counted_before_result_returns_and_callbacks_run(make_app, deadline):
    extension = Delay()
    # One worker, so that no later task ends before a callback of an earlier one.
    make_app(extension=extension, DELAY_MAX_WORKERS=1)
    seen = []
    for number in range(1, 50):
        future = extension.delay(int)
        future.add_done_callback(lambda _: seen.append(extension.stats()["done"]))
        future.result(deadline)
        assert extension.stats()["done"] == number
    assert extension.drain(deadline)
    assert seen == list(range(1, 50))


def test_times_are_those_that_passed(make_app, deadline):
    extension = Delay()
    make_app(extension=extension, DELAY_MAX_WORKERS=1)
    gate = Gate()
    first = extension.delay(gate)
    assert gate.entered.wait(deadline)
    begin = time.monotonic()
    futures = [extension.delay(time.sleep, 0.05) for _ in range(3)]
    time.sleep(0.1)
    gate.open()
    for future in (first, *futures):
        future.result(deadline)
    most = time.monotonic() - begin
    slept = extension.stats()["tasks"]["sleep"]
    assert slept["run"]["count"] == slept["wait"]["count"] == 3
    for key, least in (("run", 0.05), ("wait", 0.1)):
        times = slept[key]
        assert least * 0.98 <= times["p50"] <= times["p90"] <= times["p99"] <= times["max"]
        assert least * 0.98 <= times["mean"] <= times["max"] <= most * 1.02
    # The last one has waited for the two before it.
    assert slept["wait"]["max"] >= 0.2 * 0.98
    assert extension.stats()["tasks"]["Gate"]["wait"]["max"] < 0.1


@pytest.mark.parametrize("option", ["countdown", "eta"])
def test_the_time_before_which_it_may_not_start_is_no_wait(extension, deadline, option):
    later, stays = 0.3, 0.1
    begin = time.time()
    at = later if option == "countdown" else datetime.fromtimestamp(begin + later, UTC)
    with occupied(extension.executor, 2):
        future = extension.using(**{option: at}).delay(int)
        assert extension.stats()["held"] == 1
        while not extension.stats()["queued"]:
            time.sleep(0.001)
        # That it waits for a worker then is one.
        time.sleep(stays)
    future.result(deadline)
    most = time.time() - begin - later
    wait = extension.stats()["tasks"]["int"]["wait"]
    assert wait["count"] == 1
    assert stays * 0.98 <= wait["max"] <= most * 1.02


def test_the_countdown_of_a_follower_begins_with_the_end_of_the_other(extension, deadline):
    later, gate = 0.2, Gate()

    @extension.task(countdown=later)
    def follow(result):
        return result

    begin = time.time()
    follower = extension.delay(gate, 1).then(follow)
    # Longer than the countdown.
    time.sleep(2 * later)
    gate.open()
    assert follower.result(deadline) == 1
    most = time.time() - begin - 3 * later
    wait = extension.stats()["tasks"][follow.__qualname__]["wait"]
    assert wait["max"] <= most * 1.02


def test_figures_are_json(extension, deadline):
    extension.delay(int).result(deadline)
    stats = extension.stats()
    assert json.loads(json.dumps(stats)) == stats
    assert {type(value) for key, value in stats.items() if key != "tasks"} == {int}
    histogram = stats["tasks"]["int"]["run"]
    assert list(histogram) == ["count", "mean", "p50", "p90", "p99", "max"]
    assert [type(value) for value in histogram.values()] == [int, *[float] * 5]


def test_equal_names_are_one(extension, deadline):
    names = [list("prüfe"), list("prüfe"), list("other")]
    functions = [called(name) for name in names]
    assert functions[0].__qualname__ is not functions[1].__qualname__
    for function in (*functions, functools.partial(functions[0])):
        extension.delay(function).result(deadline)
    tasks = extension.stats()["tasks"]
    assert {name: it["done"] for name, it in tasks.items()} == {"prüfe": 3, "other": 1}


def test_a_name_that_is_no_text_elsewhere(extension, deadline):
    extension.delay(called("a\udcff")).result(deadline)
    (name,) = extension.stats()["tasks"]
    assert name.startswith("a")
    assert json.dumps(name)


def test_there_are_only_so_many_names(extension, deadline):
    futures = [extension.delay(called(f"made-{n}")) for n in range(NAMES + 30)]
    for future in futures:
        future.result(deadline)
    tasks = extension.stats()["tasks"]
    assert len(tasks) == NAMES + 1
    assert tasks["(others)"]["done"] == 30
    assert sum(it["done"] for it in tasks.values()) == NAMES + 30
    # What is known goes on.
    known = next(name for name in tasks if name != "(others)")
    extension.delay(called(known)).result(deadline)
    assert extension.stats()["tasks"][known]["done"] == 2


@pytest.mark.parametrize("kind", ["function", "coroutine"])
def test_retries(extension, deadline, kind):
    def flaky():
        if current_task.attempt < 3:
            time.sleep(0.1)
            raise ConnectionError

    async def flaky_coroutine():
        flaky()

    function = flaky if kind == "function" else flaky_coroutine
    future = extension.using(retry=Retry(5, backoff=0.1, jitter=False)).delay(function)
    future.result(deadline)
    stats = extension.stats()
    assert counts(stats) == (1, 0, 0, 2)
    (task,) = stats["tasks"].values()
    assert counts(task) == (1, 0, 0, 2)
    # To the first start; and the last attempt alone.
    assert task["wait"]["count"] == task["run"]["count"] == 1
    assert task["wait"]["max"] < 0.1
    assert task["run"]["max"] < 0.1


def test_a_retry_that_is_cancelled_has_been_one(extension, deadline):
    future = extension.using(retry=Retry(5, backoff=60)).delay(fail)
    while not extension.stats()["held"]:
        time.sleep(0.001)
    assert future.cancel()
    (task,) = extension.stats()["tasks"].values()
    assert counts(task) == (0, 0, 1, 1)
    assert task["run"]["count"] == task["wait"]["count"] == 0


def test_what_never_started_has_no_times(extension, deadline):
    with occupied(extension.executor, 2):
        late = extension.using(expires=0.01).delay(int)
        assert isinstance(late.exception(deadline), TaskExpired)
        assert extension.delay(int).cancel()
    (task,) = (it for name, it in extension.stats()["tasks"].items() if name == "int")
    assert counts(task) == (0, 1, 1, 0)
    assert task["wait"] == task["run"] == dict.fromkeys(task["run"], 0)


def test_stopped_and_given_up(extension, deadline):
    gate = Gate()
    # Stuck in C: its future ends, and its code goes on.
    late = extension.using(timeout=0.05).delay(gate)
    assert late.exception(deadline)
    gate.open()
    begun = threading.Event()

    def spin():
        begun.set()
        while True:
            current_task.check()

    stopped = extension.delay(spin)
    assert begun.wait(deadline)
    stopped.stop()
    assert extension.drain(deadline)
    tasks = extension.stats()["tasks"]
    # Each once, and nothing of what the library has workers do for them.
    assert {name: counts(it) for name, it in tasks.items()} == {
        "Gate": (0, 1, 0, 0),
        spin.__qualname__: (0, 0, 1, 0),
    }
    assert tasks["Gate"]["run"]["max"] >= 0.05 * 0.98


def test_a_coroutine_that_is_cancelled(extension, deadline):
    begun = threading.Event()

    async def wait():
        begun.set()
        await asyncio.sleep(deadline)

    future = extension.delay(wait)
    assert begun.wait(deadline)
    assert future.cancel()
    assert extension.drain(deadline)
    assert counts(extension.stats()) == (0, 0, 1, 0)


def test_several_on_one_app_count_for_themselves(make_app, deadline):
    default, reports = Delay(), Delay(name="reports")
    app = make_app(extension=default)
    reports.init_app(app)
    reports.delay(int).result(deadline)
    assert (default.stats()["done"], reports.stats()["done"]) == (0, 1)
    assert reports.executor.stats() == reports.stats()


def test_one_task_of_a_key_counts_once(extension, deadline):
    gate = Gate()
    futures = {extension.using(unique=True, key="k").delay(gate) for _ in range(5)}
    assert len(futures) == 1
    gate.open()
    futures.pop().result(deadline)
    assert counts(extension.stats()) == (1, 0, 0, 0)


def test_figures_are_right_to_two_digits(extension, deadline):
    futures = [extension.delay(time.sleep, n * 0.0015) for n in range(60)]
    for future in futures:
        future.result(deadline)
    ran = sorted((it.finished_at - it.started_at).total_seconds() for it in futures)
    run = extension.stats()["tasks"]["sleep"]["run"]
    assert run["mean"] == pytest.approx(sum(ran) / len(ran), rel=0.01)
    for key, rank in (("p50", 30), ("p90", 54), ("p99", 60), ("max", 60)):
        # Rounded up, by less than a hundredth.
        assert ran[rank - 1] - 2e-6 <= run[key] <= ran[rank - 1] * 1.01 + 2e-6


def test_a_forked_process_counts_from_zero(run_script):
    result = run_script(
        "import os\n"
        "from flask import Flask\n"
        "from flask_delay import Delay\n"
        "app = Flask('app', static_folder=None)\n"
        "background = Delay(app)\n"
        "for _ in range(3): background.delay(int).result(20)\n"
        "pid = os.fork()\n"
        "if not pid:\n"
        "    before = background.stats()\n"
        "    background.delay(str).result(20)\n"
        "    after = background.stats()\n"
        "    good = before['tasks'] == {} and [*after['tasks']] == ['str'] and after['done'] == 1\n"
        "    os._exit(0 if good and before['done'] == 0 else 1)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), background.stats()['done'])\n"
    )
    assert (result.rc, result.out) == (0, "0 3\n"), result.err


def test_all_workers_count_together(make_app, deadline):
    extension = Delay()
    make_app(extension=extension, DELAY_MAX_WORKERS=8)
    names = [f"task-{n % 20}" for n in range(2_000)]
    functions = {name: called(name) for name in set(names)}
    together(
        *[
            functools.partial(lambda part: [extension.delay(functions[it]) for it in part], part)
            for part in (names[::2], names[1::2])
        ]
    )
    assert extension.drain(deadline)
    tasks = extension.stats()["tasks"]
    assert {name: it["done"] for name, it in tasks.items()} == Counter(names)
