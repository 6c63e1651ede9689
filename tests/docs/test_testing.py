"""The example of docs/testing.md is run, as a reader would: with pytest, in a folder of its own."""

import re
from pathlib import Path

pytest_plugins = ["pytester"]

PAGE = (Path(__file__).parents[2] / "docs/testing.md").read_text()


def test_the_example_passes_under_the_leak_check(pytester):
    files = re.findall(r"```\w+\n# (\S+)\n(.*?)```", PAGE, re.DOTALL)
    tests = ["test_shop.py", "test_receipts.py"]
    assert [name for name, _ in files] == ["shop.py", *tests, "pyproject.toml"]
    for name, text in files:
        (pytester.path / name).write_text(text)
    result = pytester.runpytest_subprocess("-W", "error", "-p", "no:dash", timeout=50)
    result.assert_outcomes(passed=4)
    assert result.ret == 0
