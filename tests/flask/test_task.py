"""`task`: functions that know how to run in the background, and stay what they were."""

import copy
import inspect
import pickle
import pydoc
import threading

import pytest
from flask import Flask, request
from tests.flask.tasks_module import (
    Derived,
    Sender,
    add,
    add_async,
    blueprint,
    path,
    report,
    reports,
)

from flask_delay import Delay, Executor, Task, delay, state, task
from flask_delay.periodic.job import Jobs


def test_call_is_the_function_here_and_now(app):
    with app.app_context():
        assert add(1, right=2, note="!") == (3, "app!")


@pytest.mark.parametrize("function", [add, add_async])
def test_delay(app, deadline, function):
    with app.app_context():
        future = function.delay(1, right=2)
        assert future.result(deadline) == (3, "app")
        assert future.name == function.__name__


@pytest.mark.parametrize("function", [add, add_async])
def test_map(app, function):
    with app.app_context():
        results = function.map([1, 2], [3, 4], timeout=20, buffersize=1)
        assert [number for number, _ in results] == [4, 6]


def test_the_app_is_found_when_it_is_submitted(make_app, deadline):
    one, two = make_app("one"), make_app("two")
    for app in one, two:
        with app.app_context():
            assert add.delay(1).result(deadline) == (1, app.name)


def test_of_a_blueprint_in_a_factory(make_app, deadline):
    app = make_app("made")
    app.register_blueprint(blueprint)
    done = []
    app.extensions["delay"].owner.add_default_done_callback(done.append)
    response = app.test_client().post("/add", json={"left": 1, "right": 2})
    assert response.get_json() == {"future": "add"}
    app.extensions["delay"].executor.drain(deadline)
    assert [future.result() for future in done] == [(3, "made")]


def test_without_an_app_it_runs_in_the_pool_of_the_process(monkeypatch, deadline):
    monkeypatch.setattr(state, "only_state", lambda: None)
    with Executor(1) as executor:
        monkeypatch.setattr(state, "shared_jobs", lambda: Jobs(executor))
        assert task(pow).delay(2, 3).result(deadline) == 8


def test_app_without_delay_says_what_to_call():
    with Flask("bare").app_context(), pytest.raises(RuntimeError, match=r"call Delay\(app\)"):
        add.delay(1)


def test_of_a_delay(make_app, deadline):
    with pytest.raises(RuntimeError, match="initialised on no app"):
        report.delay(1)
    app = make_app(extension=reports)
    future = report.delay(5)
    assert future.result(deadline) == 5
    assert app.extensions["reports"].owner.get(future.id) is future


def test_options_of_the_decorator_and_of_using(app, deadline):
    futures = []

    def none():
        return bool(request)

    bare = task(none)

    @app.get("/x")
    def view():
        futures.extend(
            [
                path.delay(),
                bare.using(request=True).delay(),
                task(request=True)(none).using(request=False).delay(),
            ]
        )
        return "ok"

    app.test_client().get("/x")
    assert [future.result(deadline) for future in futures] == ["/x", True, False]
    with app.app_context(), pytest.raises(RuntimeError, match="there is none"):
        path.delay()


def test_bad_options():
    with pytest.raises(TypeError, match="'reqest' is not an option.*did you mean 'request'"):
        task(reqest=True)
    with pytest.raises(TypeError, match="'x' is not an option"):
        add.using(x=1)
    with pytest.raises(TypeError, match="must be True or False"):
        task(request=1)


def test_not_a_function():
    with pytest.raises(TypeError, match="the task must be callable, got 5"):
        task(5)


@pytest.mark.parametrize("function", [add, add_async, Sender.send, Sender.make, Sender("x").send])
def test_it_looks_like_the_function(function):
    inner = function.__wrapped__
    assert callable(function)
    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        assert getattr(function, name) == getattr(inner, name)
    assert inspect.signature(function) == inspect.signature(inner)
    assert inspect.iscoroutinefunction(function) == inspect.iscoroutinefunction(inner)
    assert inspect.unwrap(function) == inspect.unwrap(inner)
    assert inspect.getsource(function) == inspect.getsource(inner)


def test_signature_and_docstring():
    assert str(inspect.signature(add)) == (
        "(left: int, right: int = 0, *, note: str = '') -> tuple[int, str]"
    )
    assert inspect.getdoc(add) == "Add two numbers."
    assert str(inspect.signature(Sender("x").send)) == "(text: str) -> tuple[str, str]"
    assert str(inspect.signature(Sender.make)) == "(name: str) -> 'Sender'"
    assert not inspect.iscoroutinefunction(add)
    assert inspect.iscoroutinefunction(add_async)
    assert inspect.iscoroutinefunction(Sender("x").send_async)
    assert "Add two numbers." in pydoc.render_doc(add)


def test_it_shows_itself():
    assert repr(add) == "<task tests.flask.tasks_module.add>"
    assert repr(path) == "<task tests.flask.tasks_module.path using(request=True)>"


def test_pickled_by_name():
    for function in (add, add_async, report, Sender.send, Sender.count):
        assert pickle.loads(pickle.dumps(function)) is function
        assert copy.copy(function) is function
        assert copy.deepcopy(function) is function
    bound = Sender("x").send
    assert pickle.loads(pickle.dumps(bound))("y") == ("x", "y")
    assert pickle.loads(pickle.dumps(Derived.make)) == Derived.make
    assert pickle.loads(pickle.dumps(Derived("x").send))("y") == ("x", "y")


@pytest.mark.parametrize("make", [lambda: add.using(request=True), lambda: task(Sender("x").send)])
def test_what_has_no_name_is_not_pickled_as_another(make):
    with pytest.raises(pickle.PicklingError):
        pickle.dumps(make())


def test_methods(app, deadline):
    sender = Derived("x")
    with app.app_context():
        assert sender.send("y") == ("x", "y")
        assert sender.send.delay("y").result(deadline) == ("x", "y")
        assert sender.send_async.delay(text="y").result(deadline) == ("x", "y")
        assert Sender.send.delay(sender, "y").result(deadline) == ("x", "y")
        assert list(sender.send.map("ab")) == [("x", "a"), ("x", "b")]
        assert sender.send.using(request=False).delay("y").result(deadline) == ("x", "y")
        assert sender.send.delay("y").name == "Sender.send"


def test_class_methods(app, deadline):
    with app.app_context():
        for owner in (Derived, Derived("x")):
            assert type(owner.make("y")) is Derived
            made = owner.make.delay("y").result(deadline)
            assert type(made) is Derived
            assert made == Sender("y")
        assert type(Sender.make.delay("y").result(deadline)) is Sender


def test_static_methods(app, deadline):
    with app.app_context():
        for owner in (Derived, Derived("x")):
            for function in (owner.count, owner.count_below):
                assert isinstance(function, Task)
                assert function("abc") == 3
                assert function.delay("abc").result(deadline) == 3
                assert list(function.map(["a", "bc"])) == [1, 2]


def test_bound_ones_are_equal_as_methods_are():
    one, other = Sender("x"), Sender("y")
    assert one.send == one.send
    assert hash(one.send) == hash(one.send)
    assert one.send != other.send
    assert one.send != one.send.using(request=True)
    assert add != add_async
    assert add != 1


def test_a_task_is_a_function_for_everyone_else(app, deadline):
    client = app.test_client()
    app.get("/sync")(task(lambda: "sync"))
    with app.app_context():
        assert delay(add, 1).result(deadline) == (1, "app")
        future = delay(add_async, 1)
        assert future.result(deadline) == (1, "app")
        assert future.name == "add_async"
        assert delay(Sender("x").send_async, "y").result(deadline) == ("x", "y")
    assert client.get("/sync").text == "sync"


def test_decorators_below_keep_what_they_have_set():
    def function():
        pass

    function.mark = 1
    made = task(function)
    assert made.mark == 1
    assert made.__wrapped__ is function
    with pytest.raises(AttributeError):
        _ = made.nothing


def test_builtins_and_callables():
    assert task(len)("abc") == 3

    class Holder:
        size = task(len)

    # As `len` itself would be.
    assert Holder().size("abc") == 3


def test_from_many_threads(make_app, deadline):
    app = make_app()
    results = []

    def submit():
        with app.app_context():
            results.append(add.delay(1).result(deadline))

    threads = [threading.Thread(target=submit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(deadline)
    assert results == [(1, "app")] * 8


def test_a_delay_for_each_task_is_not_made():
    extension = Delay()
    assert repr(extension.task) == "task()"
    assert repr(task(request=True)) == "task(request=True)"
