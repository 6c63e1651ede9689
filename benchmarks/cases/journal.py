"""Durable tasks, beside queues that keep tasks in SQLite too."""

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks import SCRATCH, SYNC
from benchmarks.cases import WORKERS, now, percentile, servers, warm_up
from benchmarks.model import Peer, Pool, Values
from benchmarks.peers.queues import QueuePeer
from benchmarks.work import keep, mark, nap, nop

LEVELS = ("second", "commit", "never")
_WARM = 50


class _Mark(NamedTuple):
    """The start of a task, as `work.mark` notes it."""

    number: int
    pid: int
    at: float


@contextlib.contextmanager
def _opened(peer: Peer, level: str = "second") -> Iterator[Pool]:
    """The peer with a file of its own."""
    os.environ[SYNC] = level
    with (
        tempfile.TemporaryDirectory(dir=Path.cwd() / "target") as scratch,
        peer.services(Path(scratch)),
        peer.open(WORKERS) as pool,
    ):
        warm_up(pool, _WARM)
        yield pool


def _is_ours(peer: Peer) -> bool:
    return peer.name.startswith("ours")


def _submits(pool: Pool, size: int) -> list[float]:
    """The seconds of each submit, one at a time."""
    samples = []
    for _ in range(size):
        start = now()
        handle = pool.submit(nop)
        samples.append(now() - start)
        pool.wait(handle)
    return samples


def _trips(pool: Pool, size: int) -> list[float]:
    samples = []
    for _ in range(size):
        start = now()
        pool.wait(pool.submit(nop))
        samples.append(now() - start)
    return samples


def fdatasync(_peer: Peer, size: int) -> Values:
    """4 kB over an existing file, and its fdatasync."""
    samples = []
    with tempfile.NamedTemporaryFile(dir=Path.cwd() / "target") as file:
        page = os.urandom(4096)
        os.pwrite(file.fileno(), page * 256, 0)
        os.fsync(file.fileno())
        for number in range(size):
            start = now()
            os.pwrite(file.fileno(), page, number % 256 * 4096)
            os.fdatasync(file.fileno())
            samples.append(now() - start)
    return {"commit": statistics.median(samples)}


def tasks(peer: Peer, size: int) -> Values:
    """Submits, results one at a time, and all of a batch; ours at each level."""
    if peer.name == "nothing":
        return fdatasync(peer, size)
    found: Values = {}
    for level in LEVELS if _is_ours(peer) else LEVELS[:1]:
        with _opened(peer, level) as pool:
            found[level] = percentile(_submits(pool, size), 0.5)
            if level == "second":
                found["trip"] = percentile(_trips(pool, size), 0.5)
                start = now()
                pool.drain(nop, size)
                found["rate"] = size / (now() - start)
    # The others have one level, which is weaker than ours.
    return {"commit": found["second"], **found}


def kept(peer: Peer, size: int) -> Values:
    """Checkpoints and steps of one task."""
    with _opened(peer) as pool:
        checkpoints, steps = pool.submit(keep, size).result(60)
    return {"checkpoint": percentile(checkpoints, 0.5), "step": percentile(steps, 0.5)}


def places(peer: Peer, size: int) -> Values:
    """A plain no-op with a limit that it does not meet: of its process, and of the machine."""
    found: Values = {}
    with _opened(peer) as pool:
        for scope in ("process", "machine"):
            start = pool.limited(scope)  # type: ignore[attr-defined]
            submits, trips = [], []
            for _ in range(size):
                begin = now()
                handle = start(nop)
                submits.append(now() - begin)
                pool.wait(handle)
                trips.append(now() - begin)
            found[f"submit-{scope}"] = percentile(submits, 0.5)
            found[f"trip-{scope}"] = percentile(trips, 0.5)
            begin = now()
            for handle in [start(nop) for _ in range(size)]:
                pool.wait(handle)
            found[f"rate-{scope}"] = size / (now() - begin)
    return found


def mapped(peer: Peer, size: int) -> Values:
    """One `map` of very many tasks: until all are on the disk, and until all have run."""
    with _opened(peer, "commit") as pool:
        start = now()
        results = pool.map(nap, [0.0] * size)  # type: ignore[attr-defined]
        submitted = now() - start
        for _ in results:
            pass
        return {"submitted": submitted, "each": submitted / size, "rate": size / (now() - start)}


def elsewhere(peer: Peer, size: int) -> Values:
    """From `delay` to the result, where another process runs the task."""
    if not _is_ours(peer):
        with _opened(peer) as pool:
            return {"trip": percentile(_trips(pool, size), 0.5)}
    os.environ[SYNC] = "second"
    with _scratch() as scratch, _worker(peer, scratch), peer.open(WORKERS) as pool:
        _only_submit(pool)
        warm_up(pool, _WARM)
        return {"trip": percentile(_trips(pool, size), 0.5)}


def together(peer: Peer, size: int) -> Values:
    """Four processes that submit and run at once, on one file; against one."""
    os.environ[SYNC] = "commit"

    def run(processes: int) -> tuple[float, list[Values]]:
        with _scratch() as scratch:
            command = [sys.executable, "-m", "benchmarks.cases.journal", peer.name, str(size)]
            started = [
                subprocess.Popen([*command, str(scratch / str(it))]) for it in range(processes)
            ]
            go = scratch / "go"
            _wait(lambda: all((scratch / f"{it}.ready").exists() for it in range(processes)))
            begin = time.monotonic()
            go.touch()
            _wait(lambda: all((scratch / str(it)).exists() for it in range(processes)))
            took = max(
                json.loads((scratch / str(it)).read_text())["over"] for it in range(processes)
            )
            found = [json.loads((scratch / str(it)).read_text()) for it in range(processes)]
            for process in started:
                process.kill()
                process.wait()
        return processes * size / (took - begin), found

    one, _ = run(1)
    four, found = run(4)
    return {
        "one": one,
        "four": four,
        "ratio": four / one,
        "p99": max(it["p99"] for it in found),
        "max": max(it["max"] for it in found),
    }


def _submit_together(peer: Peer, size: int, file: Path) -> None:
    """What each of those processes does."""
    with peer.open(WORKERS) as pool:
        warm_up(pool, _WARM)
        file.with_suffix(".ready").touch()
        _wait((file.parent / "go").exists)
        samples, handles = [], []
        for _ in range(size):
            start = now()
            handles.append(pool.submit(nop))
            samples.append(now() - start)
        for handle in handles:
            pool.wait(handle)
        over = time.monotonic()
        told = {"over": over, "p99": percentile(samples, 0.99), "max": max(samples)}
        made = file.with_suffix(".new")
        made.write_text(json.dumps(told))
        made.rename(file)
        # What others have submitted may run here.
        time.sleep(60)


def views(peer: Peer, size: int) -> Values:
    """A view of gunicorn that starts one durable task, for `size` seconds."""
    os.environ[SYNC] = "second"
    return servers.views_that_delay(peer, size)


def takeover(peer: Peer, size: int) -> Values:
    """Kill one of two workers that run `size` tasks of 1 s: when its tasks run again, or never."""
    os.environ[SYNC] = "second"
    with (
        _scratch() as scratch,
        _worker(peer, scratch),
        _worker(peer, scratch),
        peer.open(WORKERS) as pool,
    ):
        if _is_ours(peer):
            _only_submit(pool)
        record = scratch / "record"
        record.touch()
        # Both have to be there.
        _wait(lambda: _spread(pool, record) > 1)
        record.write_text("")
        for number in range(size):
            pool.submit(mark, str(record), number, 1.0)
        _wait(lambda: len(_marks(record)) == size)
        groups: dict[int, set[int]] = {}
        for it in _marks(record):
            groups.setdefault(os.getpgid(it.pid), set()).add(it.number)
        # One worker may have got them all.
        victim = max(groups, key=lambda group: len(groups[group]))
        victims = groups[victim]
        killed = time.monotonic()
        os.killpg(victim, signal.SIGKILL)

        def again() -> dict[int, float]:
            marks = [it for it in _marks(record) if it.at > killed and it.number in victims]
            return {it.number: it.at - killed for it in reversed(marks)}

        with contextlib.suppress(TimeoutError):
            _wait(lambda: len(again()) == len(victims), 90)
        found = again()
    lost = (len(victims) - len(found)) / len(victims)
    if not found:
        return {"lost": lost}
    return {"lost": lost, "first": min(found.values()), "last": max(found.values())}


def _spread(pool: Pool, record: Path) -> int:
    """How many processes run tasks."""
    for number in range(2 * WORKERS):
        pool.submit(mark, str(record), number, 0.1)
    time.sleep(1)
    return len({it.pid for it in _marks(record)})


def idle(peer: Peer, size: int) -> Values:
    """A worker that has nothing to do, for `size` seconds: processor, wake-ups, memory."""
    os.environ[SYNC] = "second"
    with _scratch() as scratch, contextlib.ExitStack() as stack:
        worker = stack.enter_context(_worker(peer, scratch))
        pool = stack.enter_context(peer.open(WORKERS))
        if _is_ours(peer):
            _only_submit(pool)
        warm_up(pool, 20)
        time.sleep(2)
        before = _usage(worker.pid)
        time.sleep(size)
        after = _usage(worker.pid)
    return {
        "cpu": (after[0] - before[0]) / size,
        "wakes": (after[1] - before[1]) / size,
    }


def memory(_peer: Peer, size: int) -> Values:
    """What a journal adds to a process, after `size` tasks."""
    found = {}
    for name in ("durable", "plain"):
        with _scratch():
            command = [sys.executable, "-m", "benchmarks.durable_app", name, str(size)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[name] = float(done.stdout)
    return {"bytes": found["durable"] - found["plain"]}


def size_of_file(peer: Peer, size: int) -> Values:
    """The file and its log after `size` tasks, of which 10,000 are kept."""
    os.environ[SYNC] = "never"
    with _scratch() as scratch, peer.open(WORKERS, None, DELAY_JOURNAL_LIMIT=10_000) as pool:
        begin = now()
        for _ in range(0, size, 1000):
            pool.drain(nop, 1000)
        rate = size / (now() - begin)
        time.sleep(2)
        files = (scratch / "delay").glob("journal.db*")
        return {"bytes": float(sum(it.stat().st_size for it in files)), "rate": rate}


# --- Helpers --------------------------------------------------------------------------


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A directory on the disk of this checkout, which client and workers share."""
    with tempfile.TemporaryDirectory(dir=Path.cwd() / "target") as scratch:
        os.environ[SCRATCH] = scratch
        yield Path(scratch)


@contextlib.contextmanager
def _worker(peer: Peer, scratch: Path) -> Iterator["subprocess.Popen[bytes]"]:
    assert isinstance(peer, QueuePeer)
    os.environ[SCRATCH] = str(scratch)
    with peer.start_worker(scratch) as process:
        yield process


def _only_submit(pool: Pool) -> None:
    """Let the other process run the tasks."""
    pool.only_submit()  # type: ignore[attr-defined]


def _marks(record: Path) -> list[_Mark]:
    lines = [line.split() for line in record.read_text().splitlines()]
    whole = [line for line in lines if len(line) == len(_Mark._fields)]
    return [_Mark(int(number), int(pid), float(at)) for number, pid, at in whole]


def _wait(until: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not until():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.005)


def _usage(pid: int) -> tuple[float, int]:
    """Seconds of processor time of a process, and how often its threads were woken."""
    seconds, wakes = 0.0, 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            # Nanoseconds, where `stat` has hundredths of a second.
            seconds += int((thread / "schedstat").read_text().split()[0]) / 1e9
            told = dict(
                line.split(":")
                for line in (thread / "status").read_text().splitlines()
                if ":" in line
            )
            wakes += int(told["voluntary_ctxt_switches"])
    return seconds, wakes


if __name__ == "__main__":
    # The peers import these cases' neighbours.
    from benchmarks.peers import PEERS

    _submit_together(PEERS[sys.argv[1]], int(sys.argv[2]), Path(sys.argv[3]))
