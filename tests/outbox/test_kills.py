"""Random kills between commits and the journal, the quick form of `make kills-outbox`."""

import pytest
from tests.outbox import kills


def test_random_kills(tmp_path, capsys):
    verdict = kills.run(tmp_path, f"sqlite:///{tmp_path / 'shop.db'}", 40, seed=5)
    with capsys.disabled():
        print(f"\n{verdict}")
    assert verdict.problems == []


@pytest.mark.parametrize(
    ("tasks", "marks", "problem"),
    [
        ([(1, 6)], ["1"], None),
        ([(1, 6)], ["1", "1"], None),
        ([], [], "order 1 has 0 tasks"),
        ([(1, 6), (1, 6)], ["1"], "order 1 has 2 tasks"),
        ([(1, 6), (2, 6)], ["1", "2"], "task 2 has no order"),
        ([(1, 0)], ["1"], "task 1 is in state 0"),
        ([(1, 6)], [], "order 1 was not marked"),
    ],
)
def test_the_judge(tasks, marks, problem):
    problems = kills.judge([1], tasks, marks).problems
    assert (problem in problems) if problem else not problems
