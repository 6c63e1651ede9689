"""Which job it is: the same in every process, by its name."""

import functools
from datetime import timedelta

import pytest

from flask_delay.options import Chosen, submitter

from .helpers import Thing
from .jobs import RARELY, start

SECRET = "hunter2"


def test_the_same_job_is_the_one_that_is_there(jobs):
    job = start(jobs, pow, 2, 3, every=RARELY)
    assert start(jobs, pow, 2, 3, every=RARELY) is job
    assert start(jobs, pow, 2, 3, every=timedelta(hours=1)) is job
    others = [
        start(jobs, pow, 2, 4, every=RARELY),
        start(jobs, max, 2, 3, every=RARELY),
        start(jobs, pow, 2, 3, every=RARELY / 2),
        start(jobs, pow, 2, 3, cron="0 * * * *"),
        start(jobs, pow, 2, 3, cron="0 * * * *", timezone="Asia/Tokyo"),
        start(jobs, pow, 2, 3, every=RARELY, key="mine"),
        start(jobs, pow, 2, 3, every=RARELY, key=lambda *args: args),
    ]
    assert len({id(each) for each in [job, *others]}) == 8
    assert len({each.id for each in [job, *others]}) == 8
    assert (job.name, job.schedule) == ("builtins.pow", "every 3600 s")


def test_two_that_look_the_same(jobs):
    def make():
        return lambda: None

    job = start(jobs, make(), every=RARELY)
    with pytest.raises(ValueError, match="another function or with other arguments.*'key'"):
        start(jobs, make(), every=RARELY)
    assert jobs.all() == [job]
    assert start(jobs, make(), every=RARELY, key="two") is not job


@pytest.mark.parametrize(
    "call",
    [
        (int, object()),
        (Thing().method,),
        (functools.partial(lambda: None),),
        (lambda thing: thing, Thing()),
        # In an order that depends on the process.
        (max, {"one", "two"}),
        (len, [({"a": frozenset({"one", "two"})},)]),
        (len, {frozenset({"one", "two"}): "key"}),
    ],
)
def test_what_has_another_name_in_each_process(jobs, call):
    with pytest.raises(ValueError, match="another name in each process.*'key'"):
        start(jobs, *call, every=RARELY)
    assert start(jobs, *call, every=RARELY, key="one").next_run


def test_a_key_that_has_another_name_in_each_process(jobs):
    with pytest.raises(ValueError, match="another name in each process.*'key'"):
        start(jobs, int, every=RARELY, key=frozenset({"one", "two"}))
    assert start(jobs, max, {"one"}, every=RARELY).name == "builtins.max"


def test_the_main_module_has_one_name(jobs):
    """Also in processes that multiprocessing has started anew, where it is imported."""

    def fn():
        pass

    found = set()
    for module in ("__main__", "__mp_main__"):
        fn.__module__ = module
        job = start(jobs, fn, every=RARELY)
        found.add((job.id, job.name))
        job.cancel()
    assert len(found) == 1


@pytest.mark.parametrize(
    "call",
    [
        (len, SECRET),
        (functools.partial(len, SECRET),),
        (SECRET.encode,),
        (lambda secret: secret, SECRET),
    ],
)
def test_a_job_is_called_by_its_function_alone(jobs, caplog, call):
    """Names are in logs and on pages, arguments and keys nobody's to read there."""
    job = start(jobs, *call, every=RARELY, key=f"the key {SECRET}")
    job._jobs.executor.shutdown()
    job._failures.reset()
    with pytest.raises(RuntimeError, match="after shutdown"):
        job.run_now()
    for text in (job.name, str(job), repr(job), job.id, job.schedule, caplog.text):
        assert SECRET not in text
    assert job.name.rpartition(".")[0]


def test_refusals_do_not_show_arguments(jobs):
    class Mailer:
        def __repr__(self):
            return f"<Mailer of {SECRET} at 0x7f00>"

    for call in [(print, Mailer()), (functools.partial(print, Mailer()),)]:
        with pytest.raises(ValueError, match="another name in each process") as raised:
            start(jobs, *call, every=RARELY)
        assert SECRET not in str(raised.value)
    with pytest.raises(ValueError, match="the argument 2, a Mailer"):
        start(jobs, print, 1, Mailer(), every=RARELY)
    with pytest.raises(ValueError, match="the argument 'end', a Mailer"):
        submitter(Chosen({"every": RARELY}), jobs, None)(print, end=Mailer())
