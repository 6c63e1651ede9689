# ruff: noqa: N802 - unittest's names
"""Run CPython's own tests of thread pools and futures on `flask_delay`.

They come from the interpreter that runs this file (the package `test` of its standard
library) or from its distribution, and meet `flask_delay.Executor` where they would use
`ThreadPoolExecutor`, and `flask_delay.Future` where they would make a `Future`. What they
say of pools of processes and of interpreters is not about us and is left out. Tests that
look at another class's private parts are in `exclusions.toml`.

The last line is `N passed, N failed, N skipped`; what is excluded counts as skipped, and
an exclusion that is out of date as failed. Without any tests of CPython, a line before the
last one says what to install; that is no failure.
"""

import argparse
import concurrent.futures
import faulthandler
import importlib
import logging
import pkgutil
import subprocess
import sys
import tomllib
import unittest
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import flask_delay

HERE = Path(__file__).resolve()
SUITE = "test.test_concurrent_futures"
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"

# Debian packs the tests apart from the interpreter. What it has for this version will do
# for an interpreter that was built without them.
DISTRIBUTION = Path(f"/usr/lib/python{VERSION}/test")

# About processes and interpreters alone; `executor_type` tells the other such classes.
FOREIGN_MODULES = {"test_deadlock", "test_interpreter_pool", "test_process_pool"}
FOREIGN_CLASSES = {"FailingInitializerResourcesTest"}

# The longest of CPython's takes some seconds; an excluded one may hang instead of failing.
LIMIT = 120
EXCLUDED_LIMIT = 15

PASSED, FAILED, SKIPPED = range(3)


class NoTestsError(Exception):
    """This interpreter has none of CPython's tests."""


def import_suite() -> ModuleType:
    """CPython's tests: a module, from 3.12 on a package."""
    try:
        return importlib.import_module(SUITE)
    except ModuleNotFoundError as error:
        if error.name not in {"test", SUITE} or not DISTRIBUTION.is_dir():
            raise NoTestsError(error.name) from None
    add_distribution()
    try:
        return importlib.import_module(SUITE)
    except ModuleNotFoundError as error:
        raise NoTestsError(error.name) from None


def add_distribution() -> None:
    package = importlib.import_module("test")
    if str(DISTRIBUTION) not in package.__path__:
        package.__path__.append(str(DISTRIBUTION))


def import_modules(suite: ModuleType) -> list[ModuleType]:
    """The modules with tests that concern us, and those that they share code in."""
    if not hasattr(suite, "__path__"):
        return [suite]
    names = {module.name for module in pkgutil.iter_modules(suite.__path__)}
    return [
        importlib.import_module(f"{suite.__name__}.{name}")
        for name in sorted(names - FOREIGN_MODULES)
    ]


def create_future(
    state: str = "PENDING", exception: BaseException | None = None, result: object = None
) -> flask_delay.Future[Any]:
    """CPython's helper of this name assigns to private attributes; this one need not."""
    future: flask_delay.Future[Any] = flask_delay.Future()
    if state in {"CANCELLED", "CANCELLED_AND_NOTIFIED"}:
        future.cancel()
    if state in {"RUNNING", "CANCELLED_AND_NOTIFIED"}:
        future.set_running_or_notify_cancel()
    if state == "FINISHED" and exception is not None:
        future.set_exception(exception)
    elif state == "FINISHED":
        future.set_result(result)
    if future._state != state:
        raise AssertionError(f"{future!r} should be {state}")
    return future


READY_MADE = {
    "PENDING_FUTURE": create_future("PENDING"),
    "RUNNING_FUTURE": create_future("RUNNING"),
    "CANCELLED_FUTURE": create_future("CANCELLED"),
    "CANCELLED_AND_NOTIFIED_FUTURE": create_future("CANCELLED_AND_NOTIFIED"),
    "EXCEPTION_FUTURE": create_future("FINISHED", exception=OSError()),
    "SUCCESSFUL_FUTURE": create_future("FINISHED", result=42),
}


def put_ours_in_place(modules: list[Any]) -> None:
    """Change what the tests look up: names in their modules, and the code of their scripts."""
    ours: dict[str, object] = {
        "Future": flask_delay.Future,
        "create_future": create_future,
        **READY_MADE,
    }
    for module in modules:
        for name, value in ours.items():
            if hasattr(module, name):
                setattr(module, name, value)
        if hasattr(module, "ThreadPoolMixin"):
            module.ThreadPoolMixin.executor_type = flask_delay.Executor
        if hasattr(module, "assert_python_ok"):
            module.assert_python_ok = with_ours(module.assert_python_ok)
    # What they do without their mixin.
    concurrent.futures.ThreadPoolExecutor = flask_delay.Executor  # type: ignore[assignment,misc]


def with_ours(assert_python_ok: Callable[..., object]) -> Callable[..., object]:
    """Have the scripts of tests import our executor, at the place where they import theirs."""
    name = flask_delay.Executor.__name__

    def run(*args: str, **env_vars: str) -> object:
        option, code = args
        for theirs in (name, "ThreadPoolExecutor"):
            code = code.replace(
                f"from concurrent.futures import {theirs}\n",
                f"from flask_delay import {name} as {theirs}\n",
            )
        if option != "-c" or "flask_delay" not in code:
            raise AssertionError(f"a script without our executor: {args}")
        if str(DISTRIBUTION) in importlib.import_module("test").__path__:
            code = f"import test\ntest.__path__.append({str(DISTRIBUTION)!r})\n{code}"
        return assert_python_ok(option, code, **env_vars)

    return run


def test_classes(modules: list[ModuleType]) -> Iterator[type[unittest.TestCase]]:
    """Every class of tests that is not about processes or interpreters."""
    for module in modules:
        for value in list(vars(module).values()):
            if (
                isinstance(value, type)
                and issubclass(value, unittest.TestCase)
                and value.__module__ == module.__name__
                and value.__name__ not in FOREIGN_CLASSES
                and getattr(value, "executor_type", flask_delay.Executor) is flask_delay.Executor
            ):
                yield value


def all_tests(modules: list[ModuleType]) -> dict[str, unittest.TestCase]:
    """The tests by `Class.test_name`."""
    loader = unittest.TestLoader()
    return {
        f"{cls.__name__}.{name}": cls(name)
        for cls in test_classes(modules)
        for name in loader.getTestCaseNames(cls)
    }


def exclusions() -> tuple[dict[str, str], set[str]]:
    """The reasons by `Class.test_name`, and which of the names need not be there."""
    reasons: dict[str, str] = {}
    optional = set()
    for entry in tomllib.loads(HERE.with_name("exclusions.toml").read_text())["exclude"]:
        since = tuple(int(part) for part in entry.get("since", "0").split("."))
        for name in entry["tests"]:
            if name in reasons:
                raise ValueError(f"excluded twice: {name}")
            reasons[name] = entry["reason"]
            if sys.version_info < since:
                optional.add(name)
    return reasons, optional


class Result(unittest.TestResult):
    """Counts, prints what failed at once and a line for each class of tests."""

    def __init__(self) -> None:
        super().__init__()
        self.support = cast("Any", importlib.import_module("test.support"))
        self.support.verbose = False
        self.counts = [0, 0, 0]
        self._outcome = PASSED
        self._group = ""
        self._group_counts = [0, 0, 0]

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        faulthandler.dump_traceback_later(LIMIT, exit=True)
        self._outcome = PASSED
        group = type(test).__name__
        if group != self._group:
            self.end_group()
            self._group = group

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        faulthandler.cancel_dump_traceback_later()
        if self.support.environment_altered:
            # Threads that live on, mostly. CPython's own runner asks this too.
            self.support.environment_altered = False
            self._settle(test, FAILED, "the test left something behind")
        self._count(self._outcome)

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        super().addError(test, err)
        self._settle(test, FAILED, self.errors[-1][1])

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addFailure(test, err)
        self._settle(test, FAILED, self.failures[-1][1])

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
        super().addSubTest(test, subtest, err)
        if err is not None:
            problems = self.failures if issubclass(err[0], test.failureException) else self.errors
            self._settle(subtest, FAILED, problems[-1][1])

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        super().addSkip(test, reason)
        self._settle(test, SKIPPED, reason)

    def _settle(self, test: object, outcome: int, text: str) -> None:
        self._outcome = outcome
        print(f"{'FAILED' if outcome == FAILED else 'skipped'} {test}\n{text}", flush=True)
        if not isinstance(test, unittest.TestCase):
            # The set-up of a module; it has no stopTest.
            self._count(outcome)

    def _count(self, outcome: int) -> None:
        self.counts[outcome] += 1
        self._group_counts[outcome] += 1

    def end_group(self) -> None:
        if self._group:
            print(f"{self._group}: {line(self._group_counts)}", flush=True)
        self._group_counts = [0, 0, 0]


def line(counts: list[int]) -> str:
    return "{} passed, {} failed, {} skipped".format(*counts)


def run(tests: list[unittest.TestCase]) -> Result:
    result = Result()
    unittest.TestSuite(tests).run(result)
    result.end_group()
    return result


def check_excluded(name: str) -> str | None:
    """Run an excluded test in a process of its own; say so if it passes."""
    try:
        done = subprocess.run(
            [sys.executable, str(HERE), "--only", name],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=EXCLUDED_LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None
    return f"{name} is excluded and would pass" if done.returncode == 0 else None


def only(name: str, tests: dict[str, unittest.TestCase]) -> int:
    result = run([tests[name]])
    return 0 if result.counts == [1, 0, 0] else 1


def run_all(tests: dict[str, unittest.TestCase], pool: ThreadPoolExecutor) -> int:
    reasons, optional = exclusions()
    stale = [
        f"{name} is excluded and not among the tests of {VERSION}"
        for name in reasons.keys() - tests.keys() - optional
    ]
    result = run([test for name, test in tests.items() if name not in reasons])
    excluded = sorted(reasons.keys() & tests.keys())
    stale += [problem for problem in pool.map(check_excluded, excluded) if problem]
    for name in excluded:
        print(f"excluded: {name}: {reasons[name]}")
    for problem in sorted(stale):
        print(f"FAILED exclusions.toml: {problem}")
    passed, failed, skipped = result.counts
    failed += len(stale)
    print(line([passed, failed, skipped + len(excluded)]))
    return 1 if failed or not passed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="CLASS.TEST", help="run this test, excluded or not")
    options = parser.parse_args()
    # Before ours takes its name.
    pool = ThreadPoolExecutor(max_workers=4)
    try:
        suite = import_suite()
        modules = import_modules(suite)
    except NoTestsError as error:
        print(
            f"NOT RUN: Python {sys.version.split()[0]} has no module {error}; "
            f"on Debian and Ubuntu: apt-get install libpython{VERSION}-testsuite"
        )
        print(line([0, 0, 0]))
        return 0
    # Tasks that fail are most of what is tested; only one test looks at the log, for more.
    logging.getLogger("flask_delay").addFilter(lambda record: not record.msg.endswith(" failed"))
    put_ours_in_place(modules)
    tests = all_tests(modules)
    if options.only:
        return only(options.only, tests)
    print(f"CPython's tests of {Path(suite.__file__ or '').parent}, Python {VERSION}", flush=True)
    return run_all(tests, pool)


if __name__ == "__main__":
    sys.exit(main())
