"""What `make soak-policies` does with a million tasks, with some thousands."""

from pathlib import Path

SOAK = Path(__file__).parents[1] / "soak_policies.py"


def test_tasks_with_every_policy_add_up(run_script):
    done = run_script(SOAK.read_text(), "20000", timeout=50.0)
    assert (done.rc, done.err) == (0, ""), done.out
    assert done.out.startswith("20000 tasks in")
    assert "nothing lost, nothing twice" in done.out
