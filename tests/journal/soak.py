"""A server with durable tasks for a long time: counts must add up, file and memory stay flat.

`python -m tests.journal.soak SECONDS`, or `make soak-journal`. Tasks are submitted all the time, a
worker is killed every 20 s, and all are replaced every two minutes. Exit code 1 if a promise is
broken (see `record.judge`) or something grows after the first quarter.
"""

import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tests.journal.fleet import Fleet, Server, sailing
from tests.journal.record import integrity, judge, read_record, report

SETTINGS = {
    "JOURNAL_DEATHS": 1_000_000,
    "JOURNAL_KEEP": 20,
    "JOURNAL_LIMIT": 2_000,
    "MAX_WORKERS": 8,
}


class Sample(NamedTuple):
    """What could grow."""

    file: int
    """Bytes of the file and its log."""
    memory: int
    """Bytes of the biggest worker."""
    descriptors: int
    """Of the worker that has most."""
    names: int
    """Files beside the journal."""


MARGINS = Sample(file=2_000_000, memory=16_000_000, descriptors=4, names=8)


def take_sample(fleet: Fleet, server: Server) -> Sample:
    folder = fleet.journal.parent
    workers = [Path(f"/proc/{pid}") for pid in server.workers()]
    pages = [int((it / "statm").read_text().split()[1]) for it in workers if it.exists()]
    return Sample(
        file=sum(it.stat().st_size for it in folder.glob("journal.db*")),
        memory=max(pages, default=0) * os.sysconf("SC_PAGESIZE"),
        descriptors=max((len(list((it / "fd").iterdir())) for it in workers), default=0),
        names=sum(1 for _ in folder.rglob("*")),
    )


def growth(samples: list[Sample]) -> list[str]:
    """What is bigger at the end than after the first quarter."""
    quarter = max(1, len(samples) // 4)
    early, late = samples[:quarter], samples[-quarter:]
    found = []
    for name, margin in zip(Sample._fields, MARGINS, strict=True):
        before = max(getattr(it, name) for it in early)
        after = max(getattr(it, name) for it in late)
        if after > before + margin:
            found.append(f"{name} grew from {before:,} to {after:,}")
    return found


def run(
    folder: Path, seconds: float, *, each_kill: float = 20.0, each_deploy: float = 120.0
) -> int:
    """See the module; the exit code."""
    chance = random.Random(17)
    samples: list[Sample] = []
    with sailing(folder, **SETTINGS) as fleet:
        server = fleet.start("--preload", workers=4)
        began = time.monotonic()
        kill, deploy = began + each_kill, began + each_deploy
        with fleet.clients(4, pause=0.01):
            while (now := time.monotonic()) < began + seconds:
                time.sleep(min(5.0, seconds / 20))
                samples.append(take_sample(fleet, server))
                if now > kill:
                    fleet.slay([chance.choice(server.workers())], alone=True)
                    kill = now + each_kill
                if now > deploy:
                    new = fleet.start("--preload", workers=4)
                    server.end()
                    server, deploy = new, now + each_deploy
                counts = f"{len(fleet.told.accepted)} accepted, {len(fleet.told.killed)} killed"
                print(f"{now - began:6.0f} s  {counts}  {samples[-1]}", flush=True)
        is_idle = fleet.wait_until_idle()
        # What ended long ago is not in the file any more, and was asked for all the same.
        fleet.told.unknown.clear()
        verdict = judge(fleet.told, read_record(fleet.record), None)
        server.end()
        problems = [*verdict.problems, *growth(samples)]
        if not is_idle:
            problems.append("some tasks did not end")
        if (told := integrity(fleet.journal)) != "ok":
            problems.append(f"the file: {told}")
    verdict.problems[:] = problems
    print(report(verdict))
    return 1 if problems else 0


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="soak-") as scratch:
        sys.exit(run(Path(scratch), float(sys.argv[1]) if len(sys.argv) > 1 else 3600.0))
