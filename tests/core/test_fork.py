"""Pools and futures in processes forked after their first use."""

import re
import sys
import textwrap

import pytest

from .scripts import FORK

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no fork")

# Why the hooks of the child cannot be called alone; empty where they can.
CHILD_HOOKS_NEED_THE_OTHERS = (
    "from CPython 3.13 on, PyOS_AfterFork_Child unlocks what only PyOS_BeforeFork locks, and"
    " ends a process that forked without it"
    if sys.version_info >= (3, 13)
    else ""
)


# What `try_all` writes of a future that another process has to settle.
FOREIGN = [
    f"{use}: ForkedFutureError"
    for use in ("result", "timed", "exception", "cancel", "callback", "wait", "as_completed")
]


@pytest.fixture
def run(run_script):
    def run(script, *args, **kwargs):
        return run_script(FORK + textwrap.dedent(script), *args, **kwargs)

    return run


def passed(done):
    """Assert that all went well and quietly; return the output's lines."""
    assert (done.rc, done.err) == (0, "")
    return done.out.splitlines()


class TestPoolUsedBefore:
    @pytest.mark.parametrize(
        "executor", ["Executor(1)", "Executor(4)", "limited(20, 1)", "Executor(2, idle_timeout=1)"]
    )
    def test_works_in_each_child(self, run, executor):
        done = run(f"""
            executor = {executor}
            assert nested(executor, 3) == 9

            def child(n):
                assert nested(executor, n) == n * n
                assert executor.drain(20)
                executor.shutdown()
                assert executor.stats()["threads"] == 0

            pids = []
            for n in range(4):
                pids.append(forked(child, n))
                assert nested(executor, n) == n * n
            assert [reap(pid) for pid in pids] == [0] * 4
            assert nested(executor, 5) == 25
        """)
        assert passed(done) == []

    def test_process_wide_pool(self, run):
        done = run("""
            assert delay(pow, 2, 3).result(20) == 8
            pid = forked(lambda: write(delay(pow, 2, 4).result(20)))
            assert reap(pid) == 0
            write(delay(pow, 2, 5).result(20))
        """)
        assert passed(done) == ["16", "32"]

    def test_drains_at_the_exit_of_each(self, run):
        done = run("""
            leaving = threading.Event()
            threading._register_atexit(leaving.set)
            executors = [Executor(1), limited(20)]

            def descend(who, level):
                assert leaving.wait(20)
                write(f"{who} {level}")
                if level:
                    executors[level % 2].submit(descend, who, level - 1)

            for executor in executors:
                executor.submit(int).result(20)
            for who in (3, 4):
                pid = os.fork()
                if pid == 0:
                    executors[0].submit(descend, who, 3)
                    sys.exit(who)
                assert reap(pid) == who
            executors[0].submit(descend, "parent", 3)
        """)
        assert passed(done) == [f"{who} {level}" for who in (3, 4, "parent") for level in "3210"]

    def test_time_is_over_in_the_child(self, run):
        done = run("""
            executor, gate = limited(0.2, workers=1), threading.Event()

            def stays_here():
                assert gate.wait(20)

            def sleeps(started):
                started.set()
                time.sleep(60)

            def queued():
                write("started after all")

            executor.submit(stays_here)
            executor.submit(write, "parent")
            pid = os.fork()
            if pid == 0:
                started = threading.Event()
                executor.submit(sleeps, started)
                executor.submit(queued)
                assert started.wait(20)
                sys.exit(3)
            write(reap(pid))
            gate.set()
        """)
        assert (done.rc, done.out) == (0, "3\nparent\n")
        # The parent's tasks are not the child's business.
        assert re.fullmatch(
            r"2 tasks did not finish before exit and were cancelled:"
            r" (queued|sleeps) \(.{36}\), (queued|sleeps) \(.{36}\)\n",
            done.err,
        )

    def test_never_used(self, run):
        done = run("""
            executor = Executor(1)
            pid = forked(lambda: write(nested(executor, 2)))
            assert reap(pid) == 0
            write(nested(executor, 3))
        """)
        assert passed(done) == ["4", "9"]

    def test_shut_down_before(self, run):
        done = run("""
            executor = Executor(1)
            executor.submit(int).result(20)
            executor.shutdown()

            def child():
                try:
                    executor.submit(int)
                except RuntimeError as error:
                    write(error)
                executor.shutdown()
                assert executor.drain(20)

            assert reap(forked(child)) == 0
        """)
        assert passed(done) == ["cannot schedule new futures after shutdown"]

    def test_shut_down_in_the_child_alone(self, run):
        done = run("""
            executor = Executor(1)
            executor.submit(int).result(20)
            assert reap(forked(executor.shutdown)) == 0
            write(nested(executor, 3))
        """)
        assert passed(done) == ["9"]

    def test_dropped_in_the_child(self, run):
        done = run("""
            import gc
            executor, gate = Executor(2), threading.Event()
            futures = [executor.submit(gate.wait, 20) for _ in range(4)]

            def child():
                global executor, futures
                del executor, futures
                gc.collect()
                write(delay(pow, 2, 3).result(20))

            assert reap(forked(child)) == 0
            gate.set()
            write([future.result(20) for future in futures])
        """)
        assert passed(done) == ["8", "[True, True, True, True]"]

    def test_grandchildren(self, run):
        done = run("""
            executor = Executor(1)

            def descend(level):
                write(nested(executor, level))
                assert level == 0 or reap(forked(descend, level - 1)) == 0
                assert nested(executor, 5) == 25

            descend(4)
        """)
        assert passed(done) == ["16", "9", "4", "1", "0"]

    def test_initializer_runs_in_the_child(self, run):
        done = run("""
            executor = Executor(1, initializer=lambda: write("initialised"))
            executor.submit(write, "parent").result(20)
            assert reap(forked(lambda: executor.submit(write, "child").result(20))) == 0
        """)
        assert passed(done) == ["initialised", "parent", "initialised", "child"]

    def test_under_load(self, run):
        done = run("""
            executors = [Executor(1), Executor(3)]
            stop = threading.Event()
            counts = [0, 0]

            def load(n):
                while not stop.is_set():
                    futures = [executors[n].submit(pow, 2, m) for m in range(20)]
                    assert [future.result(20) for future in futures][:3] == [1, 2, 4]
                    executors[n].drain(0.0002)
                    counts[n] += 1

            def child(n):
                for executor in executors:
                    futures = [executor.submit(nested, executor, m) for m in range(3)]
                    assert [future.result(20) for future in futures] == [0, 1, 4]
                    assert executor.drain(20)
                    executor.shutdown()

            threads = [threading.Thread(target=load, args=(n,)) for n in (0, 1)]
            for thread in threads:
                thread.start()
            codes = [reap(forked(child, n)) for n in range(50)]
            stop.set()
            for thread in threads:
                thread.join()
            assert codes == [0] * 50, codes
            assert all(counts)
            assert [nested(executor, 3) for executor in executors] == [9, 9]
        """)
        assert passed(done) == []

    @pytest.mark.slow
    def test_while_another_thread_uses_it_for_the_first_time(self, run):
        # What is made at first use must not be left half made to the child. Each round is
        # a process where nothing has been used, which forks while a thread uses it all.
        done = run("""
            def use_all():
                executor = limited(20, workers=2)
                future = executor.submit(nested, executor, 3)
                future.add_done_callback(lambda future: None)
                assert future.result(20) == 9
                assert concurrent.futures.wait([executor.submit(pow, 2, 3)], 20).done
                assert executor.submit(lambda: current_task.progress(1, 2)).result(20) is None
                assert executor._get(future.id) is future
                assert executor.drain(20)
                executor.shutdown()

            def first_use():
                sys.setswitchinterval(1e-6)
                ready = threading.Barrier(2)
                thread = threading.Thread(target=lambda: ready.wait(20) >= 0 and use_all())
                thread.start()
                ready.wait(20)
                pids = [forked(use_all) for _ in range(5)]
                codes = [reap(pid) for pid in pids]
                thread.join()
                assert codes == [0] * 5, codes

            for _ in range(40):
                assert reap(forked(first_use), 30.0) == 0
        """)
        assert passed(done) == []

    @pytest.mark.slow
    def test_while_threads_begin(self, run):
        # CPython's own list of threads must not be locked in the child: up to 3.11 that is
        # where it would hang, in `fork` itself.
        done = run("""
            def begin_threads():
                while not over.is_set():
                    executor = Executor(4)
                    for future in [executor.submit(int) for _ in range(8)]:
                        assert future.result(20) == 0
                    executor.shutdown(wait=False)

            over = threading.Event()
            sys.setswitchinterval(1e-6)
            threads = [threading.Thread(target=begin_threads) for _ in range(2)]
            for thread in threads:
                thread.start()
            assert {reap(forked(int)) for _ in range(1000)} == {0}
            over.set()
            for thread in threads:
                thread.join()
        """)
        assert passed(done) == []


class TestInheritedFuture:
    @pytest.mark.parametrize("which", ["running", "queued"])
    def test_of_an_unfinished_task_raises(self, run, which):
        done = run(f"""
            executor, gate = Executor(1), threading.Event()
            started = threading.Event()
            running = executor.submit(lambda: started.set() or gate.wait(20))
            queued = executor.submit(pow, 2, 3)
            assert started.wait(20)
            assert reap(forked(try_all, {which})) == 0
            # The parent's future is what it was.
            assert not {which}.done()
            gate.set()
            write([running.result(20), queued.result(20)])
        """)
        assert passed(done) == [*FOREIGN, "[True, 8]"]

    def test_says_what_to_do(self, run):
        done = run("""
            executor, gate = Executor(1), threading.Event()

            def inherited():
                gate.wait(20)

            future = executor.submit(inherited)

            def child():
                try:
                    future.result()
                except RuntimeError as error:
                    write(error)

            assert reap(forked(child)) == 0
            gate.set()
        """)
        (message,) = passed(done)
        assert re.search("inherited.*forked.*parent.*submit it again", message)

    def test_stays_foreign_in_a_grandchild(self, run):
        done = run("""
            executor, gate = Executor(1), threading.Event()
            future = executor.submit(gate.wait, 20)
            assert reap(forked(lambda: reap(forked(try_all, future)))) == 0
            gate.set()
        """)
        assert passed(done) == FOREIGN

    def test_of_a_task_that_waits_is_refused_to_a_task(self, run):
        done = run("""
            executor, gate = Executor(1), threading.Event()
            inner = []
            waiting = threading.Event()

            def outer():
                inner.append(executor.submit(gate.wait, 20))
                waiting.set()
                inner[0].result()

            future = executor.submit(outer)
            assert waiting.wait(20)

            def child():
                for inherited in (future, inner[0]):
                    try:
                        executor.submit(inherited.result).result(20)
                    except ForkedFutureError:
                        write("refused")

            code = reap(forked(child))
            gate.set()
            assert code == 0
        """)
        assert done.rc == 0
        assert done.out == "refused\nrefused\n"
        # A failure as any other, if one without a traceback.
        assert done.err.count("ForkedFutureError: ") == 2

    def test_of_a_finished_task_is_as_good_as_ever(self, run):
        done = run("""
            executor = limited(20)

            def fail():
                raise LookupError("in the parent")

            def child():
                assert future.result() == 8
                assert future.done() and not future.cancel()
                assert concurrent.futures.wait([future, failed]).done == {future, failed}
                future.add_done_callback(lambda future: write(future.result()))
                write(repr(failed.exception()))
                write(cancelled.cancelled() and cancelled.state)
                assert executor._get(known) is future

            future, failed = executor.submit(pow, 2, 3), executor.submit(fail)
            known = future.id
            concurrent.futures.wait([future, failed])
            gate = threading.Event()
            blocked = [executor.submit(gate.wait, 20) for _ in range(8)]
            cancelled = executor.submit(int)
            assert cancelled.cancel()
            code = reap(forked(child))
            gate.set()
            assert code == 0
        """)
        assert (done.rc, done.out) == (0, "8\nLookupError('in the parent')\ncancelled\n")
        assert done.err.count("Traceback") == 1

    def test_with_a_thread_that_waits_in_the_parent(self, run):
        done = run("""
            executor, gate = Executor(1), threading.Event()
            future = executor.submit(gate.wait, 20)
            # All of these have put something into the future when the fork comes.
            future.add_done_callback(lambda future: write(f"callback {future.result()}"))
            waits = [future.result, lambda: concurrent.futures.wait([future])]
            threads = [threading.Thread(target=wait) for wait in waits]
            for thread in threads:
                thread.start()
            assert future.id
            assert reap(forked(try_all, future)) == 0
            gate.set()
            for thread in threads:
                thread.join()
        """)
        assert passed(done) == [*FOREIGN, "callback True"]


class TestForkInATask:
    # The child is a copy of the worker alone, in the midst of its task.

    def test_child_uses_the_pool(self, run):
        done = run("""
            executor = Executor(1)

            def child():
                write(nested(executor, 3))
                write(current_task.future.name)

            def task():
                return reap(forked(child))

            assert executor.submit(task).result(20) == 0
            assert nested(executor, 4) == 16
        """)
        assert passed(done) == ["9", "task"]

    def test_queued_tasks_stay_in_the_parent(self, run):
        done = run("""
            executor, queued = Executor(1), threading.Event()
            parent = os.getpid()

            def child():
                # Waiting calls another worker in this one's place.
                assert nested(executor, 3) == 9
                assert executor.submit(os.getpid).result(20) == os.getpid()

            def task():
                assert queued.wait(20)
                return reap(forked(child))

            future = executor.submit(task)
            others = [executor.submit(lambda: write(os.getpid() == parent)) for _ in range(5)]
            queued.set()
            assert future.result(20) == 0
            concurrent.futures.wait(others)
        """)
        assert passed(done) == ["True"] * 5

    def test_child_may_drain_and_shut_down(self, run):
        done = run("""
            executor = Executor(1)

            def child():
                # None of the child's workers: they can be waited for.
                executor.submit(write, "child")
                assert executor.drain(20)
                executor.shutdown()

            assert executor.submit(lambda: reap(forked(child))).result(20) == 0
            executor.submit(write, "parent")
        """)
        assert passed(done) == ["child", "parent"]

    @pytest.mark.parametrize("used", [False, True], ids=["idle", "used"])
    def test_child_returns_from_the_task(self, run, used):
        done = run(f"""
            executor = Executor(2)
            here = os.getpid()

            def task():
                pid = os.fork()
                if pid == 0:
                    if {used}:
                        executor.submit(write, "child's own")
                    return
                return reap(pid)

            queued = threading.Event()
            future = executor.submit(task)
            future.add_done_callback(lambda future: os.getpid() == here and write("callback"))
            write(future.result(20))
            assert nested(executor, 3) == 9
        """)
        assert sorted(passed(done)) == sorted(["0", "callback", *["child's own"] * used])

    def test_many_children_under_load(self, run):
        done = run("""
            executor = Executor(3)

            def child():
                assert nested(executor, 3) == 9

            def task():
                return reap(forked(child))

            futures = []
            for _ in range(20):
                futures.append(executor.submit(task))
                for _ in range(50):
                    executor.submit(int)
            assert [future.result(50) for future in futures] == [0] * 20
        """)
        assert passed(done) == []


class TestMultiprocessing:
    TARGET = """
        import multiprocessing

        executor = Executor(1)
        context = multiprocessing.get_context("fork")

        def target(queue):
            leaving = threading.Event()
            threading._register_atexit(leaving.set)
            queue.put(nested(executor, 3))
            executor.submit(lambda: leaving.wait(20) and write("drained"))

        def start():
            queue = context.SimpleQueue()
            process = context.Process(target=target, args=(queue,))
            process.start()
            assert queue.get() == 9
            process.join(20)
            queue.close()
            return process.exitcode
    """

    def test_process_started_by_the_main_thread(self, run):
        done = run(
            textwrap.dedent(self.TARGET)
            + "assert nested(executor, 2) == 4\nwrite(start())\nassert nested(executor, 4) == 16"
        )
        assert passed(done) == ["drained", "0"]

    def test_process_started_by_a_task(self, run):
        done = run(
            textwrap.dedent(self.TARGET) + "executor.submit(lambda: write(start())).result(20)"
        )
        assert passed(done) == ["drained", "0"]

    def test_process_pool_in_a_task(self, run):
        done = run("""
            import multiprocessing

            executor = Executor(1)

            def task():
                context = multiprocessing.get_context("fork")
                with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
                    return pool.submit(pow, 2, 3).result(20)

            write(executor.submit(task).result(20))
        """)
        assert passed(done) == ["8"]


class TestForkInC:
    # As uWSGI does: with Python's hooks called by hand, with those of the child alone (its
    # option py-call-osafterfork), or with none.

    FORK = """
        import ctypes

        python = ctypes.PyDLL(None)
        executor, gate = Executor(2), threading.Event()
        assert nested(executor, 3) == 9
        future = executor.submit(gate.wait, 20)
        settle()
        pid = python.fork()
    """

    @pytest.mark.parametrize("before", ["", "python.PyOS_BeforeFork()"], ids=["child", "all"])
    def test_with_the_hooks(self, run, before):
        if not before and CHILD_HOOKS_NEED_THE_OTHERS:
            pytest.skip(CHILD_HOOKS_NEED_THE_OTHERS)
        done = run(
            textwrap.dedent(self.FORK.replace("pid =", f"{before}\n        pid ="))
            + textwrap.dedent("""
                if pid == 0:
                    python.PyOS_AfterFork_Child()
                    leaving = threading.Event()
                    threading._register_atexit(leaving.set)
                    try_all(future)
                    write(nested(executor, 4))
                    executor.submit(lambda: leaving.wait(20) and write("drained"))
                    sys.exit(3)
            """)
            + ("python.PyOS_AfterFork_Parent()" if before else "")
            + textwrap.dedent("""
                assert reap(pid) == 3
                gate.set()
                write(nested(executor, 5))
            """)
        )
        assert passed(done) == [*FOREIGN, "16", "drained", "25"]

    def test_without_any_hook(self, run):
        done = run(
            textwrap.dedent(self.FORK)
            + textwrap.dedent("""
                if pid == 0:
                    code = 1
                    try:
                        try_all(future)
                        write(nested(executor, 4))
                        assert executor.drain(20)
                        code = 0
                    finally:
                        os._exit(code)
                assert reap(pid) == 0
                gate.set()
                write(nested(executor, 5))
            """)
        )
        assert passed(done) == [*FOREIGN, "16", "25"]

    def test_without_the_interpreter_lock(self, run):
        # CDLL lets go of it, as a server whose master process is written in C has.
        hooks = "" if CHILD_HOOKS_NEED_THE_OTHERS else "python.PyOS_AfterFork_Child()"
        done = run(
            textwrap.dedent(self.FORK.replace("pid = python.fork()", ""))
            + textwrap.dedent(f"""
                fork = ctypes.CDLL(None).fork
                other = Executor(2)
                assert nested(other, 2) == 4

                def start_some():
                    pids = []
                    for _ in range(10):
                        settle()
                        pid = fork()
                        if pid == 0:
                            code = 1
                            try:
                                {hooks}
                                assert nested(executor, 4) == 16
                                assert nested(other, 5) == 25
                                code = 0
                            finally:
                                os._exit(code)
                        pids.append(pid)
                        assert nested(other, 6) == 36
                    return [reap(pid) for pid in pids]

                assert start_some() == [0] * 10
                gate.set()
            """)
        )
        assert passed(done) == []
