"""Options, ids and arguments of tasks in worker processes."""

import os
from functools import partial

import pytest

from flask_delay import DuplicateTask, delay, task, using

pytestmark = [pytest.mark.keeps_threads, pytest.mark.servers]

DEADLINE = 20.0


def pids(crunch, *calls):
    return [call().result(DEADLINE)["pid"] for call in calls]


def test_a_tasks_backend_is_kept(app, crunch):
    """`delay(push, 7)` and `using(...).delay(push, 7)` ran on a thread of the server."""
    crunched = task(backend="processes")(crunch.whereabouts)
    threads = app.extensions["delay"].owner.using(backend="threads")
    assert os.getpid() not in pids(
        crunch,
        lambda: delay(crunched, 7),
        lambda: using(timeout=60).delay(crunched, 7),
        lambda: delay(partial(crunched, 7)),
        lambda: app.extensions["delay"].owner.delay(crunched, 7),
    )
    assert pids(crunch, lambda: threads.delay(crunched, 7)) == [os.getpid()]


def test_an_id_of_ones_own(app, crunch):
    extension = app.extensions["delay"].owner
    future = using(id="order 7", backend="processes").delay(crunch.whereabouts)
    assert extension.get("order 7") is future
    assert future.result(DEADLINE)["id"] == "order 7"
    for backend in ("processes", "threads"):
        with pytest.raises(DuplicateTask, match="'order 7'"):
            using(id="order 7", backend=backend).delay(int)


def test_arguments_are_looked_at(app, crunch):
    with pytest.raises(TypeError, match=r"double\(\) got an unexpected keyword argument 'vlue'"):
        using(backend="processes").delay(crunch.double, vlue=1)
    with pytest.raises(TypeError, match="leave out the parentheses"):
        using(backend="processes").delay(crunch.double(1))
