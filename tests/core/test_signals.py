"""Signals, Ctrl-C above all, while something is waited for."""

import re
import sys
import textwrap

import pytest

from .scripts import SIGNALS

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


WAITS = {
    "result": "future.result()",
    "result with a timeout": "future.result(20)",
    "exception": "future.exception()",
    "drain": "executor.drain()",
    "shutdown": "other.shutdown()",
    "with": "other.__exit__(None, None, None)",
    "wait": "concurrent.futures.wait([future, last])",
    "as_completed": "next(concurrent.futures.as_completed([future, last]))",
    "map": "list(executor.map(abs, [1]))",
}


@pytest.fixture
def run(run_script):
    def run(script, *args, **kwargs):
        return run_script(SIGNALS + textwrap.dedent(script), *args, **kwargs)

    return run


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_interrupt_ends_the_wait(run, wait):
    done = run(f"""
        def waits():
            {wait}

        thread = send(signal.SIGINT, inside="waits")
        try:
            waits()
        except KeyboardInterrupt:
            late = time.monotonic() - sent[0]
            write("interrupted" if late < 1 else f"interrupted after {{late}} s")
        thread.join()
        assert not future.done()
        # What was accepted goes on, and the pool takes more.
        again = executor.submit(pow, 2, 3)
        gate.set()
        write([future.result(20), last.result(20), again.result(20)])
    """)
    assert (done.rc, done.out, done.err) == (0, "interrupted\n[True, True, 8]\n", "")


def test_wait_can_be_resumed_after_an_interrupt(run):
    done = run("""
        def waits():
            return future.result()

        for _ in range(5):
            thread = send(signal.SIGINT, inside="waits")
            try:
                waits()
            except KeyboardInterrupt:
                write("interrupted")
            thread.join()
        gate.set()
        write(waits())
    """)
    assert (done.rc, done.out, done.err) == (0, "interrupted\n" * 5 + "True\n", "")


@pytest.mark.parametrize(
    "wait", ["future.result()", "future.result(20)", "executor.drain()", "other.shutdown()"]
)
def test_handler_runs_and_the_wait_goes_on(run, wait):
    done = run(f"""
        def handler(number, frame):
            write(signal.Signals(number).name)
            # A handler may use the pool.
            delay(write, "task").result(20)
            handled.release()
            if len(sent) == 3:
                gate.set()

        signal.signal(signal.SIGUSR1, handler)

        def waits():
            return {wait}

        thread = send(signal.SIGUSR1, inside="waits", times=3)
        waits()
        thread.join()
        write("over")
        assert gate.is_set()
    """)
    assert (done.rc, done.out, done.err) == (0, "SIGUSR1\ntask\n" * 3 + "over\n", "")


def test_handler_does_not_prolong_the_wait(run):
    done = run("""
        calls = []
        signal.signal(signal.SIGALRM, lambda number, frame: calls.append(number))
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
        start = time.monotonic()
        try:
            future.result(0.5)
        except TimeoutError:
            write("over")
        # Again and again with the whole time, it would never be over.
        assert executor.drain(0.5) is False
        assert 1 <= time.monotonic() - start < 10
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert len(calls) > 1
        gate.set()
    """)
    assert (done.rc, done.out, done.err) == (0, "over\n", "")


def test_exception_of_a_handler_ends_the_wait(run):
    done = run("""
        def handler(number, frame):
            raise LookupError("from the handler")

        signal.signal(signal.SIGUSR1, handler)

        def waits():
            future.result()

        thread = send(signal.SIGUSR1, inside="waits")
        try:
            waits()
        except LookupError as error:
            write(error)
        thread.join()
        gate.set()
    """)
    assert (done.rc, done.out, done.err) == (0, "from the handler\n", "")


def test_interrupt_is_the_main_threads(run):
    done = run("""
        def task():
            # A task's wait is no business of the signal's.
            write(last.result())

        waiting = executor.submit(task)

        def waits():
            waiting.result()

        thread = send(signal.SIGINT, inside="waits")
        try:
            waits()
        except KeyboardInterrupt:
            write("interrupted")
        thread.join()
        gate.set()
        assert waiting.exception(20) is None
    """)
    assert (done.rc, done.out, done.err) == (0, "interrupted\nTrue\n", "")


class TestAtExit:
    LIMITS = """
        def stuck():
            threading.Event().wait(60)

        def queued():
            write("started after all")

        gate.set()
        executor.drain()
        other.drain()
    """
    UNFINISHED = re.compile(
        r"2 tasks did not finish before exit and were cancelled:"
        r" (?:queued|stuck) \(.{36}\), (?:queued|stuck) \(.{36}\)\n"
    )

    def test_interrupt_ends_the_drain(self, run):
        done = run(
            textwrap.dedent(self.LIMITS)
            + textwrap.dedent("""
                executor.submit(stuck)
                executor.submit(queued)
                send(signal.SIGINT, inside="_shutdown")
            """),
            timeout=15.0,
        )
        assert (done.rc, done.out) == (0, "")
        assert self.UNFINISHED.fullmatch(done.err)

    def test_interrupt_of_the_script_then_of_the_drain(self, run):
        done = run(
            textwrap.dedent(self.LIMITS)
            + textwrap.dedent("""
                first, second = executor.submit(stuck), executor.submit(queued)

                def waits():
                    first.result()

                # Both watch from now on: some versions start no thread once the exit has begun.
                send(signal.SIGINT, inside="waits")
                send(signal.SIGINT, inside="_shutdown")
                waits()
            """),
            timeout=15.0,
        )
        # The first is the script's: its traceback, and the exit code that goes with it.
        assert (done.rc, done.out) == (-2, "")
        first, last = done.err.split("KeyboardInterrupt\n")
        assert first.startswith("Traceback")
        assert self.UNFINISHED.fullmatch(last)

    def test_interrupt_before_the_drain_lets_tasks_end(self, run):
        done = run("""
            executor.submit(write, "ran")

            def waits():
                future.result()

            threading._register_atexit(gate.set)
            send(signal.SIGINT, inside="waits")
            waits()
        """)
        assert (done.rc, done.out) == (-2, "ran\n")
        assert done.err.startswith("Traceback")
        assert done.err.endswith("KeyboardInterrupt\n")

    def test_handler_runs_and_the_drain_goes_on(self, run):
        done = run("""
            def handler(number, frame):
                write(signal.Signals(number).name)
                gate.set()

            signal.signal(signal.SIGUSR1, handler)
            executor.submit(write, "ran")
            send(signal.SIGUSR1, inside="_shutdown")
        """)
        assert (done.rc, done.out, done.err) == (0, "SIGUSR1\nran\n", "")
