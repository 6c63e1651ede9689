"""The benchmarks: their arithmetic, their table, and that they run at all."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks import kept, machine, report
from benchmarks.cases import percentile
from benchmarks.cases.instructions import LOOP
from benchmarks.cases.servers import parse
from benchmarks.model import (
    Case,
    Metric,
    Noise,
    Results,
    Run,
    at_least,
    at_most,
    better,
    share,
)
from benchmarks.peers import PEERS
from benchmarks.run import plan
from benchmarks.table import CASES

ROOT = Path(__file__).parents[2]

TIME = Metric("p50", "p50", "s", "less")
RATE = Metric("rate", "tasks/s", "tasks/s", "more")


def a_case(*targets, peers=("ours", "tpe"), rounds=100):
    return Case("one", "the case", lambda *_: {}, 1, peers, (TIME, RATE), targets, rounds=rounds)


def runs(**values):
    """Of the metric p50: ours=[each round], tpe=[each round]."""
    return [
        Run("one", peer, number, {"p50": value})
        for peer, rounds in values.items()
        for number, value in enumerate(rounds)
    ]


def test_median_and_spread_over_rounds():
    found = report.figures(runs(ours=[3.0, 1.0, 2.0], tpe=[4.0, 5.0]), "one")
    assert found["ours"]["p50"] == report.Figure(2.0, 1.0)
    assert found["tpe"]["p50"] == report.Figure(4.5, 1 / 4.5)
    assert report.figures(runs(ours=[1.0]), "another") == {}
    assert report.summary([0.0]) == report.Figure(0.0, 0.0)


def test_percentile():
    samples = list(range(100, 0, -1))
    assert percentile(samples, 0.5) == 51
    assert percentile(samples, 0.99) == 100
    assert percentile([7], 0.99) == 7


def test_times_better_in_both_directions():
    assert report.times_better(TIME, 2.0, 8.0) == 4
    assert report.times_better(RATE, 8.0, 2.0) == 4
    assert report.times_better(TIME, 0.0, 1.0) == math.inf


@pytest.mark.parametrize(
    ("target", "measured", "word"),
    [
        (better(4, "p50", than="tpe"), 4, "met"),
        (better(4.1, "p50", than="tpe"), 4, "**MISSED**"),
        (share(0.25, "p50", of="tpe"), 0.25, "met"),
        (share(0.2, "p50", of="tpe"), 0.25, "**MISSED**"),
        (at_most(2, "p50"), 2, "met"),
        (at_most(1.9, "p50"), 2, "**MISSED**"),
        (at_least(2, "p50"), 2, "met"),
        (at_least(2.1, "p50"), 2, "**MISSED**"),
        (better(4, "p50", than="hypertile"), None, "not run"),
        (at_least(1, "rate"), None, "not run"),
    ],
)
def test_targets(target, measured, word):
    found = report.figures(runs(ours=[2.0], tpe=[8.0]), "one")
    verdict = report.judge(a_case(target), target, found)
    assert (verdict.measured, verdict.word) == (measured, word)


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        (TIME, 2.31e-7, "0.231 µs"),
        (TIME, 1.23456e-5, "12.3 µs"),
        (TIME, 0.0515, "51.5 ms"),
        (TIME, 2.0, "2.00 s"),
        (TIME, 0.0, "0 µs"),
        (RATE, 1234567.8, "1,234,568"),
        (RATE, 12.34, "12.3"),
        (Metric("b", "b", "B", "less"), 1965.4, "1,965 B"),
        (Metric("x", "x", "x", "more"), 0.701, "0.70x"),
    ],
)
def test_quantities(metric, value, text):
    assert report.quantity(metric, value) == text


def test_page_names_misses_noise_failures_and_what_was_not_run():
    results = Results(
        {"Python": "3.x"},
        [
            Run("one", "ours", 0, {"p50": 2e-6, "rate": 10.0}, Noise(0.0, 0.0)),
            Run("one", "tpe", 0, {"p50": 8e-6, "rate": 5.0}, Noise(0.3, 0.02)),
            Run("one", "tpe", 1, {}, None, "Traceback\nValueError: no"),
        ],
        {"hypertile": "is not installed"},
    )
    case = a_case(better(5, "p50", than="tpe"), better(2, "rate", than="tpe"))
    lines = report.page([case], results).splitlines()
    start = "| the case | {} | at least {}x better than ThreadPoolExecutor | {} |"
    assert start.format("p50", 5, "4.00x | 2.00 µs | 8.00 µs | **MISSED**") in lines
    assert start.format("tasks/s", 2, "2.00x | 10.0 | 5.00 | met") in lines
    assert "| ThreadPoolExecutor | 8.00 µs | 4.00x | 5.00 | 2.00x |" in lines
    assert "| one | ThreadPoolExecutor | 1 | 30% | 2% |" in lines
    assert "- one, ThreadPoolExecutor, round 2: `ValueError: no`" in lines
    assert "- hypertile: is not installed" in lines


def test_rounds_alternate():
    cases = [a_case(), a_case(peers=("ours", "hypertile"), rounds=1)]
    peers = [name for name in PEERS if name != "before"]
    order = [(number, case.peers[1], peer) for number, case, peer in plan(cases, peers, 2)]
    assert order == [
        (0, "tpe", "ours"),
        (0, "tpe", "tpe"),
        (0, "hypertile", "ours"),
        (0, "hypertile", "hypertile"),
        (1, "tpe", "tpe"),
        (1, "tpe", "ours"),
    ]


def test_an_earlier_package_is_measured_beside_ours():
    cases = [a_case(), a_case(peers=("tpe",))]
    order = [(case.peers, peer) for _, case, peer in plan(cases, ["ours", "before"], 1)]
    assert order == [(("ours", "tpe"), "ours"), (("ours", "tpe"), "before")]


def test_noise_is_known():
    assert machine.is_noisy(Noise(0.06, 0.0))
    assert machine.is_noisy(Noise(0.0, 0.02))
    assert not machine.is_noisy(Noise(0.04, 0.005))
    assert not machine.is_noisy(None)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_table(case):
    metrics = {metric.name for metric in case.metrics}
    assert set(case.everyone) <= set(PEERS)
    assert set(case.sizes) <= set(case.peers)
    for target in case.targets:
        assert target.metric in metrics
        assert target.peer is None or target.peer in case.peers


WRK = """\
Running 3s test @ http://127.0.0.1:1/
  Latency Distribution
     50%   11.54ms
     99%   29.43ms
  4004 requests in 3.00s, 617.64KB read
Requests/sec:   1333.51
"""


def test_what_wrk_prints():
    assert parse(WRK) == {
        "rate": 1333.51,
        "p50": pytest.approx(0.01154),
        "p99": pytest.approx(0.02943),
    }
    with pytest.raises(ValueError, match="Non-2xx or 3xx responses: 9"):
        parse(WRK + "  Non-2xx or 3xx responses: 9\n")
    with pytest.raises(ValueError, match="no rate"):
        parse("unable to connect")


@pytest.mark.parametrize(
    ("figure", "known", "failed", "says"),
    [
        (1099.0, 1000.0, False, "passed: 1,099 instructions per task, +9.9% of the 1,000 kept"),
        (1101.0, 1000.0, True, "FAILED: 1,101 instructions per task, +10.1% of the 1,000 kept"),
        (900.0, 1000.0, False, "passed: 900 instructions per task, -10.0% of the 1,000 kept"),
        (900.0, None, False, "NOT COMPARED: 900 instructions per task; no figure is kept for X"),
    ],
)
def test_instructions_are_judged(figure, known, failed, says):
    said, result = kept.judge(figure, known, "X")
    assert said.startswith(says)
    assert result is failed


def test_instructions_are_kept(tmp_path):
    file = tmp_path / "instructions.toml"
    kept.save({"CPython 3.x, GCC": 1000.4, "A": 7}, file)
    assert kept.load(file) == {"A": 7, "CPython 3.x, GCC": 1000}
    assert all(figure > 0 for figure in kept.load().values())


def test_fixed_loop_runs():
    subprocess.run([sys.executable, LOOP, "50"], check=True, timeout=30)


@pytest.mark.skipif(sys.platform == "win32", reason="the suite needs POSIX")
def test_a_part_of_the_suite_runs(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "--raw", str(tmp_path / "raw.json")]
    part = ["--cases", "submit-busy", "--peers", "ours", "tpe", "--rounds", "1"]
    done = subprocess.run(
        [*command, *part, "--scale", "0.001"], cwd=ROOT, capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0, done.stderr
    assert "## Failed" not in done.stdout
    assert "at least 25x better than ThreadPoolExecutor |  |" not in done.stdout
    again = subprocess.run(
        [*command, "--cases", "submit-busy", "--again"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert again.stdout == done.stdout
