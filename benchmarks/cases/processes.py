"""Pools of worker processes: starts, calls, and behaviour when processes end."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks.model import Peer, Values


def pool(peer: Peer, _size: int) -> Values:
    """Each part in its own interpreter, since most parts end it or one of its processes."""
    found, _ = _run("calls", peer.name)
    late, _ = _run("late", peer.name)
    forked, complaints = _run("forked", peer.name)
    noisy = re.search(r"^\w+Error", complaints, re.MULTILINE) is not None
    return {**found, **late, "outlives": _outlives(peer.name), **forked, "noisy": noisy}


def _outlives(pool: str) -> bool:
    pid = _run("orphan", pool)[0]["pid"]
    time.sleep(3)
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _run(function: str, pool: str) -> tuple[dict[str, Any], str]:
    """The first finding of the function, and its output to stderr."""
    code = f"from benchmarks.spawned import run; run({function!r}, {pool!r})"
    # Files: processes that are left behind would keep pipes open.
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        subprocess.run([sys.executable, "-c", code], stdout=out, stderr=err, check=False)
        out.seek(0)
        err.seek(0)
        said = err.read()
        found = out.readline()
    if not found:
        raise RuntimeError(f"{function} of {pool} found nothing:\n{said[-2000:]}")
    return json.loads(found), said
