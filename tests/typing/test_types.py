"""What type checkers make of our types: the lines marked `# E:` are errors, no others are.

A marked line names the error code of each checker: `# E: arg-type, reportArgumentType`.
"""

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

CASES = Path(__file__).parent / "cases"
MARK = re.compile(r"# E: ([\w-]+), (\w+)$")

Errors = dict[tuple[str, int], set[str]]


def expected(code: int) -> Errors:
    """The marked lines: file and number, with the code of the first or the second checker."""
    return {
        (path.name, number): {match[code]}
        for path in CASES.glob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if (match := MARK.search(line))
    }


def run(*command: str, cwd: Path) -> str:
    process = subprocess.run(
        [sys.executable, "-m", *command], cwd=cwd, capture_output=True, text=True, timeout=300
    )
    assert process.returncode in {0, 1}, process.stderr or process.stdout
    return process.stdout


def mypy(cwd: Path) -> Errors:
    # Nothing of this project's settings: a user has others.
    (cwd / "mypy.ini").write_text("[mypy]\n")
    found: Errors = {}
    for line in run("mypy", "--strict", "--output=json", str(CASES), cwd=cwd).splitlines():
        error = json.loads(line)
        if error["severity"] == "error":
            place = (Path(error["file"]).name, error["line"])
            found.setdefault(place, set()).add(error["code"])
    return found


def pyright(cwd: Path) -> Errors:
    """Pyright's fork, whose package has all that it needs; in pyright's own strict mode."""
    settings = {
        "include": [str(CASES)],
        "typeCheckingMode": "strict",
        # Said of what the cases do on purpose.
        "reportUnusedExpression": False,
        "reportUnusedCallResult": False,
    }
    (cwd / "pyrightconfig.json").write_text(json.dumps(settings))
    command = ("basedpyright", "--outputjson", "--pythonpath", sys.executable)
    found: Errors = {}
    for error in json.loads(run(*command, cwd=cwd))["generalDiagnostics"]:
        if error["severity"] == "error":
            place = (Path(error["file"]).name, error["range"]["start"]["line"] + 1)
            found.setdefault(place, set()).add(error.get("rule", ""))
    return found


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("checker", "module", "code"), [(mypy, "mypy", 1), (pyright, "basedpyright", 2)]
)
def test_checker_finds_the_marked_errors_and_no_others(
    checker: Callable[[Path], Errors], module: str, code: int, tmp_path: Path
) -> None:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    marked, found = expected(code), checker(tmp_path)
    assert found.keys() == marked.keys()
    for place, codes in marked.items():
        # What is wrong may be wrong in more than one way.
        assert codes <= found[place], place


def test_cases_are_marked() -> None:
    assert len(expected(1)) > 20


def test_package_says_that_it_is_typed() -> None:
    import flask_delay

    assert (Path(flask_delay.__file__).parent / "py.typed").exists()
