"""Random kills under a real server, the quick form of `make kills`; and tests of its judge."""

import importlib.util
import subprocess
import sys
from typing import Any

import pytest
from tests.journal import hands, kills, record, soak, ticks
from tests.journal.fleet import Fleet
from tests.journal.record import Event, Row, Told, judge, report

needs_gunicorn = pytest.mark.skipif(
    importlib.util.find_spec("gunicorn") is None, reason="gunicorn is not installed"
)


@pytest.mark.workers
@needs_gunicorn
def test_random_kills(tmp_path, capsys):
    verdict = kills.run(tmp_path, 20, seed=17)
    with capsys.disabled():
        print(f"\n{report(verdict)}")
    assert not verdict.problems
    assert verdict.figures["run more than once"]
    assert verdict.figures["went on"]
    assert verdict.figures["limited"]
    assert verdict.figures["rated"]
    assert verdict.figures["chains"]
    assert verdict.figures["retried by hand"]
    assert verdict.figures["waited in a pause"]


@needs_gunicorn
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_many_random_kills(tmp_path, capsys):
    verdict = kills.run(tmp_path, 100, seed=18)
    with capsys.disabled():
        print(f"\n{report(verdict)}")
    assert not verdict.problems


@pytest.mark.workers
def test_kills_at_ticks(tmp_path, capsys):
    """The quick form of `make kills-ticks`."""
    verdict = ticks.run(tmp_path, 12, seed=19)
    with capsys.disabled():
        print(f"\n{report(verdict)}")
    assert not verdict.problems
    assert verdict.figures["made up for"]


@pytest.mark.workers
@needs_gunicorn
def test_a_short_soak(tmp_path, capsys):
    """The quick form of `make soak-journal`."""
    code = soak.run(tmp_path, 8, each_kill=2, each_deploy=3)
    assert code == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    ("late", "problem"),
    [(0, None), (1_000_000, None), (2_100_000, "file grew from 5 to 2,100,005")],
)
def test_what_grows(late, problem):
    samples = [soak.Sample(5 + late * (it > 5), 5, 5, 5) for it in range(8)]
    assert soak.growth(samples) == ([] if problem is None else [problem])


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


@pytest.mark.parametrize(
    ("place", "moments", "problem"),
    [
        (1, [(0.1, 0.2)], None),
        (record.BRANCHES[0], [(0.1, 0.2)], None),
        # Killed in the middle, or before its end was stored.
        (1, [(0.1, None), (0.5, 0.6)], None),
        (1, [(0.1, 0.2), (0.5, 0.6)], None),
        (1, [(0.1, 1.5)], "has started before that had ended"),
        (1, [(0.1, None)], "has started before that had ended"),
        (record.BRANCHES[1], [(1.1, 1.5)], "has started before that had ended"),
        (1, [(0.1, 0.2), (1.5, 1.6)], "was started again after the next one had been"),
    ],
)
def test_the_judge_of_chains(place, moments, problem):
    events = list(RUN)
    for number, (start, end) in enumerate(moments):
        step = RUN[0]._replace(number=place * record.STEP + 1, pid=20 + number)
        events.append(step._replace(at=start))
        if end is not None:
            events.append(step._replace(event="end", at=end))
    killed = {20: moments[-1][0]} if len(moments) > 1 else {}
    verdict = judge(told(killed=killed), sorted(events, key=lambda it: it.at), DONE)
    assert verdict.figures["chains"] == 1
    if problem is None:
        assert verdict.problems == []
    else:
        assert any(problem in it for it in verdict.problems), verdict.problems


def of_values(*events: str, pid: int = 10, at: float = 1.0) -> list[Event]:
    return [Event(it, 1, pid, 1, at + number / 100) for number, it in enumerate(events)]


NEXT = 11


def run_of_flawed(at: float, end: str, pid: int) -> list[Event]:
    names = [("start", at), ("of=flawed", at), (end, at + 0.5)]
    return [Event(name, record.STEP + 1, pid, 1, when) for name, when in names]


@pytest.mark.parametrize(
    ("first", "second", "died", "problem"),
    [
        # What was told just before the death may be lost, or stored and not noted.
        (["kept=1", "kept=2"], ["from=0"], 1.02, None),
        (["kept=1", "kept=2"], ["from=3"], 1.02, None),
        (["kept=1", "kept=2"], ["from=4"], 1.02, "went on at 4 in 11, which it had not kept"),
        # Not so what was told long before, before a step, or before the attempt ended in order.
        (["kept=1", "kept=2"], ["from=1"], 9.0, "went on at 1 in 11, and had kept 2"),
        (["kept=1", "stepped=a", "kept=2"], ["from=1"], 1.04, None),
        (["kept=1", "stepped=a", "kept=2"], ["from=0"], 1.04, "and had kept 1"),
        (["kept=1", "kept=2", "again"], ["from=1"], None, "and had kept 2"),
        (["kept=1", "kept=2", "again"], ["from=1"], 1.03, None),
        # What an attempt began with was kept, whether that was noted or not.
        (["from=0", "kept=1"], ["from=2", "from=3"], 1.02, None),
        (["from=0", "kept=1"], ["from=1", "kept=2", "from=0"], 1.02, "and had kept 1"),
        # A step that has not returned may come to its end again.
        (["did=a"], ["from=0", "did=a", "stepped=a"], 1.02, None),
        (["did=a", "stepped=a"], ["from=0", "did=a"], 1.04, "has done the step a again, in 11"),
        (["did=a", "stepped=a"], ["from=0", "did=b"], 1.04, None),
    ],
)
def test_the_judge_of_what_is_kept(first, second, died, problem):
    events = [
        RUN[0]._replace(at=0.5),
        *of_values(*first),
        AGAIN[0]._replace(at=10.0),
        *of_values(*second, pid=NEXT, at=10.1),
        AGAIN[1]._replace(at=11.0),
    ]
    outside = {} if died is None else {"killed": {10: died}}
    problems = judge(told(**outside), events, DONE).problems
    if problem is None:
        assert problems == []
    else:
        assert len(problems) == 1
        assert problem in problems[0]


FLAWED = [
    *run_of_flawed(1.0, "fail", 10),
    *run_of_flawed(3.0, "fail", NEXT),
    *run_of_flawed(5.0, "end", NEXT),
]
TIDIED = [RUN[0]._replace(number=record.TIDY * record.STEP + 1, at=1.7)]
TIDIED += [TIDIED[0]._replace(event="end", at=1.8)]


@pytest.mark.parametrize(
    ("asked", "granted", "killed", "tidied", "problem"),
    [
        ([2.0, 4.0], [2.0, 4.0], {}, TIDIED, None),
        # Without an answer, or killed before the end was stored.
        ([2.0, 4.0], [], {}, TIDIED, None),
        ([4.0], [4.0], {10: 1.6}, TIDIED, None),
        ([2.0, 4.0], [], {NEXT: 5.6}, TIDIED, None),
        ([4.0], [4.0], {}, TIDIED, "and was started again in 11, unasked"),
        ([2.0], [2.0], {10: 1.6}, TIDIED, "and was started again in 11, unasked"),
        ([2.0, 4.0, 6.0], [6.0], {}, TIDIED, "was to run again, and did not"),
        ([2.0, 4.0], [], {}, [], "nothing was tidied up"),
        ([2.0, 4.0], [], {}, [it._replace(at=it.at - 1) for it in TIDIED], "before its end"),
    ],
)
def test_the_judge_of_retries(asked, granted, killed, tidied, problem):
    first = record.STEP + 1
    acts = hands.Acts()
    acts.asked[first] += asked
    acts.granted[first] += granted
    events = sorted([*FLAWED, *tidied], key=lambda it: it.at)
    problems = hands.judge(acts, told(killed=killed), events)
    if problem is None:
        assert problems == []
    else:
        assert len(problems) == 1
        assert problem in problems[0]


def run_of(kind: str, number: int, begin: float, over: float, pid: int = 10) -> list[Event]:
    return [
        Event("start", number, pid, 1, begin),
        Event(f"of={kind}", number, pid, 1, begin),
        Event("end", number, pid, 1, over),
    ]


@pytest.mark.parametrize(
    ("spans", "problem"),
    [
        ([(1.0, 2.0), (1.5, 2.5), (2.0, 3.0)], None),
        ([(1.0, 2.0), (1.5, 2.5), (1.9, 3.0)], "3 tasks with the limit 2 ran at once, at 1.9"),
    ],
)
def test_the_judge_of_a_limit(spans, problem):
    events = [it for n, span in enumerate(spans, 1) for it in run_of("limited", n, *span)]
    problems = judge(Told(), sorted(events, key=lambda it: it.at), None).problems
    assert problems == ([] if problem is None else [f"{problem}00"])


def test_a_run_of_a_killed_process_is_over_at_its_death():
    events = [*run_of("limited", 1, 1.0, 9.0), *run_of("limited", 2, 1.1, 9.0)]
    events = [it for it in events if it.event != "end"]
    events += [*run_of("limited", 1, 4.0, 5.0, NEXT), *run_of("limited", 2, 4.5, 5.0, NEXT)]
    events.sort(key=lambda it: it.at)
    assert judge(Told(killed={10: 3.9}), events, None).problems == []
    assert any("ran at once" in it for it in judge(Told(killed={10: 4.1}), events, None).problems)


@pytest.mark.parametrize(("gap", "is_fast"), [(50_000, False), (49_999, True)])
def test_the_judge_of_a_rate(gap, is_fast):
    events = [it for n in range(21) for it in run_of("rated", n, n, n + 0.5)]
    rows = {f"{n}": Row(f"{n}", "finished", 1, 0, f"{n}", n * gap) for n in range(21)}
    problems = judge(Told(accepted={n: f"{n}" for n in range(21)}), events, rows).problems
    fast = ["21 tasks with the rate 20/s started in 999980 µs"]
    assert problems == (fast if is_fast else [])


STEP = ticks.PERIOD


def of_ticks(*numbers: int) -> list[ticks.Taken]:
    return [ticks.Taken(it * STEP, it * STEP + 5) for it in numbers]


def life(since: float, until: float) -> ticks.Life:
    return ticks.Life(int(since * STEP), int(until * STEP))


# One process until after the fifth tick, and another one after the eighth.
TWO = [life(0.5, 5.5), life(8.5, 1_000)]


@pytest.mark.parametrize(
    ("seen", "problem"),
    [
        (ticks.Seen([life(0.5, 1_000)], taken=of_ticks(1, 2, 3, 4)), None),
        (ticks.Seen([life(0.5, 1_000)], taken=of_ticks(1, 2, 4)), f"tick {3 * STEP} is lost"),
        (ticks.Seen([life(0.5, 1_000)], taken=of_ticks(1, 2, 2)), f"tick {2 * STEP} has two tasks"),
        # Not by a process that got no time, came too late, or died.
        (
            ticks.Seen([life(0.5, 1_000)], [(3 * STEP, 4 * STEP)], of_ticks(1, 2, 4)),
            None,
        ),
        (ticks.Seen([life(0.5, 3.1), life(3.2, 1_000)], taken=of_ticks(1, 2, 4)), None),
        (ticks.Seen(TWO, taken=of_ticks(1, 2, 3, 4, 5, 8, 9)), None),
        (ticks.Seen(TWO, taken=of_ticks(1, 2, 3, 4, 5, 7, 8, 9)), "2 ticks were made up for"),
        (ticks.Seen(TWO, taken=of_ticks(1, 2, 3, 4, 5, 7, 9)), "which was not the newest"),
        (
            ticks.Seen(TWO, taken=of_ticks(1, 2, 3, 4, 5, 17)),
            f"tick {8 * STEP} was not made up for",
        ),
        (ticks.Seen([life(0.5, 9)], taken=[ticks.Taken(5, 6)]), "5 is no tick"),
        (ticks.Seen([life(0.5, 9)], taken=[ticks.Taken(STEP, 6)]), "taken before it came"),
        (ticks.Seen([life(0.5, 9)], taken=[ticks.Taken(STEP, STEP, 0)]), "has not finished: 0"),
        (
            ticks.Seen(
                [life(0.5, 1_000)],
                taken=of_ticks(1),
                runs=[ticks.Ran("a", 1, 5), ticks.Ran("a", 3, 7), ticks.Ran("b", 6, 9)],
            ),
            "run b began",
        ),
    ],
)
def test_the_judge_of_ticks(seen, problem):
    problems = ticks.judge(seen).problems
    if problem is None:
        assert problems == []
    else:
        assert any(problem in it for it in problems), problems
