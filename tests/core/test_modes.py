"""Executors without threads, per-call scopes and signals: what `_scoped_executor` is asked for."""

import asyncio
import contextlib
import textwrap
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from tests.core.helpers import DEADLINE, LOGGER, fail, make, submit

from flask_delay import Executor, Future, Retry, WaitCycleError, current_task
from flask_delay._native import _subscribe_signals


def test_immediate_runs_in_the_caller_before_submit_returns():
    executor = make("immediate")
    future = executor.submit(threading.current_thread)
    assert future.done()
    assert future.result() is threading.current_thread()
    assert executor.stats()["threads"] == 0


def test_immediate_keeps_and_logs_an_exception(caplog):
    future = make("immediate").submit(fail)
    assert isinstance(future.exception(), ValueError)
    assert "failed" in caplog.text


def test_immediate_nests_and_knows_its_task():
    executor = make("immediate")

    def outer() -> tuple[Any, Any, Any]:
        before = current_task.future
        inner = executor.submit(lambda: current_task.future)
        return before, inner, current_task.future

    future = executor.submit(outer)
    before, inner, after = future.result()
    assert before is after is future
    assert inner.result() is inner


@pytest.mark.parametrize("mode", ["immediate", "manual"])
def test_a_task_that_runs_another_one_itself_waits_for_it(mode):
    executor = make(mode)

    def outer() -> BaseException | None:
        own = current_task.future
        inner = executor.submit(lambda: own.result(DEADLINE))
        if mode == "manual":
            executor.run_pending()
        return inner.exception(DEADLINE)

    future = executor.submit(outer)
    if mode == "manual":
        executor.run_pending()
    error = future.result(DEADLINE)
    assert isinstance(error, WaitCycleError)
    chain = str(error).partition(": ")[2].split(" waits for ")
    assert [name.rpartition(".")[2] for name in chain] == ["<lambda>", "outer", "<lambda>"]


def test_immediate_runs_a_coroutine_and_its_callbacks_before_submit_returns():
    executor = make("immediate")

    async def work() -> int:
        await asyncio.sleep(0)
        return 5

    called: list[object] = []
    executor.add_default_done_callback(called.append)
    future = executor.submit(work)
    assert future.done()
    assert future.result() == 5
    assert called == [future]


def test_manual_waits_to_be_told():
    executor = make("manual")
    ran: list[int] = []
    futures = [executor.submit(ran.append, number) for number in range(3)]
    assert not ran
    assert executor.run_pending(2) == 2
    assert ran == [0, 1]
    assert not futures[2].done()
    futures[2].cancel()
    assert executor.run_pending() == 0
    assert executor.stats()["queued"] == 0
    assert ran == [0, 1]


def test_manual_runs_what_tasks_submit_and_coroutines():
    executor = make("manual")

    async def work() -> int:
        return 7 if current_task.future.running() else 0

    outer = executor.submit(lambda: executor.submit(work))
    assert executor.run_pending() == 2
    assert outer.result().result() == 7


def test_manual_refuses_to_wait_for_ever():
    executor = make("manual")
    future = executor.submit(pow, 2, 3)
    with pytest.raises(RuntimeError, match="run_pending"):
        future.result()
    with pytest.raises(TimeoutError):
        future.result(0.01)
    executor.run_pending()
    assert future.result() == 8


def test_manual_drain_and_shutdown_run_what_is_left():
    executor = make("manual")
    first = executor.submit(pow, 2, 3)
    assert executor.drain()
    assert first.result() == 8

    async def work() -> int:
        return 9

    second = executor.submit(work)
    executor.shutdown()
    assert second.result() == 9
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(pow, 2, 3)


def test_manual_dropped_cancels_what_nobody_can_run():
    executor = make("manual")
    future = executor.submit(pow, 2, 3)
    del executor
    assert future.cancelled()


def test_run_pending_is_for_manual_alone():
    for executor in (make(), make("immediate"), Executor(1)):
        with pytest.raises(RuntimeError, match="manual"):
            executor.run_pending()


def test_manual_at_exit_names_what_was_not_run(run_script):
    script = """
        import contextlib, logging
        from flask_delay._native import _scoped_executor

        logging.basicConfig()
        executor = _scoped_executor(
            max_workers=1, thread_name_prefix="manual", scope=contextlib.nullcontext, hidden=(),
            reject_types=(), reject=print, log_failures=True, shutdown_timeout=20.0,
            result_limit=0, mode="manual",
        )
        executor.submit(pow, 2, 3)
    """
    result = run_script(textwrap.dedent(script))
    assert result.rc == 0
    assert "1 task did not finish before exit" in result.err
    assert "pow" in result.err


def test_a_bad_mode():
    with pytest.raises(ValueError, match="'immediate'|\"immediate\""):
        make("eager")


class Scope:
    def __init__(self) -> None:
        self.log: list[str] = []

    @contextlib.contextmanager
    def __call__(self, name: str = "own") -> Iterator[None]:
        self.log.append(f"{name} entered")
        yield
        self.log.append(f"{name} left")


@pytest.mark.parametrize("mode", ["threads", "immediate"])
def test_a_scope_for_one_task_is_not_that_of_its_callbacks(mode):
    scope = Scope()
    executor = make(mode, scope=scope)
    executor.add_default_done_callback(lambda _: scope.log.append("callback"))
    executor._submit_with(None, lambda: scope("task"), scope.log.append, "ran").result(DEADLINE)
    executor.shutdown()
    assert scope.log == [
        "task entered",
        "ran",
        "task left",
        "own entered",
        "callback",
        "own left",
    ]


def test_a_scope_for_one_coroutine():
    scope = Scope()
    executor = make(scope=scope)

    async def work() -> None:
        scope.log.append("ran")

    executor._submit_with(None, lambda: scope("task"), work).result(DEADLINE)
    executor.shutdown()
    assert scope.log == ["task entered", "ran", "task left"]


def test_submit_with_wants_a_function():
    with pytest.raises(TypeError):
        make()._submit_with(None, contextlib.nullcontext)


EVENTS = ("submitted", "started", "succeeded", "failed", "cancelled")


class Signals:
    def __init__(self) -> None:
        self.heard: list[tuple[str, object]] = []
        self.receivers: list[dict[str, object]] = [{} for _ in EVENTS]
        yes = [lambda: True] * len(EVENTS)
        self.triples = tuple(zip(self.receivers, yes, map(self._sender, EVENTS), strict=True))

    def _sender(self, event: str) -> Any:
        return lambda *, future: self.heard.append((event, future))

    def listen(self, *events: str) -> None:
        # As the signals of the package do at their first receiver.
        _subscribe_signals()
        for event in events:
            self.receivers[EVENTS.index(event)]["somebody"] = self


def test_signal_of_a_coroutine_cancelled_while_it_runs_once():
    signals = Signals()
    executor = make(signals=signals.triples)
    signals.listen("cancelled", "succeeded", "failed")
    started = threading.Event()

    async def work() -> None:
        started.set()
        await asyncio.sleep(DEADLINE)

    future = executor.submit(work)
    assert started.wait(DEADLINE)
    assert future.cancel()
    executor.shutdown()
    assert signals.heard == [("cancelled", future)]


def test_a_receiver_that_raises_is_logged(caplog):
    signals = Signals()
    triples = tuple((receivers, lambda: True, fail) for receivers in signals.receivers)
    signals.listen(*EVENTS)
    executor = make("immediate", signals=triples)
    # `fail` takes no keywords, which is an error as good as any.
    assert executor.submit(pow, 2, 3).result() == 8
    assert caplog.text.count("a receiver of a signal of task pow") == 3
    assert {record.name for record in caplog.records} == {LOGGER.name}


def test_nobody_is_told_of_a_task_that_is_refused():
    signals = Signals()
    executor = make(signals=signals.triples)
    signals.listen(*EVENTS)
    executor.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(pow, 2, 3)
    assert not signals.heard


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        ((1,), {}),
        ((1, 2), {}),
        ((1, 2, 3), {}),
        ((), {"a": 1}),
        ((1, 2), {"a": 1, "b": None}),
    ],
)
def test_what_a_task_is_going_to_call(args, kwargs):
    executor = make("manual")

    def work(*args: object, **kwargs: object) -> object:
        return current_task.future._call()

    future = executor.submit(work, *args, **kwargs)
    assert future._call() == (work, args, kwargs, None)
    scoped = executor._submit_with(None, contextlib.nullcontext, work, *args, **kwargs)
    assert scoped._call() == (work, args, kwargs, contextlib.nullcontext)
    cancelled = executor.submit(work, *args, **kwargs)
    cancelled.cancel()
    executor.run_pending()
    # From the start on it is nobody else's.
    assert future.result() is None
    assert [it._call() for it in (future, scoped, cancelled, Future())] == [None] * 4


def test_receivers_of_submitted_may_look_at_the_call():
    signals = Signals()
    seen: list[object] = []
    receivers, listens, _ = signals.triples[0]
    first = (receivers, listens, lambda *, future: seen.append(future._call()))
    executor = make(signals=(first, *signals.triples[1:]))
    signals.listen("submitted")
    executor.submit(pow, 2, exp=3).result(DEADLINE)
    assert seen == [(pow, (2,), {"exp": 3}, None)]
    executor.shutdown()


def test_forgotten_ids():
    executor = make("immediate")
    ids = [executor.submit(pow, 2, 3).id for _ in range(3)]
    assert executor._get(ids[0]) is None
    assert [executor._is_gone(id) for id in ids] == [True, False, False]
    assert not executor._is_gone("00000000-0000-4000-8000-000000000000")
    assert not executor._is_gone("nonsense")


def test_immediate_waits_for_its_own_coroutine_alone():
    executor, begun, over = make("immediate"), threading.Event(), asyncio.Event()

    async def stays() -> str:
        begun.set()
        await over.wait()
        return "over"

    async def quick() -> str:
        return "quick"

    async def end_it() -> None:
        over.set()

    other: list[Future[str]] = []
    thread = threading.Thread(target=lambda: other.append(executor.submit(stays)))
    thread.start()
    assert begun.wait(DEADLINE)
    # What the other one waits for comes after it.
    assert executor.submit(quick).result(0) == "quick"
    assert executor.submit(end_it).done()
    thread.join(DEADLINE)
    assert other[0].result(0) == "over"


def test_immediate_returns_after_the_callbacks_of_a_coroutine():
    executor, called = make("immediate"), list[Future[None]]()
    executor.add_default_done_callback(called.append)

    async def quick() -> None:
        pass

    future = executor.submit(quick)
    assert called == [future]


def test_immediate_tries_a_coroutine_again_before_submit_returns(caplog):
    executor, attempts = make("immediate"), []

    async def fails_twice() -> int:
        attempts.append(current_task.attempt)
        if len(attempts) < 3:
            raise ValueError(len(attempts))
        return current_task.attempt

    future = submit(executor, fails_twice, retry=Retry(5))
    assert future.done()
    assert future.result(0) == 3
    assert attempts == [1, 2, 3]
    assert not any(record.levelname == "ERROR" for record in caplog.records)
