"""Chooses the process of a machine that runs a job at a tick: the first one to take the tick.

Each job has a file, of which two bytes are locked. A process locks the first byte to read and
change the note in the file, and unlocks it at once. A process locks the second byte for the
duration of a run. So a process that is busy or hangs holds no lock that another one needs.
"""

import contextlib
import errno
import fcntl
import json
import os
import re
import stat
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from flask_delay.logs import log as _log

_NOTE, _RUN = 0, 1
"""The bytes that are locked."""

# The most bytes of a note, which is much shorter. The rest of the file is not read.
_LONGEST = 4096
_NAME = 200
_LAST_TICK = 2**63
_BEGINNING = b'{"job": "'

# Seconds in which a process finishes reading a note, unless it hangs.
_PATIENCE = 1.0
_PAUSE = 0.001

# Seconds after its last write until a file counts as that of a removed job.
_UNUSED = 30 * 24 * 3600.0
_OURS = re.compile(r"[0-9a-f]{32}\.lock")
# Files of the first version, which had arguments in names and notes.
_FORMER = re.compile(r"[\w.]*-[0-9a-f]{16}\.lock")


class Answer(NamedTuple):
    """The decision of this process about a tick."""

    runs: bool
    """Whether it is for the caller to run, which then calls `hold` or `end`."""
    left_out: int = 0
    """How many in a row, with this one, nobody runs since a run goes on."""
    by: int | None = None
    """The process that has run it last."""
    last: int | None = None
    """The newest tick before this one that was run or left out."""
    unreadable: bool = False
    """Whether there was a note that cannot be read, and which is as if there were none."""
    run: Any = None
    """The future of the run, if taking the tick has submitted it: then it is not for the caller."""


class Standing(NamedTuple):
    """What there is to say of a job."""

    last: int | None = None
    """The newest tick that was run or left out, in nanoseconds since 1970."""
    left_out: int = 0
    """How many ticks in a row were left out since."""
    paused: bool = False


class _Note(NamedTuple):
    tick: int | None = None
    pid: int | None = None
    left_out: int = 0
    paused: bool = False

    def standing(self) -> Standing:
        return Standing(self.tick, self.left_out, self.paused)


class Run(Protocol):
    """The part of a future that is needed here."""

    def done(self) -> bool:
        """Whether it is over."""

    def add_done_callback(self, fn: Callable[[Any], object], /) -> object:
        """Have `fn` called with it when it is over."""


class Beginning:
    """A run that has no future yet, or never gets one."""

    def __init__(self, *, is_over: bool = False) -> None:
        self._is_over = is_over

    def done(self) -> bool:
        """See `Run`."""
        return self._is_over

    def add_done_callback(self, fn: Callable[[Any], object], /) -> object:
        """Not for a run without a future."""
        raise NotImplementedError


class Lead:
    """The state of one job, where each process runs its own.

    May be used from any thread.
    """

    def __init__(self) -> None:
        # Two apps in one process may have the same job.
        self._turn = threading.Lock()
        self._run: Run | None = None
        self._note = _Note()

    def prepare(self) -> None:
        """Create the file if one is used. Raises OSError if that fails."""

    def take(self, tick: int | None, has_come: Callable[[int], bool], *, alone: bool) -> Answer:
        """Decide whether the caller runs the job at `tick`, in nanoseconds since 1970, or now.

        It does, unless the job is paused or the tick was taken: `has_come(last)` says so, where
        `last` is the newest tick that was taken. With `alone`, only if no run continues. Without a
        tick, only a continuing run matters. Raises OSError if the state cannot be read.
        """
        with self._turn, self._agreed():
            note, unreadable = self._read()
            if tick is not None and (
                note.paused or (note.tick is not None and has_come(note.tick))
            ):
                return Answer(runs=False)
            if alone and not self._begin():
                if tick is None:
                    return Answer(runs=False, by=note.pid)
                note = note._replace(tick=tick, left_out=note.left_out + 1)
                self._write(note)
                return Answer(runs=False, left_out=note.left_out, by=note.pid)
            taken = note.tick if tick is None else tick
            try:
                self._write(note._replace(tick=taken, pid=os.getpid(), left_out=0))
            except OSError:
                if alone:
                    self._finish()
                raise
            return Answer(runs=True, last=note.tick, unreadable=unreadable)

    def make_up(self, before: int) -> Answer:
        """Take the newest tick until `before`, in nanoseconds since 1970, if no process has.

        Only a lead that remembers ticks over the end of all processes can.
        """
        del before
        return Answer(runs=False)

    def newest(self) -> Any:
        """The future of the last run, if it is known in all processes."""
        return None

    def hold(self, run: Run) -> None:
        """Note the run that was begun `alone`: it continues until its future is done."""
        self._run = run
        run.add_done_callback(self.end)

    def end(self, run: Run | None = None) -> None:
        """Note the end of the run; without a run, it never began."""
        with self._turn:
            # Another run may have begun before all callbacks of this one were called.
            if run is None or self._run is run:
                self._finish()

    def pause(self, paused: bool) -> None:
        """Stop all processes from taking ticks, or let them take ticks again from now on.

        Raises as `take`.
        """
        with self._turn, self._agreed():
            note, _ = self._read()
            tick = note.tick if paused or not note.paused else time.time_ns()
            self._write(note._replace(paused=paused, tick=tick))

    def standing(self) -> Standing:
        """What there is to say of the job; nothing if that is unknown."""
        with self._turn:
            return self._note.standing()

    @property
    def paused(self) -> bool:
        """Whether the job is paused for all processes; False if that is unknown."""
        return self.standing().paused

    def forget_parent(self) -> None:
        """Reset in a forked process: the locks and the run belong to its parent."""
        # Another thread may have held it at the fork.
        self._turn = threading.Lock()
        self._run = None

    @contextlib.contextmanager
    def _agreed(self) -> Iterator[None]:
        """Exclude all other readers and writers of the note."""
        yield

    def _read(self) -> tuple[_Note, bool]:
        return self._note, False

    def _write(self, note: _Note) -> None:
        self._note = note

    def _begin(self) -> bool:
        if self._run is not None and not self._run.done():
            return False
        self._run = Beginning()
        return True

    def _finish(self) -> None:
        self._run = None


class _FileLead(Lead):
    """The state of one job that the processes of a machine share in its file."""

    # POSIX locks belong to the process: the system releases them at its end, and a forked child has
    # none of its parent's, also after a fork that Python does not notice. But they are released
    # with the first descriptor of the file that the process closes, so each file has only one.

    def __init__(self, path: Path, name: str, remedy: str) -> None:
        super().__init__()
        self._path = path
        self._name = name[:_NAME]
        self._remedy = remedy
        self._file: int | None = None
        self._close: Callable[[], object] = lambda: None
        # The inode of the open file, if the file is ours.
        self._inode: int | None = None
        self._pid: int | None = None

    def prepare(self) -> None:
        with self._turn:
            self._opened()

    def standing(self) -> Standing:
        with self._turn, contextlib.suppress(OSError):
            self._opened(make=False)
            return self._read()[0].standing()
        return Standing()

    def forget_parent(self) -> None:
        super().forget_parent()
        self._drop()

    def discard(self) -> None:
        """Remove the file, unless it is in use, of a paused job or not ours.

        May raise OSError.
        """
        with self._turn:
            if self._run is not None:
                return
            file = self._opened(make=False)
            try:
                free = _lock(file, _NOTE) and _lock(file, _RUN) and self._is_current()
                text = os.pread(file, len(_BEGINNING), 0)
                if free and text in {b"", _BEGINNING} and not self._read()[0].paused:
                    self._path.unlink()
            finally:
                # This releases all its locks.
                self._drop()

    @contextlib.contextmanager
    def _agreed(self) -> Iterator[None]:
        end = time.monotonic() + _PATIENCE
        while True:
            file = self._opened()
            if _lock(file, _NOTE):
                if self._is_current():
                    break
                # The file was replaced between the opening and the lock.
                self._drop()
            elif time.monotonic() < end:
                time.sleep(_PAUSE)
            else:
                raise BlockingIOError(
                    errno.EAGAIN,
                    "another process has its lock and does not let go of it",
                    str(self._path),
                )
        try:
            yield
        finally:
            fcntl.lockf(file, fcntl.LOCK_UN, 1, _NOTE)

    def _read(self) -> tuple[_Note, bool]:
        # Only called with the file open.
        text = os.pread(self._file or 0, _LONGEST, 0)
        note = _parsed(text)
        return note or _Note(), note is None and bool(text)

    def _write(self, note: _Note) -> None:
        text = json.dumps({"job": self._name, **note._asdict()}).encode() + b"\n"
        file = self._file or 0
        # One write, and bytes after the line are ignored: a process killed here leaves a valid
        # note.
        os.pwrite(file, text, 0)
        os.ftruncate(file, len(text))

    def _begin(self) -> bool:
        # On each run: reading and closing the file anywhere in this process releases the lock.
        return _lock(self._file or 0, _RUN) and super()._begin()

    def _finish(self) -> None:
        super()._finish()
        if self._file is not None and self._pid == os.getpid():
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _RUN)

    def _drop(self) -> None:
        self._file, self._pid = None, None
        self._close()

    def _is_current(self) -> bool:
        # The file may have been removed; then another process has made a new one.
        with contextlib.suppress(OSError):
            found = self._path.stat(follow_symlinks=False)
            return self._pid == os.getpid() and found.st_ino == self._inode
        return False

    def _opened(self, *, make: bool = True) -> int:
        if self._file is not None and self._is_current():
            return self._file
        if self._pid not in {None, os.getpid()}:
            # A fork that Python did not notice.
            self._run = None
        self._drop()
        try:
            if make:
                _make_folder(self._path.parent)
            file = _open(self._path, make=make)
        except OSError as error:
            raise self._explained(error) from error
        self._file, self._inode, self._pid = file, os.fstat(file).st_ino, os.getpid()
        # Closes once, whichever caller is first.
        close = weakref.finalize(self, os.close, file)
        close.atexit = False
        self._close = close
        if self._run is not None and not self._run.done():
            # The run continues, and its lock was on the removed file.
            _lock(file, _RUN)
        return file

    def _explained(self, error: OSError) -> OSError:
        why = "is a symbolic link" if error.errno == errno.ELOOP else error.strerror
        what = f"{why}: user {os.geteuid()} needs a lock file there; {self._remedy}"
        return type(error)(error.errno, what, error.filename or str(self._path))


_leads: weakref.WeakValueDictionary[Path, _FileLead] = weakref.WeakValueDictionary()


def lead(folder: Path, id: str, name: str, remedy: str = "") -> Lead:
    """The `Lead` of this process for the job of this id; creates no file yet.

    `name` is for readers of the file, `remedy` for the error if there is no folder.
    """
    path = folder / f"{id}.lock"
    found = _leads.get(path)
    if found is None:
        # The second caller drops its own, which has no descriptor yet.
        found = _leads.setdefault(path, _FileLead(path, name, remedy))
    return found


def clean(folder: Path) -> None:
    """Remove files that are no longer needed; warn if other users can write to the folder."""
    with contextlib.suppress(OSError):
        if folder.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            _log.warning(
                "the folder %s can be written by other users, who can keep jobs from running"
                " there: chmod 700",
                folder,
            )
        for path in list(folder.iterdir()):
            if _is_unused(path):
                with contextlib.suppress(OSError):
                    found = _leads.setdefault(path, _FileLead(path, "", ""))
                    found.discard()


def _is_unused(path: Path) -> bool:
    if _OURS.fullmatch(path.name):
        with contextlib.suppress(OSError):
            return time.time() - path.stat(follow_symlinks=False).st_mtime > _UNUSED
    return _FORMER.fullmatch(path.name) is not None


def _make_folder(folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    # `_open` checks whatever exists already.
    with contextlib.suppress(FileExistsError):
        folder.mkdir(0o700)


def _open(path: Path, *, make: bool) -> int:
    """Open a file of this user, whatever other users have put in its place."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    file = os.open(path, flags | os.O_CREAT if make else flags, 0o600)
    found, why = os.fstat(file), None
    if found.st_uid != os.geteuid():
        why = f"belongs to user {found.st_uid}"
    elif not stat.S_ISREG(found.st_mode):
        why = "is not a plain file"
    elif found.st_nlink > 1:
        why = "has another name as well"
    if why:
        os.close(file)
        raise PermissionError(errno.EPERM, why, str(path))
    return file


def _lock(file: int, byte: int) -> bool:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _parsed(text: bytes) -> _Note | None:
    line, end, _ = text.partition(b"\n")
    # RecursionError: nested brackets.
    with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
        found = json.loads(line)
        tick, pid, left_out = found["tick"], found["pid"], found["left_out"]
        known = all(type(value) is int for value in (tick, pid, left_out) if value is not None)
        if end and known and 0 <= (tick or 0) < _LAST_TICK:
            return _Note(tick, pid, left_out or 0, found["paused"] is True)
    return None
