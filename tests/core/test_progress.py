"""How far a task says it is: `current_task.progress`, `Future.progress`, `track`."""

import asyncio
import contextlib
import doctest
import enum
import importlib
import json
import math
import os
import sys
import termios
import threading
import weakref
from decimal import Decimal
from fractions import Fraction

import pytest

from flask_delay import Executor, Progress, Retry, current_task, track

from .helpers import DEADLINE, Gate, submit, together, unlogged


@pytest.fixture
def executor():
    with Executor(1) as executor:
        yield executor


def said(executor, *values):
    """What is kept of a task's progress."""
    future = executor.submit(current_task.progress, *values)
    future.result(DEADLINE)
    return future.progress


class Index:
    """What NumPy's integers are."""

    def __index__(self):
        return 7


class Float:
    """What NumPy's floats of other sizes are."""

    def __float__(self):
        return 0.25


class Real(float):
    """What NumPy's ordinary float is."""


class Text(str):
    __slots__ = ("__weakref__",)


class Level(enum.IntEnum):
    HIGH = 3


class TestValues:
    @pytest.mark.parametrize(
        ("given", "kept"),
        [
            (3, 3),
            (-1, -1),
            (0.5, 0.5),
            (2**63 - 1, 2**63 - 1),
            # More than is counted anywhere.
            (2**70, float(2**70)),
            (True, 1),
            (Level.HIGH, 3),
            (Index(), 7),
            (Float(), 0.25),
            (Real(1.5), 1.5),
            (Decimal("0.5"), 0.5),
            (Fraction(1, 4), 0.25),
        ],
    )
    def test_numbers_are_kept_as_int_or_float(self, executor, given, kept):
        progress = said(executor, given, given)
        for value in progress[:2]:
            assert value == kept
            assert type(value) is type(kept)
        assert json.loads(json.dumps(progress)) == [kept, kept, ""]

    def test_total_that_is_not_known(self, executor):
        assert said(executor, 5, None, "reading") == Progress(5, None, "reading")

    @pytest.mark.parametrize("note", ["", "half", "zur Hälfte ½ 🎉", Text("of a class")])
    def test_note(self, executor, note):
        kept = said(executor, 1, 2, note).note
        assert kept == note
        assert type(kept) is str

    def test_note_that_is_no_unicode(self, executor):
        # As of a file whose name is in another encoding.
        kept = said(executor, 1, 2, os.fsdecode(b"caf\xe9.txt")).note
        assert kept.replace("\ufffd", "") == "caf.txt"

    def test_is_a_named_tuple(self, executor):
        progress = said(executor, 1, 2, "half")
        assert isinstance(progress, Progress)
        assert (progress.done, progress.total, progress.note) == (1, 2, "half")
        assert progress._asdict() == {"done": 1, "total": 2, "note": "half"}

    def test_none_before_the_first(self, executor):
        future = executor.submit(int)
        assert future.id
        future.result(DEADLINE)
        assert future.progress is None

    @pytest.mark.parametrize(
        "values", [("1", 2), (None, 2), (1, "2"), (1, [2]), (1j, 2), (1, 2, None), (1,)]
    )
    def test_refuses_what_is_no_number(self, executor, values):
        with unlogged():
            error = executor.submit(current_task.progress, *values).exception(DEADLINE)
        assert isinstance(error, TypeError)

    def test_says_which_is_no_number(self, executor):
        with unlogged(), pytest.raises(TypeError, match=r"takes numbers, got total='2'"):
            said(executor, 1, "2")

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, Decimal("nan"), 10**400])
    def test_refuses_what_is_not_finite(self, executor, value):
        with unlogged():
            with pytest.raises(ValueError, match=r"finite numbers, got done="):
                said(executor, value, 2)
            with pytest.raises(ValueError, match=r"got total=.*; None if it is not known"):
                said(executor, 1, value)

    def test_what_is_refused_changes_nothing(self, executor):
        def work():
            current_task.progress(1, 2, "half")
            for values in (("2", 2), (2, math.nan)):
                with pytest.raises((TypeError, ValueError)):
                    current_task.progress(*values)

        future = executor.submit(work)
        future.result(DEADLINE)
        assert future.progress == (1, 2, "half")

    @pytest.mark.parametrize("method", ["__index__", "__float__"])
    def test_what_a_number_raises_is_passed_on(self, executor, method):
        def interrupted(_):
            raise KeyboardInterrupt

        number = type("Number", (), {method: interrupted})()
        with unlogged():
            error = executor.submit(current_task.progress, number, 1).exception(DEADLINE)
        assert isinstance(error, KeyboardInterrupt)

    def test_keeps_none_of_the_objects(self, executor):
        number, note = Real(0.5), Text("note")
        watched = [weakref.ref(number), weakref.ref(note)]
        future = executor.submit(current_task.progress, number, 1, note)
        del number, note
        assert executor.drain(DEADLINE)
        assert future.progress == (0.5, 1, "note")
        assert [it() for it in watched] == [None, None]


def test_readers_see_what_was_said_at_once(executor):
    enough = threading.Event()

    def work():
        number = 0
        while not enough.is_set():
            number += 1
            current_task.progress(number, number, str(number))

    future = executor.submit(work)

    def read():
        last = changes = 0
        while changes < 100:
            if progress := future.progress:
                assert progress.done == progress.total == int(progress.note) >= last
                changes += progress.done > last
                last = progress.done

    try:
        together(read, read, read)
    finally:
        enough.set()


def test_is_kept_until_the_next_attempt_says_something(executor):
    seen = []

    def work():
        seen.append(current_task.future.progress)
        current_task.progress(current_task.attempt, 2)
        if current_task.attempt == 1:
            raise ConnectionError

    with unlogged():
        future = submit(executor, work, retry=Retry(1, backoff=0))
        future.result(DEADLINE)
    assert seen == [None, (1, 2, "")]
    assert future.progress == (2, 2, "")


def follow(executor, make, **options):
    """What the progress is while a task works on each item, and at last."""

    def work():
        return [current_task.future.progress[:2] for _ in track(make(), **options)]

    future = executor.submit(work)
    return [*future.result(DEADLINE), future.progress[:2]]


def generate(count=3):
    yield from range(count)


class Hinted:
    """Expects some items, and has three."""

    def __init__(self, hint):
        self.hint = hint

    def __iter__(self):
        return generate()

    def __length_hint__(self):
        return self.hint


class Old:
    """Iterable by what `for` has always taken."""

    def __getitem__(self, index):
        return "abc"[index]


class TestTrack:
    @pytest.mark.parametrize(
        ("make", "options", "total", "end"),
        [
            (lambda: [1, 2, 3], {}, 3, 3),
            (lambda: iter([1, 2, 3]), {}, 3, 3),
            (lambda: "abc", {"total": 3.0}, 3, 3),
            (generate, {"total": 3}, 3, 3),
            # Nothing says how many there are, before they are over.
            (generate, {}, None, 3),
            (Old, {}, None, 3),
            # What was said proves wrong.
            (generate, {"total": 100}, 100, 3),
            (generate, {"total": 2}, 2, 3),
            (lambda: Hinted(5), {}, 5, 3),
        ],
    )
    def test_says_how_far_the_loop_is(self, executor, make, options, total, end):
        expected = [(0, total), (1, total), (2, total), (end, end)]
        assert follow(executor, make, **options) == expected

    @pytest.mark.parametrize("make", [list, lambda: generate(0)])
    def test_of_nothing(self, executor, make):
        assert follow(executor, make) == [(0, 0)]

    def test_note(self, executor):
        future = executor.submit(lambda: list(track("abc", note="reading")))
        assert future.result(DEADLINE) == ["a", "b", "c"]
        assert future.progress == (3, 3, "reading")

    @pytest.mark.parametrize("leave", ["break", "raise", "return"])
    def test_a_loop_that_is_left(self, executor, leave):
        closed = threading.Event()

        def items():
            try:
                yield from range(3)
            finally:
                closed.set()

        def work():
            for item in track(items(), 3):
                if item == 1 and leave == "break":
                    break
                if item == 1 and leave == "return":
                    return closed.is_set()
                if item == 1:
                    raise ValueError(item)
            return closed.is_set()

        with unlogged():
            future = executor.submit(work)
            error = future.exception(DEADLINE)
        assert future.progress == (1, 3, "")
        if leave == "raise":
            assert isinstance(error, ValueError)
        else:
            # As after a loop over `items()` itself: on leaving the loop, or the function.
            assert future.result() is (leave == "break")
        del error, future
        assert closed.is_set()

    def test_takes_no_item_ahead(self, executor):
        taken = []

        def items():
            for number in range(3):
                taken.append(number)
                yield number

        def work():
            loop = track(items())
            assert taken == []
            for number in loop:
                assert taken == [*range(number + 1)]

        executor.submit(work).result(DEADLINE)

    def test_does_not_begin_another_item_when_told_to_stop(self, executor):
        gate, begun = Gate(), []

        def work():
            for item in track(range(3)):
                begun.append(item)
                if item == 1:
                    gate()

        future = executor.submit(work)
        assert gate.entered.wait(DEADLINE)
        assert future.stop(after=None)
        gate.open()
        assert executor.drain(DEADLINE)
        assert future.cancelled()
        assert begun == [0, 1]
        assert future.progress == (2, 3, "")

    def test_ends_when_told_to_stop_at_the_last_item(self, executor):
        gate = Gate()

        def work():
            for item in track(range(3)):
                if item == 2:
                    gate()
            return "all"

        future = executor.submit(work)
        assert gate.entered.wait(DEADLINE)
        assert future.stop(after=None)
        gate.open()
        assert future.result(DEADLINE) == "all"

    def test_outside_of_a_task(self):
        assert list(track(range(3), note="reading")) == [0, 1, 2]

    def test_items_that_another_thread_takes(self, executor):
        def work():
            loop = track(range(4))
            return [next(loop), *together(lambda: list(loop))[0]]

        future = executor.submit(work)
        assert future.result(DEADLINE) == [0, 1, 2, 3]
        # There, no task runs.
        assert future.progress == (0, 4, "")

    @pytest.mark.parametrize(
        ("values", "options", "error", "message"),
        [
            ((5,), {}, TypeError, "'int' object is not iterable"),
            (([], "reading"), {}, TypeError, "number as its total, got total='reading'"),
            (([], math.inf), {}, ValueError, "finite total, got total=inf; None if"),
            (([], 10**400), {}, ValueError, "finite total, got total=1000"),
            (([],), {"note": None}, TypeError, "text as its note, got note=None"),
        ],
    )
    def test_refuses_at_the_call(self, values, options, error, message):
        with pytest.raises(error, match=message):
            track(*values, **options)

    def test_examples(self):
        module = importlib.import_module(track.__module__)
        found = doctest.testmod(module)
        assert (found.failed, found.attempted > 0) == (0, True)


class Both:
    def __iter__(self):
        return generate()

    def __aiter__(self):
        raise NotImplementedError


async def generate_async(closed=None):
    try:
        for number in range(3):
            yield number
    finally:
        if closed is not None:
            closed.set()


class TestInCoroutines:
    def test_for(self, executor):
        async def work():
            return [current_task.future.progress[:2] for _ in track(range(3))]

        future = executor.submit(work)
        assert future.result(DEADLINE) == [(0, 3), (1, 3), (2, 3)]
        assert future.progress == (3, 3, "")

    @pytest.mark.parametrize("total", [None, 3])
    def test_async_for(self, executor, total):
        async def work():
            items = track(generate_async(), total, note="reading")
            return [current_task.future.progress[:2] async for _ in items]

        future = executor.submit(work)
        assert future.result(DEADLINE) == [(0, total), (1, total), (2, total)]
        assert future.progress == (3, 3, "reading")

    def test_does_not_begin_another_item_when_told_to_stop(self, executor):
        gate, begun = Gate(), []

        async def work():
            async for item in track(generate_async()):
                begun.append(item)
                if item == 1:
                    gate()

        # In a loop of its own: a coroutine that is a task is cancelled where it waits.
        future = executor.submit(lambda: asyncio.run(work()))
        assert gate.entered.wait(DEADLINE)
        assert future.stop(after=None)
        gate.open()
        assert executor.drain(DEADLINE)
        assert future.cancelled()
        assert begun == [0, 1]

    def test_a_loop_that_is_left(self, executor):
        closed = threading.Event()

        async def work():
            async for item in track(generate_async(closed)):
                if item == 1:
                    break

        future = executor.submit(work)
        future.result(DEADLINE)
        assert future.progress == (1, None, "")
        # By the event loop, as every asynchronous generator.
        assert closed.wait(DEADLINE)

    def test_outside_of_a_task(self):
        async def collect():
            return [item async for item in track(generate_async())]

        coroutine = collect()
        with pytest.raises(StopIteration) as ended:
            coroutine.send(None)
        assert ended.value.value == [0, 1, 2]

    def test_what_is_both_is_for_for(self):
        assert list(track(Both())) == [0, 1, 2]


class Terminal:
    """A terminal of 80 columns, which is standard error for a while; `told` is what it got."""

    def __enter__(self):
        self._master, slave = os.openpty()
        termios.tcsetwinsize(slave, (24, 80))
        self._stack = contextlib.ExitStack()
        file = self._stack.enter_context(os.fdopen(slave, "w", buffering=1, encoding="utf-8"))
        self._stack.enter_context(contextlib.redirect_stderr(file))
        return self

    def __exit__(self, *_):
        self._stack.close()
        told = b""
        # Linux ends it with an error, macOS with nothing.
        with contextlib.suppress(OSError), os.fdopen(self._master, "rb", buffering=0) as master:
            while part := master.read(4096):
                told += part
        self.told = told.decode()


@pytest.fixture
def tqdm(monkeypatch):
    tqdm = pytest.importorskip("tqdm").tqdm
    # A thread of its own, which would stay.
    monkeypatch.setattr(tqdm, "monitor_interval", 0)
    yield tqdm
    assert not tqdm._instances, "a bar was left open"


@pytest.mark.usefixtures("tqdm")
class TestBar:
    def test_in_a_task(self, executor):
        with Terminal() as terminal:
            executor.submit(lambda: list(track("abc", note="rows", bar=True))).result(DEADLINE)
        assert "rows:   0%|" in terminal.told
        assert "rows: 100%|██" in terminal.told
        assert "| 3/3 [" in terminal.told
        assert terminal.told.endswith("\n")

    def test_in_a_coroutine(self, executor):
        async def work():
            return [item async for item in track(generate_async(), 3, note="rows", bar=True)]

        with Terminal() as terminal:
            assert executor.submit(work).result(DEADLINE) == [0, 1, 2]
        assert "rows: 100%|██" in terminal.told

    def test_outside_of_a_task(self):
        with Terminal() as terminal:
            assert list(track("abc", bar=True)) == ["a", "b", "c"]
        assert terminal.told.startswith("\r  0%|")
        assert "| 3/3 [" in terminal.told

    def test_of_an_unknown_total(self):
        with Terminal() as terminal:
            list(track(generate(), bar=True))
        assert terminal.told.startswith("\r0it [")
        assert "100%|██" in terminal.told

    @pytest.mark.parametrize("leave", ["break", "raise", "close"])
    def test_of_a_loop_that_is_left(self, executor, tqdm, leave):
        def work():
            loop = track("abc", bar=True)
            with contextlib.suppress(ValueError):
                for item in loop:
                    assert len(tqdm._instances) == 1
                    if item == "b" and leave == "raise":
                        raise ValueError
                    if item == "b":
                        break
            if leave == "close":
                loop.close()
                assert not tqdm._instances

        with Terminal() as terminal:
            executor.submit(work).result(DEADLINE)
        assert "| 1/3 [" in terminal.told
        assert terminal.told.endswith("\n")

    def test_of_a_task_that_is_told_to_stop(self, executor):
        gate = Gate()
        with Terminal() as terminal:
            future = executor.submit(lambda: [gate() for _ in track("abc", bar=True)])
            assert gate.entered.wait(DEADLINE)
            assert future.stop(after=None)
            gate.open()
            assert executor.drain(DEADLINE)
        assert future.cancelled()
        assert "| 1/3 [" in terminal.told

    def test_not_where_there_is_no_terminal(self, executor, capfd):
        future = executor.submit(lambda: list(track("abc", bar=True)))
        assert future.result(DEADLINE) == ["a", "b", "c"]
        assert future.progress == (3, 3, "")
        assert capfd.readouterr().err == ""


def test_bar_without_tqdm(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ImportError, match=r"pip install 'flask-delay\[bar\]'"):
        track("abc", bar=True)
    assert list(track("abc")) == ["a", "b", "c"]


def test_at_shutdown_a_loop_ends_too(run_script):
    """When the time for tasks is over, as docs/limits.md says."""
    done = run_script(
        """
import itertools, threading
from flask import Flask
from flask_delay import Delay, delay, track
app = Flask("app")
app.config["DELAY_SHUTDOWN_TIMEOUT"] = 0.2
Delay(app)
begun, pause = threading.Event(), threading.Event()
def loop():
    try:
        for _ in track(itertools.count()):
            begun.set()
            pause.wait(0.001)
    finally:
        print("ended", flush=True)
with app.app_context():
    delay(loop)
assert begun.wait(20)
"""
    )
    assert (done.rc, done.out) == (0, "ended\n")
