"""What is logged: failures for the user, threads for whoever looks for them."""

import contextlib
import logging
import logging.config
import threading

import pytest

from flask_delay import Executor, current_task, logs

from .helpers import (
    DEADLINE,
    ENGINE_LOGGER,
    LOGGER,
    fail,
    make,
    occupied,
    together,
)


@pytest.fixture
def executor():
    with Executor(1, "logged") as executor:
        yield executor


class Collect(logging.Handler):
    """The messages about the pools of one name; others may end at any time."""

    def __init__(self, name):
        super().__init__()
        self.pool, self.messages = name, []

    def emit(self, record):
        message = record.getMessage()
        if self.pool in message:
            self.messages.append(message)


@contextlib.contextmanager
def handling(handler, logger=ENGINE_LOGGER, level=logging.DEBUG):
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield handler
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)


# --- Failures -----------------------------------------------------------------------


def test_a_failure_is_logged_once_with_traceback_name_and_id(executor, caplog):
    future = executor.submit(fail)
    error = future.exception(DEADLINE)
    # By now, not some time later.
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("flask_delay", "ERROR")
    assert record.getMessage() == f"task fail ({future.id}) failed"
    kind, value, traceback = record.exc_info
    assert (kind, value) == (ValueError, error)
    assert traceback.tb_frame.f_code is fail.__code__
    assert record.threadName == "logged_0"
    future.exception()
    with pytest.raises(ValueError):
        future.result()
    executor.drain(DEADLINE)
    assert caplog.records == [record]


def test_a_failure_is_logged_before_the_future_is_done(executor):
    class Look(logging.Handler):
        def emit(self, record):
            states.append(current_task.future.state)

    states = []
    with handling(Look(), LOGGER, logging.ERROR):
        assert executor.submit(fail).exception(DEADLINE)
    assert states == ["running"]


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit, BaseException])
def test_base_exceptions_are_logged_and_end_the_task_not_the_worker(executor, caplog, error):
    def task():
        raise error("50% of %s")

    ident = executor.submit(threading.get_ident).result(DEADLINE)
    future = executor.submit(task)
    assert type(future.exception(DEADLINE)) is error
    assert [record.exc_info[0] for record in caplog.records] == [error]
    assert executor.submit(threading.get_ident).result(DEADLINE) == ident
    assert executor.stats()["threads"] == 1


def test_what_did_not_fail_is_not_logged(executor, caplog):
    with occupied(executor):
        cancelled = executor.submit(fail)
        cancelled.cancel()
        executor.submit(int)
    executor.drain(DEADLINE)
    assert caplog.records == []


@pytest.fixture
def configured():
    """What a configuration that does not know our logger makes of it, by its default."""
    loggers = [it for it in logging.root.manager.loggerDict.values() if hasattr(it, "disabled")]
    before = [(it, it.disabled) for it in loggers]
    logging.config.dictConfig({"version": 1})
    assert LOGGER.disabled
    yield
    for logger, disabled in before:
        logger.disabled = disabled


def test_a_configuration_of_logging_does_not_silence_failures(executor, caplog, configured):
    handler = caplog.handler
    logging.getLogger().addHandler(handler)
    try:
        future = executor.submit(fail)
        assert isinstance(future.exception(DEADLINE), ValueError)
    finally:
        logging.getLogger().removeHandler(handler)
    assert [record.getMessage() for record in caplog.records] == [f"task fail ({future.id}) failed"]


def test_a_configuration_of_logging_does_not_silence_what_python_logs(caplog, configured):
    handler = caplog.handler
    logging.getLogger().addHandler(handler)
    try:
        logs.log.warning("%s of Python's", "a line")
    finally:
        logging.getLogger().removeHandler(handler)
    (record,) = caplog.records
    assert (record.getMessage(), record.name) == ("a line of Python's", "flask_delay")
    assert record.filename == "test_logging.py"


def test_a_level_silences_all_the_same(executor, caplog):
    with handling(caplog.handler, LOGGER, logging.CRITICAL):
        assert executor.submit(fail).exception(DEADLINE)
    assert caplog.records == []


def test_names_with_percent_signs_are_shown_as_they_are(executor, caplog):
    def task():
        raise ValueError("100%")

    task.__qualname__ = task.__name__ = "50%s"
    future = executor.submit(task)
    future.add_done_callback(type("%d", (), {"__call__": fail})())
    future.exception(DEADLINE)
    executor.drain(DEADLINE)
    assert len([record.getMessage() for record in caplog.records]) == 2


class Broken(logging.Handler):
    def handle(self, record):
        raise RuntimeError("no disk")


@pytest.fixture
def unraisable(monkeypatch):
    """The exceptions that nobody could be given."""
    seen = []
    monkeypatch.setattr("sys.unraisablehook", lambda event: seen.append(event.exc_value))
    return seen


def test_a_handler_that_raises_takes_nothing_with_it(executor, unraisable):
    with handling(Broken(), LOGGER, logging.ERROR):
        future = executor.submit(fail)
        assert isinstance(future.exception(DEADLINE), ValueError)
        assert executor.submit(int).result(DEADLINE) == 0
    assert [str(error) for error in unraisable] == ["no disk"]


def test_a_handler_that_raises_on_an_engines_line_takes_nothing_with_it(unraisable):
    with handling(Broken()):
        for _ in range(3):
            with Executor(2) as executor:
                assert executor.submit(int).result(DEADLINE) == 0
                with occupied(executor, 2):
                    pass
    assert {str(error) for error in unraisable} == {"no disk"}


# --- The engine's lines -------------------------------------------------------------


def test_threads_that_start_and_leave_are_logged():
    with handling(Collect("engine")) as collected:
        executor = Executor(1, "engine")
        assert collected.messages == []
        executor.submit(int).result(DEADLINE)
        assert collected.messages == ["thread engine_0 started"]
        executor.shutdown()
    assert collected.messages[1:] == [
        "pool engine closed",
        "thread engine_0 leaves: the pool is closed",
    ]


def test_idle_threads_that_leave_are_logged(wait_until):
    with (
        handling(Collect("retiring")) as collected,
        Executor(2, "retiring", idle_timeout=0.02) as executor,
    ):
        with occupied(executor, 2):
            pass
        assert wait_until(lambda: any("leaves: idle" in it for it in collected.messages))


def test_a_level_set_later_counts_at_once():
    for level, expected in ((logging.INFO, 0), (logging.DEBUG, 3), (logging.WARNING, 0)):
        with handling(Collect("leveled"), level=level) as collected:
            with Executor(1, "leveled") as executor:
                executor.submit(int).result(DEADLINE)
            assert len(collected.messages) == expected


def test_logging_from_rust_does_not_stand_in_the_way_of_those_who_wait():
    class Slow(Collect):
        def emit(self, record):
            # Lets go of the GIL, as writing to a file does.
            pause.wait(0.001)
            super().emit(record)

    pause = threading.Event()

    def use():
        for _ in range(5):
            with Executor(3, "slow", idle_timeout=0.001) as executor:
                futures = [executor.submit(int) for _ in range(20)]
                assert executor.drain(DEADLINE)
            assert all(future.done() for future in futures)
        return len(futures)

    with handling(Slow("slow")) as collected:
        assert together(use, use, use) == [20] * 3
    started = [message for message in collected.messages if message.endswith("started")]
    left = [message for message in collected.messages if "leaves" in message]
    assert len(started) == len(left) >= 15


def test_two_first_submits_meet_while_the_first_is_logged(run_script):
    # In a process of its own: what this guards against stops every thread.
    result = run_script(
        "import logging, threading\n"
        "from flask_delay import Executor\n"
        "class Handler(logging.Handler):\n"
        "    def createLock(self): self.lock = None\n"
        "    def emit(self, record):\n"
        "        if 'started' in record.getMessage() and not logging_.is_set():\n"
        "            logging_.set()\n"
        "            submitting.wait(5)\n"
        "            # Lets go of the GIL, as writing to a file does.\n"
        "            pause.wait(0.1)\n"
        "def second():\n"
        "    logging_.wait(5)\n"
        "    submitting.set()\n"
        "    futures.append(executor.submit(int))\n"
        "logging_, submitting, pause = (threading.Event() for _ in range(3))\n"
        "logger = logging.getLogger('flask_delay.engine')\n"
        "logger.setLevel(logging.DEBUG)\n"
        "logger.addHandler(Handler())\n"
        "futures, executor = [], Executor(2)\n"
        "thread = threading.Thread(target=second)\n"
        "thread.start()\n"
        "futures.append(executor.submit(int))\n"
        "thread.join()\n"
        "print([future.result(5) for future in futures])\n",
        timeout=10,
    )
    assert (result.rc, result.out) == (0, "[0, 0]\n"), result.err


def test_a_handler_may_use_the_pool_that_logs(run_script):
    result = run_script(
        "import logging\n"
        "from flask_delay import Executor\n"
        "class Handler(logging.Handler):\n"
        "    def emit(self, record):\n"
        "        if len(futures) < 5:\n"
        "            futures.append(executor.submit(int))\n"
        "futures, executor = [], Executor(2)\n"
        "logger = logging.getLogger('flask_delay.engine')\n"
        "logger.setLevel(logging.DEBUG)\n"
        "logger.addHandler(Handler())\n"
        "print(executor.submit(int).result(5), futures[0].result(5))\n",
        timeout=10,
    )
    assert (result.rc, result.out) == (0, "0 0\n"), result.err


def test_an_executor_dropped_while_an_error_is_raised_does_not_disturb_it():
    with handling(Collect("dropped")) as collected:
        for _ in range(10):
            with pytest.raises(TypeError, match="has no len"):
                len(Executor(1, "dropped"))
    assert collected.messages == ["pool dropped closed"] * 10


# --- Panics -------------------------------------------------------------------------


def test_a_panic_of_an_extension_fails_that_task_only(run_script):
    # The exception that any extension made with PyO3 raises for a panic. In a process of
    # its own: what this guards against stops every thread.
    result = run_script(
        "from flask_delay import Executor\n"
        "with Executor(1) as executor:\n"
        "    # PyO3 makes its class when it first looks at an exception.\n"
        "    assert executor.submit(int, 'x').exception(5)\n"
        "    (panic,) = (c for c in BaseException.__subclasses__() if 'Panic' in c.__name__)\n"
        "    def task(): raise panic('at the disco')\n"
        "    def callback(future): raise panic('in a callback')\n"
        "    future = executor.submit(task)\n"
        "    print('at the disco' in str(future.exception(5)))\n"
        "    print(executor.submit(int).result(5))\n"
        "    called = []\n"
        "    future = executor.submit(int)\n"
        "    for it in (callback, called.append): future.add_done_callback(it)\n"
        "    print(executor.drain(5), called == [future], executor.submit(int).result(5))\n",
        timeout=10,
    )
    expected = ["True", "0", "True True 0"]
    assert (result.rc, result.out.splitlines()) == (0, expected), result.err


def test_a_panic_in_the_scope_fails_that_task_only(run_script):
    result = run_script(
        "import contextlib\n"
        "from flask_delay import _native\n"
        "panic = []\n"
        "@contextlib.contextmanager\n"
        "def scope():\n"
        "    if panic: raise panic.pop()('at the disco')\n"
        "    yield\n"
        "executor = _native._scoped_executor(\n"
        "    max_workers=1, thread_name_prefix='', scope=scope, hidden=(), reject_types=(),\n"
        "    reject=print, log_failures=True, shutdown_timeout=5.0, result_limit=10)\n"
        "assert executor.submit(int, 'x').exception(5)\n"
        "panic += [c for c in BaseException.__subclasses__() if 'Panic' in c.__name__]\n"
        "print('at the disco' in str(executor.submit(int).exception(5)))\n"
        "print(executor.submit(int).result(5))\n",
        timeout=10,
    )
    assert (result.rc, result.out.splitlines()) == (0, ["True", "0"]), result.err


def test_failures_can_be_kept_out_of_the_log(caplog):
    executor = make(max_workers=1, log_failures=False, result_limit=0)
    assert isinstance(executor.submit(fail).exception(DEADLINE), ValueError)
    executor.shutdown()
    assert caplog.records == []
