"""Signals: what is sent when, to whom, in which context; and that silence costs nothing."""

import gc
import threading
import weakref
from contextlib import ExitStack

import blinker
import pytest
from flask import Flask, g, has_app_context, has_request_context

from flask_delay import (
    Delay,
    delay,
    task_cancelled,
    task_failed,
    task_started,
    task_submitted,
    task_succeeded,
)
from flask_delay.observe import signals

ALL = (task_submitted, task_started, task_succeeded, task_failed, task_cancelled)


@pytest.fixture
def heard():
    """What all signals have told, as (name, app, future)."""
    told = []
    with ExitStack() as stack:
        for signal in ALL:

            def note(app, future, signal=signal):
                told.append((signal.name, app, future))

            stack.enter_context(signal.connected_to(note))
        yield told


def fail():
    raise LookupError("no such row")


async def double(value=2):
    return 2 * value


@pytest.mark.parametrize("mode", ["threads", "immediate", "manual"])
@pytest.mark.parametrize("function", [int, double, fail])
def test_life_of_a_task(make_app, heard, deadline, mode, function):
    end = "task-failed" if function is fail else "task-succeeded"
    app = make_app(DELAY_MODE=mode)
    with app.app_context():
        future = delay(function)
    app.extensions["delay"].executor.drain(deadline)
    assert heard == [
        ("task-submitted", app, future),
        ("task-started", app, future),
        (end, app, future),
    ]
    assert type(heard[0][1]) is Flask
    assert all(one[2] is future for one in heard)


def test_contexts(make_app, deadline):
    app = make_app()
    seen = {}

    def look(app, future):
        seen[future.state] = (
            threading.current_thread().name,
            has_app_context() and sorted(g),
            has_request_context(),
        )

    def work():
        return sorted(g)

    def mark(app, future):
        g.of_task = 1

    with ExitStack() as stack:
        stack.enter_context(task_submitted.connected_to(look))
        stack.enter_context(task_started.connected_to(mark))
        stack.enter_context(task_succeeded.connected_to(look))
        with app.test_request_context():
            g.of_request = 1
            future = delay(work)
            assert future.result(deadline) == ["of_task"]
        app.extensions["delay"].executor.drain(deadline)
    main = threading.current_thread().name
    assert seen == {"pending": (main, ["of_request"], True), "finished": ("delay_0", [], False)}


def test_before_the_callbacks(app, deadline):
    order = []
    with task_succeeded.connected_to(lambda app, future: order.append("signal")):
        with app.app_context():
            entered = threading.Event()
            future = delay(entered.wait, deadline)
            future.add_done_callback(lambda _: order.append("callback"))
            entered.set()
        app.extensions["delay"].executor.drain(deadline)
    assert order == ["signal", "callback"]


def test_of_one_app_alone(make_app, deadline):
    one, two = make_app("one"), make_app("two", extension=Delay())
    told = []

    def note(app, future):
        told.append(app)

    task_succeeded.connect(note, sender=one)
    try:
        for app in one, two:
            with app.app_context():
                delay(int).result(deadline)
            app.extensions["delay"].executor.drain(deadline)
    finally:
        task_succeeded.disconnect(note)
    assert told == [one]


def test_of_a_named_delay(make_app, heard, deadline):
    extension = Delay(name="reports")
    app = make_app(extension=extension)
    extension.delay(int).result(deadline)
    extension.drain(deadline)
    assert [(name, sender) for name, sender, _ in heard] == [
        ("task-submitted", app),
        ("task-started", app),
        ("task-succeeded", app),
    ]


def test_receiver_that_raises_is_logged_and_harms_no_task(app, deadline, caplog):
    def bad(app, future):
        raise ValueError("bad receiver")

    with ExitStack() as stack:
        for signal in ALL:
            stack.enter_context(signal.connected_to(bad))
        with app.app_context():
            assert delay(pow, 2, 3).result(deadline) == 8
        app.extensions["delay"].executor.drain(deadline)
    assert caplog.text.count("a receiver of a signal of task pow") == 3
    assert "bad receiver" in caplog.text


def test_nobody_who_listens_costs_nothing(make_app, monkeypatch, deadline):
    sent = []
    send = blinker.NamedSignal.send

    def counted(self, *args, **kwargs):
        if self in ALL:
            sent.append(self.name)
        return send(self, *args, **kwargs)

    monkeypatch.setattr(blinker.NamedSignal, "send", counted)
    app = make_app()

    def run():
        sent.clear()
        with app.app_context():
            delay(int).result(deadline)
            delay(fail).exception(deadline)
        app.extensions["delay"].executor.drain(deadline)
        return sorted(sent)

    assert run() == []
    with task_failed.connected_to(lambda app, future: None):
        assert run() == ["task-failed"]
    assert run() == []


@pytest.mark.parametrize("signal", ALL, ids=lambda signal: signal.name)
def test_the_dict_that_is_looked_at_stays(app, signal):
    """The native module keeps it, and looks whether it is empty."""
    # Apps of other tests are in circles.
    gc.collect()
    kept = signals.senders(app)[ALL.index(signal)][0]

    def receiver(app, future):
        pass

    assert not kept
    signal.connect(receiver)
    assert signal.receivers is kept
    assert kept
    signal.disconnect(receiver)
    assert signal.receivers is kept
    assert not kept
    signal.connect(receiver, sender=app)
    del receiver
    gc.collect()
    assert not kept
    with signal.connected_to(lambda app, future: None):
        signal._clear_state()
        assert signal.receivers is kept
        assert not kept


def test_a_dropped_app_can_go(heard):
    app = Flask("dropped", static_folder=None)
    extension = Delay(app)
    watched = weakref.ref(app)
    with app.app_context():
        delay(int).result(20)
    extension.shutdown()
    heard.clear()
    del app
    gc.collect()
    assert watched() is None
