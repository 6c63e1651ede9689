"""Old and new code of an app on one file, at the same time, in both orders."""

import sqlite3
import time
from contextlib import closing

import pytest

OLD = """
@task(durable=True)
def price(item):
    return "old", item

@task(durable=True)
def hold(name):
    # In another process it ends at once.
    while name == f"go-{os.getpid()}" and not (folder / name).exists():
        current_task.check()
        time.sleep(0.01)
"""
# `price` has a parameter without which the old code cannot run; `mail` is new.
NEW = """
@task(durable=True)
def price(item, currency="EUR"):
    return "new", item, currency

@task(durable=True)
def mail(to):
    return "new", to

@task(durable=True)
def hold(name):
    # In another process it ends at once.
    while name == f"go-{os.getpid()}" and not (folder / name).exists():
        current_task.check()
        time.sleep(0.01)
"""
# `price` has moved.
MOVED = """
@task(durable=True, name="money.price", also=("shop.price",))
def price(item):
    return "moved", item
"""
# As a later version that has an option more.
WITH_OPTION = (
    OLD.replace('"old"', '"new"')
    + """
from flask_delay.journal import store
store._RUNNING = (*store._RUNNING, "colour")
"""
)
ORDERS = pytest.mark.parametrize("order", ["old first", "new first"])


def started(start, order, old, new):
    """The processes of old and new code, each with one worker, begun in that order."""
    codes = {"old": old, "new": new}
    first = order.split()[0]
    processes = {first: start(codes.pop(first), DELAY_MAX_WORKERS=1)}
    (other,) = codes
    processes[other] = start(codes[other], DELAY_MAX_WORKERS=1)
    for process in processes.values():
        # It claims.
        process("add.delay(1).result(20)")
    return processes["old"], processes["new"]


def busy(process):
    """Have its worker wait; the file that lets it go on."""
    name = f"go-{process.pid}"
    state = None
    # The other process may take it first.
    while state != "running":
        process(f"held = hold.delay({name!r})")
        while (state := process("held.state")) == "pending":
            time.sleep(0.01)
        if state == "running":
            time.sleep(0.1)
            state = process("held.state")
    return f"go({name!r})"


@ORDERS
class TestFunctions:
    def test_a_new_one_is_left_to_new_code(self, start, order):
        old, new = started(start, order, OLD, NEW)
        go_on = busy(new)
        id = new("mail.delay('ann').id")
        # The old one has a free worker, and works on.
        assert old("price.delay(1).result(20)") == ("old", 1)
        assert new(f"executor.get({id!r}).state") == "pending"
        new(go_on)
        assert old(f"executor.get({id!r}).result(20)") == ("new", "ann")

    def test_arguments_that_old_code_cannot_take(self, start, order, until):
        old, new = started(start, order, OLD, NEW)
        go_on = busy(new)
        id = new("price.delay(1, currency='CHF').id")
        # The old one is free, and finds that it cannot run it.
        until(old, f"executor.tasks()[0].id == {id!r} and executor.tasks()[0].state == 'parked'")
        new(go_on)
        assert new(f"executor.get({id!r}).result(20)") == ("new", 1, "CHF")
        assert new(f"executor.get({id!r}).attempts") == 1

    def test_tasks_of_either_run_in_either(self, start, order):
        old, new = started(start, order, OLD, NEW)
        go_on = busy(new)
        assert new("price.delay(1).result(20)") == ("old", 1)
        new(go_on)
        go_on = busy(old)
        assert old("price.delay(2).result(20)") == ("new", 2, "EUR")
        old(go_on)

    def test_a_name_that_has_moved(self, start, order):
        old, new = started(start, order, OLD, MOVED + OLD.split("\n\n")[1])
        go_on = busy(old)
        assert old("price.delay(1).result(20)") == ("moved", 1)
        old(go_on)
        # The old code does not know the new name.
        go_on = busy(new)
        id = new("price.delay(2).id")
        assert old("price.delay(3).result(20)")[1] == 3
        assert old(f"executor.get({id!r}).state") == "pending"
        new(go_on)
        assert new(f"executor.get({id!r}).result(20)") == ("moved", 2)


@ORDERS
def test_an_option_that_old_code_does_not_know(start, tmp_path, order, until):
    """It is not run without it."""
    old, new = started(start, order, OLD, WITH_OPTION)
    go_on = busy(new)
    change_after(new, tmp_path, 'options = \'{"colour": "red"}\'')
    until(old, "executor.tasks()[0].state == 'parked'")
    assert "colour" in old("executor.tasks()[0].reason")
    new(go_on)
    assert new("executor.get(executor.tasks()[0].id).result(20)") == ("new", 7)


@pytest.mark.parametrize("change", ["pool = 3", "state = -1"])
def test_a_kind_that_old_code_does_not_know(start, tmp_path, change):
    """What newer code may write is left alone."""
    old = start(OLD, DELAY_MAX_WORKERS=1)
    change_after(old, tmp_path, change)
    # Longer than until the next look for what is unknown.
    old("time.sleep(6)")
    assert old("add.delay(1).result(20)") == 2
    view = "[it for it in executor.tasks() if it.name == 'price'][0]"
    state = "ready" if change == "pool = 3" else "blocked"
    assert old(f"{view}.state, {view}.attempts, {view}.finished_at") == (state, 0, None)


def change_after(process, folder, change):
    """Submit a task of `price`, and write what newer code would have in its row."""
    id = process("price.using(countdown=3600).delay(7).id")
    with closing(sqlite3.connect(folder / "journal.db", timeout=20)) as file, file:
        file.execute(f"UPDATE task SET state = 0, due = NULL, {change} WHERE id = ?", [id])
