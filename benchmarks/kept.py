"""Kept figures for comparison: a regression is more than `LIMIT` times the kept figure.

They depend on the interpreter's build, so instructions.toml has one for each.
"""

import platform
import tomllib
from collections.abc import Mapping
from pathlib import Path

FILE = Path(__file__).with_name("instructions.toml")
LIMIT = 1.10
_HEAD = """\
# Instructions per task (submit, run, done callback), by interpreter.
# Kept by `make instructions UPDATE=1`, compared by `make instructions`.
"""


def interpreter() -> str:
    """The name of the interpreter, on whose build the figure depends."""
    build = f"{platform.python_compiler()}, {platform.machine()}"
    return f"{platform.python_implementation()} {platform.python_version()}, {build}"


def load(path: Path = FILE) -> dict[str, float]:
    """The kept figures, by interpreter."""
    return {name: float(figure) for name, figure in tomllib.loads(path.read_text()).items()}


def save(figures: Mapping[str, float], path: Path = FILE) -> None:
    """Keep the figures."""
    lines = [f'"{name}" = {figure:.0f}\n' for name, figure in sorted(figures.items())]
    path.write_text(_HEAD + "".join(lines))


def judge(figure: float, kept: float | None, name: str) -> tuple[str, bool]:
    """The line to print, and whether it is a failure."""
    said = f"{figure:,.0f} instructions per task"
    if kept is None:
        advice = f"no figure is kept for {name}; make instructions UPDATE=1 keeps this one"
        return f"NOT COMPARED: {said}; {advice}", False
    change = f"{figure / kept - 1:+.1%} of the {kept:,.0f} kept"
    if figure > kept * LIMIT:
        return f"FAILED: {said}, {change}; at most {LIMIT - 1:+.0%} is allowed", True
    return f"passed: {said}, {change}", False
