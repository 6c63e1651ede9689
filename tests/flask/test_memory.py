"""What is dropped goes."""

import gc
import threading
import time
import weakref

import pytest
from flask import Flask, g

from flask_delay import Delay, delay


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
