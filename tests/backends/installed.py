"""Backends of third parties, installed where a test's own processes find them."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path


class Site:
    """A folder with distributions, and with what processes run that find them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def install(self, module: str, code: str | None, entry_points: str) -> None:
        """Install the distribution of a module, with entry points as in a pyproject.toml."""
        if code is not None:
            self.write(f"{module}.py", code)
        groups = tomllib.loads(entry_points)["project"]["entry-points"]
        lines = [
            line
            for group, points in groups.items()
            for line in (f"[{group}]", *(f"{name} = {value}" for name, value in points.items()))
        ]
        self.write(f"{module}-1.0.dist-info/METADATA", f"Name: {module}\nVersion: 1.0\n")
        self.write(f"{module}-1.0.dist-info/entry_points.txt", "\n".join(lines))

    def write(self, name: str, text: str) -> None:
        path = self._folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    def run(self, *arguments: str, flags: tuple[str, ...] = ("-W", "error")) -> str:
        """What `python ARGUMENTS` writes there."""
        done = subprocess.run(
            [sys.executable, *flags, *arguments],
            cwd=self._folder,
            env={**os.environ, "PYTHONPATH": str(self._folder)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout
