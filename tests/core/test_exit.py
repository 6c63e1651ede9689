"""What becomes of accepted tasks when the interpreter exits."""

import ast
import re
import sys
import textwrap
import time

import pytest

from .scripts import EXIT, NAME, WARNING, unfinished

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX exit codes")


@pytest.fixture
def run(run_script):
    def run(script, *args, **kwargs):
        return run_script(EXIT + textwrap.dedent(script), *args, **kwargs)

    return run


class TestAcceptedTasksFinish:
    @pytest.mark.parametrize(
        "submit", ["kept.submit", "Executor(2).submit", "delay", "limited(20).submit"]
    )
    def test_at_the_end_of_the_script(self, run, submit):
        done = run(f"""
            kept = Executor(2)
            submit = {submit}
            for n in range(5):
                submit(after, leaving, n)
            del submit
        """)
        assert (done.rc, done.err) == (0, "")
        assert sorted(done.out.split()) == list("01234")

    def test_exit_code_is_kept(self, run):
        done = run("delay(after, leaving, 'ran'); sys.exit(3)")
        assert (done.rc, done.out, done.err) == (3, "ran\n", "")

    def test_unhandled_exception_is_kept(self, run):
        done = run("delay(after, leaving, 'ran'); raise LookupError('the end')")
        assert (done.rc, done.out) == (1, "ran\n")
        assert done.err.startswith("Traceback")
        assert done.err.endswith("LookupError: the end\n")
        assert done.err.count("Traceback") == 1

    def test_after_shutdown_without_waiting(self, run):
        done = run("""
            executor = Executor(1)
            executor.submit(after, leaving, "first")
            executor.submit(write, "second")
            executor.shutdown(wait=False)
        """)
        assert (done.rc, done.out, done.err) == (0, "first\nsecond\n", "")

    def test_tasks_that_submit_tasks(self, run):
        done = run("""
            executors = [Executor(1), Executor(1)]

            def descend(level):
                assert leaving.wait(20)
                write(level)
                if level:
                    executors[level % 2].submit(descend, level - 1)

            executors[0].submit(descend, 9)
        """)
        assert (done.rc, done.err) == (0, "")
        assert done.out.split() == list("9876543210")

    def test_callbacks_that_submit_tasks(self, run):
        done = run("""
            executors = [Executor(1), limited(20)]

            def number(level):
                assert leaving.wait(20)
                return level

            def report(future):
                write(future.result())
                if future.result():
                    future = executors[future.result() % 2].submit(number, future.result() - 1)
                    future.add_done_callback(report)

            executors[0].submit(number, 9).add_done_callback(report)
        """)
        assert (done.rc, done.err) == (0, "")
        assert done.out.split() == list("9876543210")

    def test_tasks_that_wait_for_tasks(self, run):
        done = run("""
            executor = Executor(1)

            def descend(level):
                assert leaving.wait(20)
                return level and 1 + executor.submit(descend, level - 1).result()

            executor.submit(lambda: write(descend(6)))
        """)
        assert (done.rc, done.out, done.err) == (0, "6\n", "")

    def test_many_tasks(self, run):
        done = run("""
            executor = Executor(3)
            executor.submit(leaving.wait)
            for n in range(2000):
                executor.submit(os.write, 1, b".")
        """)
        assert (done.rc, done.out, done.err) == (0, "." * 2000, "")

    @pytest.mark.skipif(
        sys.version_info[:2] == (3, 12) and sys.version_info < (3, 12, 2),
        reason="CPython 3.12.0 and 3.12.1 start no threads once the exit has begun (gh-113964)",
    )
    def test_tasks_that_use_threads_of_the_standard_library(self, run):
        done = run("""
            import asyncio
            from concurrent.futures import ThreadPoolExecutor

            pool = ThreadPoolExecutor(1)

            def known_pool():
                assert leaving.wait(20)
                write(pool.submit(pow, 2, 3).result())

            def own_pool():
                assert leaving.wait(20)
                with ThreadPoolExecutor(2) as own:
                    write(sum(own.map(len, ["a", "bc"])))

            def own_loop():
                assert leaving.wait(20)
                asyncio.run(asyncio.to_thread(write, "loop"))

            def own_thread():
                assert leaving.wait(20)
                thread = threading.Thread(target=write, args=("thread",))
                thread.start()
                thread.join()

            for task in (known_pool, own_pool, own_loop, own_thread):
                delay(task)
        """)
        assert (done.rc, done.err) == (0, "")
        assert sorted(done.out.split()) == ["3", "8", "loop", "thread"]

    def test_failure_is_logged(self, run):
        done = run("""
            def fail():
                assert leaving.wait(20)
                raise LookupError("late")

            delay(fail)
        """)
        assert (done.rc, done.out) == (0, "")
        assert re.match(r"task fail \([0-9a-f-]{36}\) failed\nTraceback", done.err)
        assert done.err.endswith("LookupError: late\n")

    def test_of_a_thread_that_outlives_the_main_thread(self, run):
        done = run("""
            executor, other = Executor(1), limited(20)

            def late():
                assert drained.wait(20)
                for n in range(3):
                    executor.submit(write, n)
                    other.submit(write, n)

            executor.submit(write, "early")
            threading.Thread(target=late).start()
        """)
        assert (done.rc, done.err) == (0, "")
        assert sorted(done.out.split()) == ["0", "0", "1", "1", "2", "2", "early"]

    def test_and_what_these_submit(self, run):
        done = run("""
            executors = [Executor(1), Executor(1)]
            # The thread has ended when the tasks begin.
            threads = []

            def descend(level):
                threads[0].join()
                write(level)
                if level:
                    executors[level % 2].submit(descend, level - 1)

            def late():
                assert drained.wait(20)
                executors[0].submit(descend, 5)

            threads.append(threading.Thread(target=late))
            threads[0].start()
        """)
        assert (done.rc, done.err) == (0, "")
        assert done.out.split() == list("543210")

    def test_in_development_mode(self, run):
        done = run(
            """
            executors = [Executor(2), limited(20), Executor(1, initializer=int)]
            futures = []

            def task(level):
                assert leaving.wait(20)
                if level:
                    for executor in executors:
                        futures.append(executor.submit(task, level - 1))

            with Executor() as closed:
                closed.submit(int)
            for executor in executors:
                executor.submit(task, 2).add_done_callback(futures.append)
            """,
            flags=("-X", "dev", "-W", "error"),
        )
        assert (done.rc, done.out, done.err) == (0, "", "")


class TestUnused:
    def test_import_starts_no_thread(self, run):
        done = run("""
            executors = [Executor(), limited(1)]
            threads = "/proc/self/task"
            print(len(os.listdir(threads)) if os.path.exists(threads) else 1)
            print(threading.active_count())
        """)
        assert (done.rc, done.out, done.err) == (0, "1\n1\n", "")

    def test_idle_threads_do_not_delay_the_exit(self, run):
        done = run("""
            executors = [Executor(4), limited(20)]
            barrier = threading.Barrier(4)
            for executor in executors:
                for future in [executor.submit(barrier.wait) for _ in range(4)]:
                    future.result()
            assert [executor.stats()["threads"] for executor in executors] == [4, 4]
        """)
        assert (done.rc, done.out, done.err) == (0, "", "")


# Each begins, says so, and does not end in time.
STUCK = {
    "sleeps": """
        def sleeps():
            started.release()
            time.sleep(60)
        executor.submit(sleeps)
    """,
    "waits": """
        def waits():
            started.release()
            threading.Event().wait(60)
        executor.submit(waits)
    """,
    "spins": """
        def spins():
            started.release()
            while True:
                pass
        executor.submit(spins)
    """,
    "calls_back": """
        def calls_back():
            assert attached.wait(20)
        def callback(future):
            started.release()
            time.sleep(60)
        attached = threading.Event()
        executor.submit(calls_back).add_done_callback(callback)
        attached.set()
    """,
    "spins_in_callback": """
        def spins_in_callback():
            assert attached_too.wait(20)
        def spin(future):
            started.release()
            while True:
                pass
        attached_too = threading.Event()
        executor.submit(spins_in_callback).add_done_callback(spin)
        attached_too.set()
    """,
    "waits_for_a_task": """
        def waits_for_a_task():
            other = executor.submit(waited_for)
            other.result()
        def waited_for():
            started.release()
            time.sleep(60)
        executor.submit(waits_for_a_task)
    """,
    "drains": """
        def drains():
            other.submit(drained_for)
            other.drain()
        def drained_for():
            started.release()
            time.sleep(60)
        other = limited(0.2)
        executor.submit(drains)
    """,
    "argument": """
        class Argument:
            def __del__(self):
                started.release()
                time.sleep(60)
        def argument(argument):
            pass
        executor.submit(argument, Argument())
    """,
    "spinning_argument": """
        class SpinningArgument:
            def __del__(self):
                started.release()
                while True:
                    pass
        def spinning_argument(argument):
            pass
        executor.submit(spinning_argument, SpinningArgument())
    """,
}
NAMES = {
    "waits_for_a_task": ["waited_for", "waits_for_a_task"],
    "drains": ["drained_for", "drains"],
}
BEFORE = """
executor = limited({timeout})
started = threading.Semaphore(0)
"""


class TestTimeIsOver:
    @pytest.mark.parametrize("kind", STUCK)
    def test_and_the_task_is_named(self, run, kind):
        done = run(
            BEFORE.format(timeout=0.2)
            + textwrap.dedent(STUCK[kind])
            + "assert started.acquire(timeout=20)",
            timeout=15.0,
        )
        assert (done.rc, done.out) == (0, "")
        assert unfinished(done.err) == NAMES.get(kind, [kind])

    def test_a_task_whose_result_does_not_go_is_not_named(self, run):
        # It has ended, and its callbacks too.
        done = run(
            BEFORE.format(timeout=0.2)
            + textwrap.dedent("""
                class Result:
                    def __del__(self):
                        started.release()
                        time.sleep(60)
                executor.submit(Result)
                assert started.acquire(timeout=20)
            """),
            timeout=15.0,
        )
        assert (done.rc, done.out, done.err) == (0, "", "")

    def test_of_many_tasks_the_first_are_named(self, run):
        done = run(
            """
            executor = limited(0.2, workers=1)
            started = threading.Event()

            def running():
                started.set()
                time.sleep(60)

            executor.submit(running)
            for _ in range(5_000):
                executor.submit(int)
            assert started.wait(20)
            """,
            timeout=15.0,
        )
        match = WARNING.fullmatch(done.err)
        assert match, done.err
        names, more, rest = match[2].partition(" and ")
        assert match[1] == "5001"
        # What runs comes first.
        assert NAME.findall(names) == ["running", *["int"] * 19]
        assert (more, rest) == (" and ", "4,981 more")

    def test_queued_tasks_are_named(self, run):
        done = run(
            """
            executor = limited(0.2, workers=1)
            started = threading.Event()

            def running():
                started.set()
                time.sleep(60)

            def queued():
                write("started after all")

            executor.submit(running)
            futures = [executor.submit(queued) for _ in range(3)]
            assert started.wait(20)
            atexit.register(lambda: write([future.state for future in futures]))
            """,
            timeout=15.0,
        )
        assert (done.rc, done.out) == (0, "['cancelled', 'cancelled', 'cancelled']\n")
        assert unfinished(done.err) == ["queued", "queued", "queued", "running"]

    @pytest.mark.parametrize(
        "wait", ["while not current_task.cancelled:", "while True: current_task.check();"]
    )
    def test_a_task_that_stops_when_told_is_not_named(self, run, wait):
        done = run(
            f"""
            executor = limited(0.2)
            started = threading.Event()

            def cooperates():
                started.set()
                try:
                    {wait} time.sleep(0.005)
                finally:
                    write("stopped")

            future = executor.submit(cooperates)
            assert started.wait(20)
            """,
            timeout=15.0,
        )
        assert (done.rc, done.out, done.err) == (0, "stopped\n", "")

    def test_in_one_warning_for_all(self, run):
        done = run(
            """
            executors = [limited(0.2, workers=2), limited(0.3, workers=2), Executor(1)]
            started = threading.Semaphore(0)

            def sleeps():
                started.release()
                time.sleep(60)

            def cooperates():
                started.release()
                while not current_task.cancelled:
                    time.sleep(0.005)

            def queued():
                write("started after all")

            def ends():
                assert leaving.wait(20)
                write("ended")

            for executor in executors[:2]:
                executor.submit(sleeps)
                executor.submit(cooperates)
            for _ in range(4):
                assert started.acquire(timeout=20)
            executors[0].submit(queued)
            executors[2].submit(ends)
            """,
            timeout=15.0,
        )
        # The cooperative task's worker is free again, but the queue has been cancelled.
        assert (done.rc, done.out) == (0, "ended\n")
        assert unfinished(done.err) == ["queued", "sleeps", "sleeps"]

    def test_of_a_thread_that_outlives_the_main_thread(self, run):
        done = run(
            """
            executor = limited(0.2)

            def sleeps():
                time.sleep(60)

            def late():
                assert drained.wait(20)
                executor.submit(sleeps)

            threading.Thread(target=late).start()
            """,
            timeout=15.0,
        )
        assert (done.rc, done.out) == (0, "")
        assert unfinished(done.err) == ["sleeps"]

    def test_while_a_daemon_thread_keeps_submitting(self, run):
        done = run(
            """
            executor = limited(0.2, workers=1)
            started = threading.Event()

            def task():
                time.sleep(0.002)

            def flood():
                while True:
                    # Always one more than is done.
                    while executor.stats()["queued"] < 3:
                        executor.submit(task)
                        started.set()

            def stop(arguments):
                write(arguments.exc_type.__name__)

            threading.excepthook = stop
            threading.Thread(target=flood, daemon=True).start()
            assert started.wait(20)
            """,
            timeout=15.0,
        )
        assert done.rc == 0
        # The interpreter may stop the thread before it tries again.
        assert done.out in ("RuntimeError\n", "")
        # When the time is over none may be there just then.
        assert not done.err or set(unfinished(done.err)) == {"task"}

    def test_time_is_not_used_up_for_nothing(self, run):
        start = time.monotonic()
        done = run("limited(600).submit(after, leaving, 'ran')", timeout=30.0)
        assert (done.rc, done.out, done.err) == (0, "ran\n", "")
        assert time.monotonic() - start < 30


class TestLateSubmit:
    LATE = """
        def late():
            try:
                future = {submit}(write, "ran")
            except RuntimeError as error:
                write(f"refused: {{error}}")
    """
    REFUSED = "refused: cannot schedule new futures after shutdown\n"

    @pytest.mark.parametrize("used", [True, False])
    @pytest.mark.parametrize("submit", ["executor.submit", "Executor(1).submit", "delay"])
    def test_in_a_function_of_atexit(self, run, submit, used):
        """As `concurrent.futures` does, whenever the function was registered."""
        done = run(
            textwrap.dedent(self.LATE).format(submit=submit)
            + "executor = Executor(1); atexit.register(late)\n"
            + ("executor.submit(int).result(); delay(int).result()" if used else "")
        )
        assert (done.rc, done.out, done.err) == (0, self.REFUSED, "")

    def test_of_a_thread_that_the_interpreter_waits_for(self, run):
        """Which it does after the first look at the pools."""
        done = run("""
            executor = Executor(1)

            def late():
                assert drained.wait(20)
                executor.submit(write, "ran")

            threading.Thread(target=late).start()
            atexit.register(lambda: write("left"))
        """)
        assert (done.rc, done.out, done.err) == (0, "ran\nleft\n", "")

    @pytest.mark.parametrize(
        "submit", ["executor.submit", "limited(1).submit", "Executor(1).submit", "delay"]
    )
    def test_after_the_pools_were_closed(self, run_script, submit):
        # What is registered before the import is called after the pools were closed.
        done = run_script(
            "import atexit\natexit.register(lambda: late())\n"
            + EXIT
            + textwrap.dedent(self.LATE).format(submit=submit)
            + "executor = Executor(1)\nexecutor.submit(int).result()",
        )
        assert (done.rc, done.out, done.err) == (0, self.REFUSED, "")

    def test_first_use_after_the_pools_were_closed(self, run_script):
        done = run_script(
            "import atexit\natexit.register(lambda: late())\n"
            + EXIT
            + textwrap.dedent(self.LATE).format(submit="delay")
        )
        assert (done.rc, done.out, done.err) == (0, self.REFUSED, "")

    def test_first_import_at_exit(self, run_script):
        # Whether it runs is not promised, but it does not vanish.
        done = run_script(
            textwrap.dedent("""
                import atexit, os, threading

                @atexit.register
                def late():
                    try:
                        from flask_delay import delay
                        delay(os.write, 1, b"ran\\n")
                    except RuntimeError as error:
                        print("refused:", error)
            """)
        )
        assert (done.rc, done.err) == (0, "")
        assert re.fullmatch(r"ran\n|refused: .*\n", done.out)

    def test_of_a_daemon_thread(self, run):
        done = run("""
            executor = Executor(2)
            busy = threading.Event()

            def submit():
                try:
                    while True:
                        future = executor.submit(os.write, 1, b"r")
                        os.write(1, b"a")
                        future.result()
                        busy.set()
                except RuntimeError:
                    os.write(1, b"e")

            threading.Thread(target=submit, daemon=True).start()
            assert busy.wait(20)
        """)
        assert (done.rc, done.err) == (0, "")
        # The thread may be stopped anywhere, so also before it has said "a".
        accepted, ran = done.out.count("a"), done.out.count("r")
        assert accepted <= ran <= accepted + 1
        assert done.out.count("e") <= 1


class TestTaskThatEndsTheProcess:
    def test_at_once(self, run):
        done = run("""
            executor = Executor(1)
            executor.submit(os._exit, 7)
            executor.submit(write, "not any more").result()
        """)
        assert (done.rc, done.out, done.err) == (7, "", "")

    @pytest.mark.parametrize("error", ["SystemExit(5)", "KeyboardInterrupt()", "GeneratorExit()"])
    def test_or_would_like_to(self, run, error):
        done = run(f"""
            def hook(*args):
                write(f"a hook was called: {{args}}")

            sys.excepthook = sys.unraisablehook = threading.excepthook = hook

            def task():
                raise {error}

            def callback(future):
                raise {error}

            executor = Executor(1)
            future = executor.submit(task)
            future.add_done_callback(callback)
            assert repr(future.exception(20)) == {error!r}
            executor.submit(write, "goes on")
            executor.submit(task)
            executor.submit(after, leaving, "to the end")
        """)
        assert (done.rc, done.out) == (0, "goes on\nto the end\n")
        assert "Exception ignored" not in done.err
        logged = re.findall(r"^(.*)\nTraceback.*(?:\n .*)+\n(\w+)", done.err, re.MULTILINE)
        assert {raised for _, raised in logged} == {error.split("(")[0]}
        failed, called_back = r"task task \(.*\) failed", r"exception calling callback for task .*"
        assert [bool(re.fullmatch(failed, line)) for line, _ in logged].count(True) == 2
        assert [bool(re.fullmatch(called_back, line)) for line, _ in logged].count(True) == 1


# Runs a script many times, some at a time: each run is a new chance for a race. Forked,
# because what takes longest is the import; each run ends as an interpreter ends.
REPEAT = """
import os, sys
import flask_delay

TIMES, AT_ONCE = 20, 4

def run():
    running, ended = {}, []
    for n in range(TIMES + AT_ONCE):
        if len(running) == AT_ONCE or n >= TIMES and running:
            pid, status = os.wait()
            number = running.pop(pid)
            with open(f"{number}.1") as out, open(f"{number}.2") as err:
                ended.append((os.waitstatus_to_exitcode(status), out.read(), err.read()))
        if n < TIMES:
            pid = os.fork()
            if pid == 0:
                for fd in (1, 2):
                    os.dup2(os.open(f"{n}.{fd}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), fd)
                return n
            running[pid] = n
    print(ended)
    return None

n = run()
if n is not None:
    exec(sys.argv[1])
"""


@pytest.mark.slow
class TestRaces:
    @pytest.fixture
    def repeat(self, run_script):
        def repeat(script):
            done = run_script(REPEAT, EXIT + textwrap.dedent(script), timeout=50.0)
            assert (done.rc, done.err) == (0, "")
            ended = ast.literal_eval(done.out)
            assert len(ended) == 20
            return ended

        return repeat

    def test_tasks_that_never_end(self, repeat):
        kinds = ["sleeps", "spins", "waits_for_a_task"]
        script = "".join(textwrap.dedent(STUCK[kind]) for kind in kinds)
        acquire = f"for _ in range({len(kinds)}): assert started.acquire(timeout=20)"
        for rc, out, err in repeat(BEFORE.format(timeout=0.01) + script + acquire):
            assert (rc, out) == (0, ""), err
            assert unfinished(err) == ["sleeps", "spins", "waited_for", "waits_for_a_task"]

    def test_callbacks_that_never_end(self, repeat):
        kinds = ["calls_back", "spins_in_callback"]
        script = "".join(textwrap.dedent(STUCK[kind]) for kind in kinds)
        acquire = f"for _ in range({len(kinds)}): assert started.acquire(timeout=20)"
        for rc, out, err in repeat(BEFORE.format(timeout=0.01) + script + acquire):
            assert (rc, out) == (0, ""), err
            assert unfinished(err) == kinds

    def test_tasks_that_end_while_time_ends(self, repeat):
        # From well before to well after the end of the time and the grace that follows.
        ended = repeat("""
            executor = limited(0.05)

            def task(seconds):
                end = time.monotonic() + seconds
                while time.monotonic() < end:
                    pass
                time.sleep(0.001)

            for m in range(3):
                executor.submit(task, 0.04 + 0.02 * m + 0.005 * n)
        """)
        for rc, out, err in ended:
            assert (rc, out) == (0, ""), err
            assert not err or set(unfinished(err)) == {"task"}

    def test_workers_that_leave_while_the_interpreter_does(self, repeat):
        ended = repeat("""
            for m in range(8):
                # Dropped: it ends with its last task.
                Executor(2, idle_timeout=0.001).submit(time.sleep, 0.0002 * m + 0.0001 * n)
        """)
        assert ended == [(0, "", "")] * 20
