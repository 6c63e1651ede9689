"""The functions of durable tasks: which there are, and what the journal calls them."""

import functools
import gc
import sys
from types import ModuleType

import pytest

from flask_delay import Delay, task
from flask_delay.journal.functions import Functions

MAIN = "shop"


@task(durable=True)
def send(text):
    return text


@task(name="mail.send", also=("mail.post", "old.path"))
def renamed():
    return "renamed"


@task
def plain():
    return "plain"


@task(durable=True)
async def send_async(text):
    return text


def undecorated():
    pass


def make():
    def inner():
        pass

    return inner


class Shop:
    def method(self):
        pass

    @staticmethod
    def static():
        pass

    def __call__(self):
        pass


@pytest.fixture
def functions():
    return Functions(MAIN)


@pytest.mark.parametrize(
    ("made", "name"),
    [
        (send, f"{__name__}.send"),
        (send_async, f"{__name__}.send_async"),
        (plain, f"{__name__}.plain"),
        (renamed, "mail.send"),
    ],
)
def test_the_name_of_a_function_and_the_function_of_a_name(functions, made, name):
    assert functions.name_of(made.__wrapped__) == name
    assert functions.find(name) is made
    assert name in functions.names()


def test_former_names(functions):
    for name in ("mail.post", "old.path"):
        assert functions.find(name) is renamed
        assert name in functions.names()


def test_a_function_with_another_name_has_no_path(functions):
    path = f"{__name__}.renamed"
    assert path not in functions.names()
    with pytest.raises(LookupError, match=f"no @task of this process has the name '{path}'"):
        functions.find(path)


@pytest.mark.parametrize(
    ("function", "name", "why"),
    [
        (lambda: 1, "test_functions.<lambda>|<lambda>", "it is a lambda: write it with `def` in"),
        (make(), "make.<locals>.inner", "it is defined in another function: write it with `def`"),
        (Shop().method, "Shop.method", "it is a method: .* pass what it needs of its object"),
        (Shop.method, "Shop.method", "it is a method: "),
        (Shop.static, "Shop.static", "it is a method: "),
        (Shop(), "<.*Shop object at .*", "it is an object of the class Shop: write it with `def`"),
        (functools.partial(undecorated), "functools.partial", "it is a partial: decorate the func"),
    ],
)
def test_what_other_processes_could_not_find(functions, function, name, why):
    refusal = rf"({name}).* is not for durable tasks: {why}"
    with pytest.raises(TypeError, match=refusal):
        functions.name_of(function)
    # At the decorator, where it is durable or has a name.
    for options in ({"durable": True}, {"durable": "disk"}, {"name": "a"}, {"also": ["a"]}):
        with pytest.raises(TypeError, match=refusal):
            task(**options)(function)
    task(function)
    task(durable=False)(function)


def test_what_is_no_task(functions):
    why = "'undecorated' is not for durable tasks: it has no @task, by which other processes know"
    with pytest.raises(TypeError, match=why):
        functions.name_of(undecorated)


def test_methods_of_a_class_body():
    for kind in (lambda fn: fn, classmethod, staticmethod):
        with pytest.raises(TypeError, match=r"'.*Mailer.send' is not for durable tasks: it is"):
            exec(
                "class Mailer:\n @task(durable=True)\n @kind\n def send(self): pass",
                {"task": task, "kind": kind, "__name__": "mailers"},
            )


def test_a_function_that_was_replaced(functions, monkeypatch):
    old = decorated_in("replaced").__wrapped__
    new = decorated_in("replaced")
    assert functions.name_of(new.__wrapped__) == "replaced.send"
    with pytest.raises(TypeError, match="another function of its name has been decorated since"):
        functions.name_of(old)


def decorated_in(module, **options):
    space = {"__name__": module, "task": task, "options": options}
    exec("@task(**options)\ndef send(): pass", space)
    return space["send"]


def test_the_main_module(functions, monkeypatch):
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))
    made = decorated_in("__main__")
    assert functions.name_of(made.__wrapped__) == "shop.send"
    assert functions.find("shop.send") is made
    assert "shop.send" in functions.names()
    for name in ("__main__.send", "other.send", "send", ".send", ""):
        with pytest.raises(LookupError):
            functions.find(name)
    assert Functions("other").find("other.send") is made


def test_a_module_that_is_there_twice(functions, monkeypatch):
    # As the program, and imported.
    program, imported = decorated_in("__main__"), decorated_in("shop")
    assert functions.find("shop.send") is imported
    assert functions.name_of(program.__wrapped__) == "shop.send"


def test_a_copy_with_other_options_keeps_the_task():
    functions = Functions(MAIN)
    for copy in (
        lambda made: made.using(timeout=5),
        lambda made: made.using(timeout=5).using(priority=1),
        lambda made: made.using(every=60),
        lambda made: made.using(every=60).using(overlap=True),
    ):
        kept = copy(decorated_in("copied"))
        gc.collect()
        found = functions.find("copied.send")
        assert found.__wrapped__ is kept.__wrapped__
        assert found._chosen.given == {}
        del found, kept
        gc.collect()
        with pytest.raises(LookupError):
            functions.find("copied.send")


def test_a_task_is_found_as_long_as_it_exists(functions):
    made = decorated_in("fleeting", name="fleeting", also=["fleeting.old"])
    assert functions.find("fleeting") is functions.find("fleeting.old") is made
    del made
    gc.collect()
    assert not {"fleeting", "fleeting.old", "fleeting.send"} & set(functions.names())
    # Its names are free.
    assert decorated_in("another", name="fleeting")


def test_a_name_is_for_one_function():
    first = decorated_in("first", name="unmistakable", also=["former"])
    for options in ({"name": "unmistakable"}, {"name": "former"}, {"also": ["unmistakable"]}):
        why = r"the name '\w+' of the task second.send is that of first.send already: each needs"
        with pytest.raises(ValueError, match=why):
            decorated_in("second", **options)
    # A path counts too, whichever comes first.
    other = decorated_in("fourth")
    with pytest.raises(ValueError, match="the name 'fourth.send' of the task fifth.send is"):
        decorated_in("fifth", name="fourth.send")
    assert Functions(MAIN).find("fourth.send") is other
    kept = decorated_in("sixth", also=["seventh.send"])
    with pytest.raises(ValueError, match="the name 'seventh.send' of the task seventh.send is"):
        decorated_in("seventh")
    assert decorated_in("seventh", name="another"), kept
    # A module that is loaded again.
    assert decorated_in("first", name="unmistakable") != first


@pytest.mark.parametrize("name", ["<locals>", "shop.make.<locals>.inner", "", ".", "a" * 10_000])
def test_names_from_anywhere_find_nothing_else(functions, name):
    made = task(make())
    with pytest.raises(LookupError):
        functions.find(name)
    with pytest.raises(LookupError):
        functions.find(f"{__name__}.{made.__qualname__}")
    assert not any("<" in name for name in functions.names())


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"name": ""}, ValueError),
        ({"name": " "}, ValueError),
        ({"name": "a\nb"}, ValueError),
        ({"name": "\ud800"}, ValueError),
        ({"name": "a" * 201}, ValueError),
        ({"name": 1}, TypeError),
        ({"also": "a"}, TypeError),
        ({"also": [1]}, TypeError),
        ({"also": [""]}, ValueError),
        ({"also": 1}, TypeError),
    ],
)
def test_bad_names(options, error):
    (option,) = options
    with pytest.raises(error, match=f"task's '{option}' is .*, but must be a .*printable char"):
        task(**options)


def test_the_decorator_of_a_delay(functions):
    decorate = Delay().task(durable=True, name="of a Delay")
    made = decorate(exec_function("of_a_delay"))
    assert functions.find("of a Delay") is made
    # A decorator keeps what the one before was given.
    del made
    gc.collect()
    made = decorate(also=["former"])(exec_function("again"))
    assert functions.find("of a Delay") is functions.find("former") is made


def exec_function(module):
    space = {"__name__": module}
    exec("def send(): pass", space)
    return space["send"]
