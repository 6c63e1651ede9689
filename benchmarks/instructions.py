"""Count the instructions that a task costs: `make instructions`.

valgrind counts all that `loop.py` executes with few tasks and with many; the difference
belongs to the tasks alone. The figure depends on the interpreter's build, so one is kept for
each in instructions.toml. Time and other processes have no part in it.
"""

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

FEW, MANY = 2_000, 22_000
LIMIT = 1.10
"""More than so many times the kept figure is a regression."""

KEPT = Path(__file__).with_name("instructions.toml")
_LOOP = Path(__file__).with_name("loop.py")
_HEAD = """\
# Instructions per task (submit, run, done callback), by interpreter.
# Kept by `make instructions UPDATE=1`, compared by `make instructions`.
"""


def interpreter() -> str:
    """What the figure depends on, besides ours."""
    build = f"{platform.python_compiler()}, {platform.machine()}"
    return f"{platform.python_implementation()} {platform.python_version()}, {build}"


def count(tasks: int) -> int:
    """All instructions of one process that runs so many tasks."""
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    done = subprocess.run(
        [*command, sys.executable, str(_LOOP), str(tasks)],
        check=False,
        capture_output=True,
        text=True,
        # Nothing of the caller's surroundings, and the same dictionaries each time.
        env={"PATH": os.environ.get("PATH", ""), "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"},
    )
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or not found:
        raise RuntimeError(f"valgrind or the loop failed:\n{done.stderr[-2000:]}")
    return int(found[1])


def per_task() -> float:
    """Instructions per task."""
    return (count(MANY) - count(FEW)) / (MANY - FEW)


def load(path: Path) -> dict[str, float]:
    """The kept figures, by interpreter."""
    return {name: float(figure) for name, figure in tomllib.loads(path.read_text()).items()}


def save(path: Path, figures: Mapping[str, float]) -> None:
    """Keep the figures."""
    lines = [f'"{name}" = {figure:.0f}\n' for name, figure in sorted(figures.items())]
    path.write_text(_HEAD + "".join(lines))


def judge(figure: float, kept: float | None, name: str) -> tuple[str, bool]:
    """What to print, and whether that is a failure."""
    said = f"{figure:,.0f} instructions per task"
    if kept is None:
        advice = f"no figure is kept for {name}; make instructions UPDATE=1 keeps this one"
        return f"NOT COMPARED: {said}; {advice}", False
    change = f"{figure / kept - 1:+.1%} of the {kept:,.0f} kept"
    if figure > kept * LIMIT:
        return f"FAILED: {said}, {change}; at most {LIMIT - 1:+.0%} is allowed", True
    return f"passed: {said}, {change}", False


def main(given: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser("python -m benchmarks.instructions")
    parser.add_argument("--update", action="store_true", help="keep the figure")
    options = parser.parse_args(given)
    if shutil.which("valgrind") is None:
        print("valgrind is not installed; on Debian: apt-get install valgrind", file=sys.stderr)
        return 2
    kept, name, figure = load(KEPT), interpreter(), per_task()
    if options.update:
        save(KEPT, kept | {name: figure})
        print(f"kept: {figure:,.0f} instructions per task for {name}")
        return 0
    said, failed = judge(figure, kept.get(name), name)
    print(f"instructions: {said}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
