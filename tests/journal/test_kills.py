"""Random kills under a real server, the quick form of `make kills`; and tests of its judge."""

import importlib.util
import subprocess
import sys
from typing import Any

import pytest
from tests.journal import kills
from tests.journal.fleet import Fleet
from tests.journal.record import Event, Row, Told, judge, report

needs_gunicorn = pytest.mark.skipif(
    importlib.util.find_spec("gunicorn") is None, reason="gunicorn is not installed"
)


@needs_gunicorn
def test_random_kills(tmp_path, capsys):
    verdict = kills.run(tmp_path, 20, seed=17)
    with capsys.disabled():
        print(f"\n{report(verdict)}")
    assert not verdict.problems
    assert verdict.figures["run more than once"]


@needs_gunicorn
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_many_random_kills(tmp_path, capsys):
    verdict = kills.run(tmp_path, 100, seed=18)
    with capsys.disabled():
        print(f"\n{report(verdict)}")
    assert not verdict.problems


def test_a_process_is_killed_once(tmp_path):
    """A second time would be later than its death, and what ran again between would look wrong."""
    fleet = Fleet(tmp_path)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        fleet.slay([process.pid])
        killed = dict(fleet.told.killed)
        # Its parent, this process, has not waited for it yet.
        fleet.slay([process.pid], alone=True)
        assert fleet.told.killed == killed
        assert fleet.told.alone == set()


def told(**more: Any) -> Told:
    return Told(accepted={1: "a"}, **more)


DONE = {"a": Row("a", "finished", 1, 0, "1")}
RUN = [Event("start", 1, 10, 1, 1.0), Event("end", 1, 10, 1, 2.0)]
AGAIN = [Event("start", 1, 11, 2, 4.0), Event("end", 1, 11, 2, 5.0)]


@pytest.mark.parametrize(
    ("events", "rows", "outside", "problem"),
    [
        (RUN, DONE, {}, None),
        # It was killed in the middle, or before its end was stored.
        ([*RUN[:1], *AGAIN], DONE, {"killed": {10: 3.0}}, None),
        ([*RUN, *AGAIN], DONE, {"killed": {10: 3.0}}, None),
        (RUN, {}, {}, "is lost"),
        (RUN, {"a": Row("a", "dead", 1, 3, None)}, {}, "is dead"),
        (RUN, {"a": Row("a", "finished", 1, 0, "2")}, {}, "has the result 2"),
        (RUN[:1], DONE, {}, "never came to its end"),
        ([*RUN, *AGAIN], DONE, {}, "and 10 was not killed"),
        ([*RUN[:1], *AGAIN], DONE, {"killed": {10: 4.5}}, "500.0 ms before 10 was killed"),
        ([RUN[0], AGAIN[0], RUN[1]._replace(at=4.5)], DONE, {"killed": {10: 3.0}}, "elsewhere"),
        ([*RUN, *AGAIN], DONE, {"killed": {10: 3.0}, "ended": {1: 2.5}}, "started after that"),
        (RUN, DONE, {"unknown": ["a"]}, "did not know"),
        ([*RUN, RUN[0]._replace(number=2)], DONE, {"refused": {2}}, "was refused and has run"),
    ],
)
def test_the_judge(events, rows, outside, problem):
    problems = judge(told(**outside), sorted(events, key=lambda it: it.at), rows).problems
    if problem is None:
        assert problems == []
    else:
        assert any(problem in it for it in problems), problems
