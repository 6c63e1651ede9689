"""What is dropped goes."""

import contextvars
import gc
import threading
import time
import weakref

import pytest
from flask import Flask, current_app, g

from flask_delay import Delay, context, delay


def wait_until_gone(ref, deadline):
    # A worker lets go in its own time; each round leaves it some and collects again.
    end = time.monotonic() + deadline
    pause = threading.Event()
    while ref() is not None:
        if time.monotonic() > end:
            return False
        gc.collect()
        pause.wait(0.01)
    return True


@pytest.fixture
def dropped(deadline):
    """A Delay and a weak reference to the app that it was used on."""

    def make(*, use):
        app = Flask("dropped", static_folder=None)
        extension = Delay(app)
        if use:
            with app.app_context():
                g.big = bytearray(1000)
                future = delay(lambda: app.name)
                future.add_done_callback(lambda _: app.name)
                assert future.result(deadline) == "dropped"
                assert extension.get(future.id) is future
            assert extension.drain(deadline)
        return extension, weakref.ref(app)

    return make


@pytest.mark.parametrize("use", [False, True], ids=["unused", "used"])
def test_dropped_app_is_collected(dropped, use, deadline):
    extension, ref = dropped(use=use)
    assert wait_until_gone(ref, deadline)
    with pytest.raises(RuntimeError, match="on no app"):
        extension.stats()


def test_dropped_app_leaves_the_others(dropped, make_app, deadline):
    extension, ref = dropped(use=True)
    make_app("other", extension)
    with pytest.raises(RuntimeError, match="several apps"):
        extension.stats()
    assert wait_until_gone(ref, deadline)
    assert extension.delay(int).result(deadline) == 0


def test_app_with_a_task_to_run_stays_until_it_has_run(deadline):
    release, ran = threading.Event(), threading.Event()

    def make():
        app = Flask("dropped", static_folder=None)
        with app.app_context():
            Delay(app)
            delay(release.wait, deadline)
            delay(ran.set)
        return weakref.ref(app)

    ref = make()
    gc.collect()
    release.set()
    assert ran.wait(deadline)
    assert wait_until_gone(ref, deadline)


def test_arguments_are_let_go_when_the_task_is_done(make_app, deadline):
    class Argument:
        pass

    extension = Delay()
    make_app(extension=extension)
    argument = Argument()
    ref = weakref.ref(argument)
    future = extension.delay(lambda given, *, keyword: None, argument, keyword=argument)
    del argument
    future.result(deadline)
    assert wait_until_gone(ref, deadline)


def test_app_is_freed_with_its_last_reference(deadline):
    """Flask's own `test_app_freed_on_zero_refcount`, with a Delay, unused and used."""
    gc.disable()
    try:
        for use in (False, True):
            app = Flask("freed")
            extension = Delay(app)
            Delay(app, name="reports")
            if use:
                with app.app_context():
                    assert delay(int).result(deadline) == 0
                assert extension.drain(deadline)
                app.extensions["delay"].shutdown(wait=True, cancel_futures=False)
            weak = weakref.ref(app)
            del app
            assert weak() is None
    finally:
        gc.enable()


def test_a_task_that_waits_keeps_its_app(deadline):
    app = Flask("kept", static_folder=None)
    release = threading.Event()
    app.config["DELAY_MAX_WORKERS"] = 1
    extension = Delay(app)
    with app.app_context():
        delay(release.wait, deadline)
        future = delay(lambda: current_app.name)
        done = []
        future.add_done_callback(lambda _: done.append(current_app.name))
    ref = weakref.ref(app)
    del app
    gc.collect()
    assert ref() is not None
    release.set()
    assert future.result(deadline) == "kept"
    del future
    assert wait_until_gone(ref, deadline)
    assert done == ["kept"]
    with pytest.raises(RuntimeError, match="the one that it was initialised on is gone"):
        extension.stats()


def test_a_pool_without_its_app_says_so():
    app = Flask("gone", static_folder=None)
    pool = Delay(app).executor
    del app
    gc.collect()
    with pytest.raises(RuntimeError, match="the app of this pool is gone.*keep a reference"):
        pool.submit(int)


def test_no_signal_is_sent_for_an_app_of_ours(run_script):
    done = run_script(
        """
from flask import Flask, appcontext_popped, appcontext_pushed, request_started
from flask_delay import Delay
sent = []
for signal in (appcontext_pushed, appcontext_popped, request_started):
    signal.connect(lambda app, **_: sent.append(app), weak=False)
app = Flask("mine")
Delay(app)
assert sent == [], sent
with app.app_context():
    pass
assert sent == [app, app]
"""
    )
    assert (done.rc, done.err) == (0, "")


def test_the_hidden_variables_are_flasks():
    app = Flask("mine", static_folder=None)
    with app.test_request_context("/"):
        found = contextvars.copy_context()
        expected = {it.name for it in found if it.name.startswith("flask.")}
        # Also where one is current.
        assert {it.name for it in context.hidden_variables.__wrapped__()} == expected
