"""What each process has of its own and goes by name: the program, the app, what stands for it."""

import subprocess
import sys
import threading
from functools import partial

import pytest
from flask import Flask, current_app, g
from tests.processes.conftest import DEADLINE, ended
from werkzeug.local import LocalProxy

from flask_delay import current_task, delay

pytestmark = pytest.mark.keeps_threads


def test_closures_over_what_stands_for_something(app):
    def look():
        g.mark = current_app.name
        return g.mark, current_task.id, current_task.attempt

    future = delay(look)
    assert future.result(DEADLINE) == ("crunch", future.id, 1)
    # In an argument and in an object, too.
    assert delay(lambda of: of(), partial(getattr, current_task, "attempt")).result(DEADLINE) == 1


def test_closures_over_the_app(app):
    assert delay(lambda: app is current_app._get_current_object()).result(DEADLINE)
    assert delay(lambda it: it.name, app).result(DEADLINE) == "crunch"
    # And back.
    assert delay(lambda: app).result(DEADLINE) is app


def test_closures_over_extensions(app, crunch):
    background, extension = app.extensions["delay"].owner, app.extensions["crunch"]

    def look():
        state = current_app.extensions["delay"]
        return background is state.owner, extension is current_app.extensions["crunch"]

    assert delay(look).result(DEADLINE) == (True, True)
    # One that the app does not know, by the module that has it.
    nameless = crunch.nameless
    assert delay(lambda: nameless.whose()).result(DEADLINE) != nameless.whose()
    assert delay(nameless.whose).result(DEADLINE) != nameless.whose()


def test_what_is_refused_is_named(app, crunch):
    lock, other, extension = threading.Lock(), Flask("other"), crunch.Extension()
    proxy = LocalProxy(lambda: lock)

    def inner():
        return lock

    for fn, words in [
        (lambda: lock, r"its variable 'lock', <unlocked .*>: cannot pickle"),
        (lambda: inner, r"its variable 'inner', <function .*: its variable 'lock', <unlocked"),
        (partial(lambda *_: lock, 1), "its variable 'lock'"),
        (lambda: other, "its variable 'other', <Flask 'other'>: <Flask 'other'> is not the app"),
        (lambda: extension, "its variable 'extension', .*: cannot pickle"),
        (lambda: proxy, "its variable 'proxy', .*`LocalProxy` is a proxy that means another"),
    ]:
        with pytest.raises(TypeError, match=f"(?s)the function of task .*cannot be sent.*{words}"):
            delay(fn)


def test_a_result_that_stands_for_something_comes_back_by_name(app):
    assert delay(lambda: [current_task]).result(DEADLINE)[0] is current_task


def test_what_the_app_there_does_not_have(make_app):
    here = make_app()
    here.extensions["missing"] = threading.Lock()
    missing = here.extensions["missing"]
    with here.app_context():
        with pytest.raises(TypeError, match="its variable 'missing'"):
            delay(lambda: missing)
        here.extensions["missing"] = Missing()
        missing = here.extensions["missing"]
        error = ended(delay(lambda: missing)).exception()
    assert "a worker process loads has no extension 'missing'" in str(error)


class Missing:
    def init_app(self, app): ...


PROGRAM = """
import enum, sys
print("imported", __name__, flush=True)

from flask import Flask
from flask_delay import Delay, Retry, current_task, delay, task, using

app = Flask(__name__, static_folder=None)
app.config.update(DELAY_APP=APP, DELAY_BACKEND="processes", DELAY_PROCESSES=1)
app.config["DELAY_LOG_FAILURES"] = False
background = Delay(app)

class SoldOut(Exception):
    pass

class Colour(enum.Enum):
    RED = 1

def buy(colour):
    assert colour is Colour.RED, colour
    if current_task.attempt == 1:
        raise SoldOut(colour)
    return colour

@task
def paint(colour):
    return {"colour": colour}, SoldOut, paint, sys.modules[SoldOut.__module__]

def main():
    try:
        delay(buy, Colour.RED).result()
    except SoldOut as error:
        assert error.args == (Colour.RED,)
    retried = using(retry=Retry(1, backoff=0, on=SoldOut)).delay(buy, Colour.RED)
    assert retried.result() is Colour.RED
    painted, kind, function, module = paint.delay(Colour.RED).result()
    assert painted["colour"] is Colour.RED
    assert kind is SoldOut
    assert function is paint
    assert module is sys.modules["__main__"]
    module = sys.modules[__name__]
    assert delay(lambda: (module.Colour(1), background.name)).result() == (Colour.RED, "delay")
    print("done", "shop" in sys.modules)

if __name__ == "__main__":
    class Guarded(Exception):
        pass
    with app.app_context():
        main()
        print(delay(repr, Guarded).exception())
"""


@pytest.mark.parametrize(
    ("how", "app"),
    [
        (["shop.py"], "shop:app"),
        pytest.param(["-m", "shop"], "shop:app", marks=pytest.mark.servers),
        pytest.param(["shop.py"], "./shop.py:app", marks=pytest.mark.servers),
    ],
)
def test_what_the_program_defines_is_its_own_there_and_here(tmp_path, how, app):
    (tmp_path / "shop.py").write_text(PROGRAM.replace("=APP", f"={app!r}"))
    run = subprocess.run(
        [sys.executable, *how],
        capture_output=True,
        text=True,
        timeout=DEADLINE * 2,
        check=False,
        cwd=tmp_path,
    )
    assert run.stderr == ""
    *lines, last = run.stdout.splitlines()
    assert lines == ["imported __main__", "imported shop", "done False"]
    assert "has no 'Guarded' in this process" in last
