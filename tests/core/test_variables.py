"""Context variables that a task does not get as its submitter has them."""

import contextvars
import decimal
import sys
import textwrap
import threading
import warnings
from decimal import Decimal

import pytest

from flask_delay import Executor, Retry, current_task

from .helpers import DEADLINE, submit

trail = contextvars.ContextVar("trail", default="none")


def third():
    return str(Decimal(1) / 3)


def narrow():
    decimal.getcontext().prec = 4
    return third()


async def narrow_async():
    return narrow()


def alone(function):
    """Call it where no variable is set yet."""
    return contextvars.Context().run(function)


# --- decimal --------------------------------------------------------------------------


@pytest.mark.parametrize("function", [narrow, narrow_async])
@pytest.mark.parametrize("options", [{}, {"retry": 1}])
def test_a_task_that_sets_the_precision_leaves_the_submitters_alone(executor, function, options):
    def view():
        before = third()
        # Two, of which the second must not find what the first has done.
        futures = [submit(executor, function, **options) for _ in range(2)]
        narrowed = [future.result(DEADLINE) for future in futures]
        assert narrowed == ["0.3333"] * 2
        assert submit(executor, third, **options).result(DEADLINE) == before
        return before == third()

    assert alone(view)


def test_the_precision_is_that_of_the_submit():
    with Executor(1) as executor:

        def view():
            release = threading.Event()
            executor.submit(release.wait, DEADLINE)
            context = decimal.getcontext()
            futures = []
            for context.prec in (6, 3):
                futures.append(executor.submit(third))
            context.prec = 9
            release.set()
            return [future.result(DEADLINE) for future in futures], third()

        assert alone(view) == (["0.333333", "0.333"], "0.333333333")


@pytest.mark.parametrize("is_async", [False, True])
def test_each_attempt_has_the_precision_of_the_submit(executor, is_async):
    seen = []

    def work():
        seen.append(decimal.getcontext().prec)
        decimal.getcontext().prec = 4
        if current_task.attempt < 3:
            raise ConnectionError

    async def work_async():
        work()

    def view():
        decimal.getcontext().prec = 7
        function = work_async if is_async else work
        return submit(executor, function, retry=Retry(2, backoff=0)).result(DEADLINE)

    alone(view)
    assert seen == [7, 7, 7]


def test_a_callback_has_the_tasks_own(executor):
    ended = threading.Event()
    seen = []

    def look(_future):
        seen.append(decimal.getcontext().prec)
        ended.set()

    def view():
        decimal.getcontext().prec = 7
        begun = threading.Event()
        future = executor.submit(lambda: (begun.wait(DEADLINE), narrow()))
        future.add_done_callback(look)
        begun.set()
        assert ended.wait(DEADLINE)
        return decimal.getcontext().prec

    assert alone(view) == 7
    assert seen == [4]


def test_other_variables_go_along(executor):
    def look():
        return trail.get(), third()

    def view():
        trail.set("view")
        decimal.getcontext().prec = 3
        return [executor.submit(look) for _ in range(3)]

    for future in alone(view):
        assert future.result(DEADLINE) == ("view", "0.333")


def test_without_one_a_task_makes_its_own(executor):
    assert alone(lambda: executor.submit(narrow)).result(DEADLINE) == "0.3333"
    assert executor.submit(third).result(DEADLINE) == third()


@pytest.mark.skipif(
    not getattr(sys.flags, "context_aware_warnings", False),
    reason="warnings are the whole process's here",
)
def test_a_task_that_sets_a_filter_leaves_the_submitters_alone(executor):
    def view():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            executor.submit(warnings.simplefilter, "error").result(DEADLINE)
            warnings.warn("not an error", stacklevel=1)

    alone(view)


# --- Event loops ------------------------------------------------------------------------


def test_what_says_which_event_loop_runs_is_not_carried(run_script):
    # A module as sniffio is: in this process it would be there for all tests.
    done = run_script(
        textwrap.dedent("""
        import contextvars, sys, types

        from flask_delay import Executor

        trail = contextvars.ContextVar("trail", default="none")
        DEADLINE = 20

        def look():
            return trail.get(), library.get("unset")

        async def look_async():
            return look()

        with Executor(1) as executor:
            trail.set("view")
            library = contextvars.ContextVar("library", default=None)
            assert executor.submit(look).result(DEADLINE) == ("view", "unset")
            module = sys.modules["sniffio"] = types.ModuleType("sniffio")
            # As when another thread is in the middle of the import.
            assert executor.submit(look).result(DEADLINE) == ("view", "unset")
            module.current_async_library_cvar = library
            library.set("asyncio")
            for function in (look, look_async, look):
                assert executor.submit(function).result(DEADLINE) == ("view", "unset")
            assert library.get() == "asyncio"

            # Alone, and with something that has nothing to do with it.
            def view():
                library.set("trio")
                return executor.submit(look).result(DEADLINE)

            assert contextvars.Context().run(view) == ("none", "unset")
    """)
    )
    assert (done.rc, done.out, done.err) == (0, "", "")


@pytest.mark.parametrize("broken", ["None", "object()", "types.SimpleNamespace()"])
def test_a_module_of_that_name_may_be_anything(run_script, broken):
    done = run_script(
        textwrap.dedent(f"""
        import contextvars, sys, types
        from flask_delay import Executor

        sys.modules["sniffio"] = {broken}
        sys.modules["asgiref"] = types.SimpleNamespace(sync={broken})
        contextvars.ContextVar("trail").set(1)
        with Executor(1) as executor:
            assert executor.submit(int).result(20) == 0
    """)
    )
    assert (done.rc, done.out, done.err) == (0, "", "")
