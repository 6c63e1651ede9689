"""A state machine: real processes with one journal, killed and forked, against a model of it.

The model is a dictionary of what each task must be. Tasks wait for a file that says how they go on,
so that it is known which of them may run.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from tests.journal.fleet import ROOT, wait_for_death
from tests.journal.record import Told, judge, read_record, read_rows, reading
from tests.servers.harness import poll

OPEN = {"ready", "scheduled", "running", "blocked", "parked"}
KEEP = 1.0
WORKERS = 2
MOST = 3
WHICH = st.integers(0, 11)


@dataclass
class Task:
    """What is known of a task."""

    number: int
    id: str
    function: str
    once: str | None = None
    end: str | None = None
    """How it ended: "finished", "failed" or "cancelled"; None while it has not."""
    ended_at: float = 0.0
    before: int | None = None
    """The number of the task that it follows."""
    on: str = "success"
    failed_with_it: bool = False
    """It has not begun, since that one has failed."""
    stopped: bool = False
    """It was told to stop, and may not have noticed."""


class Process:
    """One process of the app, which the nursery has forked."""

    def __init__(
        self, folder: Path, nursery: subprocess.Popen[str], name: str, *, old: bool
    ) -> None:
        self.old = old
        path = folder / f"{name}.socket"
        config = {
            "DELAY_JOURNAL": str(folder / "delay" / "journal.db"),
            "DELAY_JOURNAL_DEATHS": 1_000_000,
            "DELAY_JOURNAL_KEEP": KEEP,
            "DELAY_JOURNAL_SYNC": "second",
            "DELAY_MAX_WORKERS": WORKERS,
            "DELAY_SHUTDOWN_TIMEOUT": 0.2,
        }
        environ = {"ACTED": str(folder), **({"ACTED_OLD": "1"} if old else {})}
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()
            listener.settimeout(20)
            assert nursery.stdin is not None
            nursery.stdin.write(f"{json.dumps([str(path), config, environ])}\n")
            nursery.stdin.flush()
            self._connection, _ = listener.accept()
        self._connection.settimeout(30)
        self._stream = self._connection.makefile("rw")
        self._log = path.with_suffix(".log")
        assert self._read() is None
        self.pid: int = self("os.getpid()")
        self.handle = os.pidfd_open(self.pid)

    def __call__(self, expression: str) -> Any:
        """The value of the expression there."""
        self._stream.write(f"{expression}\n")
        self._stream.flush()
        return self._read()

    def _read(self) -> Any:
        line = self._stream.readline()
        assert line, self._log.read_text()
        return json.loads(line)

    def hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.close()
        self._connection.close()

    def wait(self) -> None:
        is_dead = wait_for_death(self.handle)
        os.close(self.handle)
        assert is_dead, self._log.read_text()

    def kill(self) -> None:
        signal.pidfd_send_signal(self.handle, signal.SIGKILL)
        self.hang_up()
        self.wait()

    def end(self) -> None:
        """Let it come to its end: what it reads is over."""
        self.hang_up()
        self.wait()


def noted(step: Callable[..., None]) -> Callable[..., None]:
    """Note a step, and print all of them if one fails.

    What depends on time may not fail again when hypothesis tries, which then tells of that alone.
    """

    @wraps(step)
    def note(self: "Machine", **given: Any) -> None:
        self.steps.append(f"{step.__name__}({given})")
        try:
            step(self, **given)
        except BaseException:
            traceback.print_exc()
            print(*self.steps, sep="\n", file=sys.stderr)
            raise

    return note


class Machine(RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="model-"))
        self.nursery = subprocess.Popen(
            [sys.executable, "-m", "tests.journal.actor"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            text=True,
        )
        self.processes: list[Process] = []
        self.tasks: dict[int, Task] = {}
        self.told = Told()
        # How often each task was claimed before its function was paused; None: all functions are.
        self.paused: dict[str | None, dict[str, int]] = {}
        self.started = 0
        self.steps: list[str] = []
        self.start(old=False)
        self.start(old=False)

    # No rule has a precondition, and what a rule draws does not depend on the model: what real
    # processes do is not the same each time, and hypothesis must draw the same all the same.

    # --- Processes --------------------------------------------------------------------

    @rule(old=st.booleans())
    @noted
    def start(self, old: bool) -> None:
        """A process more; an old one lacks a function."""
        if len(self.processes) < MOST:
            self.started += 1
            name = str(self.started)
            self.processes.append(Process(self.folder, self.nursery, name, old=old))

    @rule(which=WHICH)
    @noted
    def kill(self, which: int) -> None:
        """Without a word."""
        if self.processes:
            process = self.processes.pop(which % len(self.processes))
            self.told.killed[process.pid] = time.monotonic()
            process.kill()

    @rule(which=WHICH)
    @noted
    def end(self, which: int) -> None:
        """In order: what waits and what runs is left to the others."""
        if self.processes:
            process = self.processes.pop(which % len(self.processes))
            self.told.killed[process.pid] = time.monotonic()
            process.end()

    # --- Tasks ------------------------------------------------------------------------

    @rule(
        which=WHICH,
        function=st.sampled_from(["always", "always", "newer"]),
        countdown=st.sampled_from([0, 0, 0, 0.05]),
        count=st.integers(1, 3),
        fork=st.booleans(),
    )
    @noted
    def submit(self, which: int, function: str, countdown: float, count: int, fork: bool) -> None:
        """In any process that has the function, or in a child of it."""
        process = self.some(which, function)
        if process is None:
            return
        for _ in range(count):
            number = len(self.tasks) + 1
            expression = f"using(countdown={countdown}).delay(acted.{function}, {number}).id"
            id = process(f"forked({expression!r})" if fork else expression)
            assert isinstance(id, str), id
            self.tasks[number] = Task(number, id, function)

    @rule(which=WHICH, key=st.sampled_from(["a", "b"]), fork=st.booleans())
    @noted
    def submit_once(self, which: int, key: str, fork: bool) -> None:
        """A task of a key, which there may be already, wherever it was submitted."""
        process = self.some(which, None)
        if process is None:
            return
        number = len(self.tasks) + 1
        expression = f"using(once='{key}').delay(acted.always, {number}).id"
        twins = [it for it in self.tasks.values() if it.once == key]
        id = process(f"forked({expression!r})" if fork else expression)
        assert isinstance(id, str), (id, twins)
        if id in {it.id for it in twins}:
            return
        assert all(map(self.may_be_gone, twins)), (id, twins)
        self.tasks[number] = Task(number, id, "always", key)

    @rule(
        which=WHICH,
        before=WHICH,
        on=st.sampled_from(["success", "success", "end"]),
        fork=st.booleans(),
    )
    @noted
    def follow(self, which: int, before: int, on: str, fork: bool) -> None:
        """A task after another one, from any process, wherever that one is."""
        process, tasks = self.some(which, None), self.open()
        if process is None or not tasks:
            return
        first = tasks[before % len(tasks)]
        number = len(self.tasks) + 1
        step = f"__import__('functools').partial(acted.after, {number})"
        expression = f"get('{first.id}').then({step}, on='{on}').id"
        id = process(f"forked({expression!r})" if fork else expression)
        assert isinstance(id, str), id
        self.tasks[number] = Task(number, id, "after", before=first.number, on=on)

    @rule(which=WHICH, how=st.sampled_from(["checkpoint", "checkpoint", "step"]))
    @noted
    def keep(self, which: int, how: str) -> None:
        """A task that runs keeps something, which later attempts have."""
        running = self.running()
        if running:
            task = running[which % len(running)]
            file = self.tell(task, how)
            assert poll(lambda: not file.exists()), self.story(task)

    @rule(which=WHICH, how=st.sampled_from(["finish", "finish", "fail", "retry"]))
    @noted
    def go_on(self, which: int, how: str) -> None:
        """A task that runs goes on, and its end is known to all."""
        running = self.running()
        if not running:
            return
        task = running[which % len(running)]
        file = self.tell(task, how)
        if how == "retry":
            assert poll(lambda: not file.exists()), self.story(task)
            return
        self.ended(task, "finished" if how == "finish" else "failed")

    @rule(which=WHICH, where=WHICH, verb=st.sampled_from(["cancel", "stop"]))
    @noted
    def cancel(self, which: int, where: int, verb: str) -> None:
        """From any process, whichever runs it."""
        process, tasks = self.some(where, None), self.open()
        if process is None or not tasks:
            return
        task = tasks[which % len(tasks)]
        told = process(f"get('{task.id}').{verb}()")
        if told is True:
            self.ended(task, "cancelled")
        else:
            # It runs, and not only by the answer.
            assert (told, verb) == (False, "cancel"), (told, self.story(task))
            assert any(it.number == task.number for it in self.record()), self.story(task)

    @rule(which=WHICH, where=WHICH)
    @noted
    def retry(self, which: int, where: int) -> None:
        """By hand, from any process: a task that has failed runs again, and what failed with it."""
        process = self.some(where, None)
        failed = [it for it in self.tasks.values() if it.end == "failed"]
        if process is None or not failed:
            return
        task = failed[which % len(failed)]
        may_be_gone = self.may_be_gone(task)
        told = process(f"executor.retry('{task.id}').id")
        if task.failed_with_it or told != task.id:
            reason = "ValueError" if task.failed_with_it else "LookupError"
            assert task.failed_with_it or may_be_gone, (told, self.story(task))
            assert told["raised"].startswith((reason, "LookupError")), (told, self.story(task))
            return
        self.begins_again(task, process)

    def begins_again(self, task: Task, process: Process) -> None:
        """It has not ended after all, and so those that have failed with it."""
        task.end, task.failed_with_it = None, False
        for follower in self.tasks.values():
            if follower.before == task.number and follower.failed_with_it:
                if process(f"view('{follower.id}')") is None:
                    # Forgotten before.
                    assert self.may_be_gone(follower), self.story(follower)
                else:
                    self.begins_again(follower, process)

    @rule(where=WHICH, name=st.sampled_from(["always", "newer", "after", None]))
    @noted
    def pause(self, where: int, name: str | None) -> None:
        """In all processes, by any of them that has the function."""
        process = self.some(where, name)
        if process is None or name in self.paused:
            return
        told = process(f"executor.pause({name!r})")
        if name is not None and told is not None:
            # The file has not heard of it.
            assert told["raised"].startswith("LookupError"), told
            return
        self.paused[name] = self.claims(name)

    @rule(where=WHICH, name=st.sampled_from(["always", "newer", "after", None]))
    @noted
    def resume(self, where: int, name: str | None) -> None:
        """With None, all that is paused."""
        process = self.some(where, name)
        if process is not None and (name is None or name in self.paused):
            assert process(f"executor.resume({name!r})") is None
            if name is None:
                self.paused.clear()
            else:
                del self.paused[name]

    def is_paused(self, function: str) -> bool:
        return None in self.paused or function in self.paused

    def claims(self, name: str | None) -> dict[str, int]:
        """How often each task of the function was claimed; of all, without one."""
        ids = {it.id for it in self.tasks.values() if name in {None, it.function}}
        query = "SELECT id, epoch FROM task"
        with reading(self.folder / "delay" / "journal.db") as connection:
            return {id: epoch for id, epoch in connection.execute(query) if id in ids}

    @rule()
    @noted
    def prune(self) -> None:
        """What ended long ago is forgotten, in every process."""
        ids = [it.id for it in self.tasks.values() if it.end]
        for process in self.processes if ids else ():
            expression = f"[it for it in {ids} if view(it)]"
            assert poll(partial(self.is_empty, process, expression)), process(expression)

    @staticmethod
    def is_empty(process: Process, expression: str) -> bool:
        return not process(expression)

    # --- What holds always ------------------------------------------------------------

    @invariant()
    @noted
    def every_process_knows_every_task(self) -> None:
        ids = [it.id for it in self.tasks.values()]
        for process in self.processes:
            states = process(f"[getattr(view(it), 'state', None) for it in {ids}]")
            for task, state in zip(self.tasks.values(), states, strict=True):
                assert state in self.expected(task), (state, process.pid, self.story(task))

    def expected(self, task: Task) -> set[str | None]:
        """What a process may say of the task."""
        if task.end is None:
            return {*OPEN}
        return {task.end, None} if self.may_be_gone(task) else {task.end}

    @invariant()
    @noted
    def what_is_paused_does_not_start(self) -> None:
        for name, before in self.paused.items():
            for id, count in self.claims(name).items():
                assert count == before.get(id, 0), (name, id, before)

    @invariant()
    @noted
    def what_can_run_does(self) -> None:
        """If a process that has the function of a waiting task has a free worker, one is run."""
        for function in ("always", "newer", "after"):
            able = [it for it in self.processes if function != "newer" or not it.old]
            waiting = [
                it for it in self.open() if it.function == function and not self.is_blocked(it)
            ]
            if able and waiting and not self.is_paused(function):
                assert poll(partial(self.is_run, waiting, able)), self.story(*waiting)

    def is_blocked(self, task: Task) -> bool:
        """Whether the task that it follows has not ended."""
        return task.before is not None and self.tasks[task.before].end is None

    def is_run(self, waiting: list[Task], able: list[Process]) -> bool:
        """Whether one of these tasks runs, or none can."""
        running = self.running()
        if {it.number for it in running} & {it.number for it in waiting}:
            return True
        counts = Counter(self.runs_in(it) for it in running)
        if self.suspects():
            # They run alone, and so what runs beside them has to end first.
            return any(counts[it.pid] for it in able)
        return all(counts[it.pid] >= WORKERS for it in able)

    def runs_in(self, task: Task) -> int:
        return next(it.pid for it in reversed(self.record()) if it.number == task.number)

    def suspects(self) -> bool:
        """Whether a task that waits is known to have been in a process that died."""
        rows = read_rows(self.folder / "delay" / "journal.db").values()
        return any(it.deaths and it.state in OPEN for it in rows)

    def teardown(self) -> None:
        try:
            self.end_all()
        finally:
            for process in self.processes:
                process.kill()
            assert self.nursery.stdin is not None
            self.nursery.stdin.close()
            self.nursery.wait()
            shutil.rmtree(self.folder, ignore_errors=True)

    def end_all(self) -> None:
        """All that is left comes to its end, and none of it was run twice at once."""
        if all(it.old for it in self.processes):
            if len(self.processes) == MOST:
                self.processes.pop().end()
            self.start(old=False)
        if self.paused:
            self.processes[0]("executor.resume()")
            self.paused.clear()
        for task in self.open():
            self.tell(task, "finish")
        for task in self.open():
            # In the order of their numbers, so none of them is blocked.
            self.ended(task, "finished")
        problems = judge(self.told, self.everything(), None).problems
        assert problems == [], problems

    # --- Helpers ----------------------------------------------------------------------

    def some(self, which: int, function: str | None) -> Process | None:
        """A process that has this function."""
        able = [it for it in self.processes if function != "newer" or not it.old]
        return able[which % len(able)] if able else None

    def tell(self, task: Task, how: str) -> Path:
        """Write how a task goes on; all of it at once."""
        made = self.folder / "made"
        made.write_text(how)
        return made.rename(self.folder / f"{task.number}.go")

    def open(self) -> list[Task]:
        return [it for it in self.tasks.values() if it.end is None]

    def running(self) -> list[Task]:
        """The tasks that run now, by the record."""
        last = {it.number: it for it in self.record()}
        alive = {it.pid for it in self.processes}
        return [
            self.tasks[number]
            for number, event in sorted(last.items())
            if event.event == "start" and event.pid in alive and self.tasks[number].end is None
        ]

    def record(self) -> list[Any]:
        """What the attempts have noted, but for what they keep."""
        return [it for it in self.everything() if not it.is_of_value]

    def everything(self) -> list[Any]:
        path = self.folder / "record"
        return read_record(path) if path.exists() else []

    def ended(self, task: Task, how: str) -> None:
        """Every process comes to know of this end."""
        task.end = how
        for process in self.processes:
            expression = f"getattr(view('{task.id}'), 'state', None) in {OPEN}"
            assert poll(partial(self.is_empty, process, expression)), self.story(task)
        task.ended_at = time.monotonic()
        if how != "finished":
            for follower in self.open():
                if follower.before == task.number and follower.on == "success":
                    follower.failed_with_it = how == "failed"
                    self.ended(follower, how)

    def may_be_gone(self, task: Task) -> bool:
        return task.end is not None and time.monotonic() - task.ended_at > KEEP * 0.5

    def story(self, *tasks: Task) -> str:
        numbers = {it.number for it in tasks}
        events = [it for it in self.record() if it.number in numbers]
        rows = read_rows(self.folder / "delay" / "journal.db")
        return f"{tasks} {events} {[rows.get(it.id) for it in tasks]} killed {self.told.killed}"


QUICK = settings(
    max_examples=5,
    stateful_step_count=15,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    database=None,
    # A failure is not made smaller: what depends on time does not come again. The last steps are in
    # what is printed.
    phases=[Phase.generate],
)


@pytest.mark.workers
def test_quick() -> None:
    run_state_machine_as_test(Machine, settings=QUICK)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_long() -> None:
    run_state_machine_as_test(
        Machine,
        settings=settings(QUICK, max_examples=30, stateful_step_count=30, derandomize=False),
    )
