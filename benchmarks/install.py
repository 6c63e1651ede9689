"""Install the peers that can be installed; note the others with the reason.

`python -m benchmarks.install [OPTION...]`; the options are pip's.
"""

import json
import subprocess
import sys

from benchmarks.peers import PEERS
from benchmarks.run import REASONS

BASE = ("Flask", "gunicorn", "matplotlib")
"""What the suite itself needs."""


def _pip(*packages: str) -> str | None:
    """Install; return the error's last line, if there is one."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    done = subprocess.run(
        [*command, *sys.argv[1:], *packages],
        check=False,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode == 0:
        return None
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    return (errors or done.stderr.splitlines() or ["pip failed"])[-1]


def main() -> None:
    """Install all at once or, if that fails, one by one."""
    peers = sorted({name for peer in PEERS.values() for name in peer.packages} - {"flask-delay"})
    reasons = {}
    if _pip(*BASE, *peers):
        for package in (*BASE, *peers):
            if reason := _pip(package):
                reasons[package] = f"pip install {package}: {reason}"
                sys.stderr.write(f"{reasons[package]}\n")
    REASONS.write_text(json.dumps(reasons))


if __name__ == "__main__":
    main()
