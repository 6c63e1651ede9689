"""Who runs a job, of all processes of a machine that know it: who has the lock on its file."""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

# POSIX locks: they are the process's, so a forked child has none of its parent's, also where
# the fork is one that Python does not hear of; and the system lets go of them, whatever a
# process dies of. But they go with the first descriptor of the file that the process closes,
# so there is one for each file.
_leads: weakref.WeakValueDictionary[Path, "Lead"] = weakref.WeakValueDictionary()


def lead(folder: Path, name: str) -> "Lead":
    """The one of this process for the job of this name.

    Makes the folder, and raises OSError if that or the file cannot be written.
    """
    readable = re.sub(r"[^\w.]+", "_", name)[:60].strip("_")
    path = folder / f"{readable}-{hashlib.sha256(name.encode()).hexdigest()[:16]}.lock"
    found = _leads.get(path)
    if found is None:
        # Who comes second drops his own, which has no descriptor yet.
        found = _leads.setdefault(path, Lead(path, name))
    found.prepare()
    return found


class Lead:
    """One job's file. May be used from any thread."""

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._name = name
        # Two apps in one process may have the same job.
        self._turn = threading.Lock()
        self._file: int | None = None
        self._close: Callable[[], object] = lambda: None
        # Of the file that is open, and that is ours.
        self._inode: int | None = None
        self._pid: int | None = None

    def prepare(self) -> None:
        """Make the file, if it is not there. Raises OSError if it cannot be written."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Not opened and closed, which would let go of a lock.
        if not self._path.exists():
            with contextlib.suppress(FileExistsError):
                os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644))
        if not os.access(self._path, os.R_OK | os.W_OK):
            raise PermissionError(13, "cannot be written", str(self._path))

    def take(self, tick: int, has_come: Callable[[int], bool]) -> bool:
        """Whether this process is to run the job at `tick`, in nanoseconds since 1970.

        It is, if it has the lock or gets it now, and if nobody has run it then: as
        `has_come(last)` says, `last` being the newest tick that anybody has. Raises OSError
        if there can be no lock.
        """
        with self._turn:
            file = self._locked()
            if file is None:
                return False
            last = _read(file)
            if last is not None and has_come(last):
                return False
            note = {"job": self._name, "pid": os.getpid(), "tick": tick}
            line = json.dumps(note).encode() + b"\n"
            os.pwrite(file, line, 0)
            os.ftruncate(file, len(line))
            return True

    def let_go(self) -> None:
        """Leave the job to others."""
        with self._turn:
            self._drop()

    def forget_parent(self) -> None:
        """Begin anew in a process that was forked: the lock is its parent's."""
        # Another thread may have held it at the fork.
        self._turn = threading.Lock()
        self._drop()

    def _drop(self) -> None:
        self._file, self._pid = None, None
        self._close()

    def _locked(self) -> int | None:
        """The file, if this process has its lock, or gets it now."""
        file = self._file if self._is_current() else None
        if file is None:
            file = self._open()
        try:
            # Each time: whoever in this process has read the file, and closed it, has let go.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            # Another process has it.
            self._drop()
            return None
        if not self._is_current():
            # Replaced between the opening and the lock; next time, then.
            self._drop()
            return None
        return file

    def _is_current(self) -> bool:
        # Somebody may have cleaned up; then others have made another one.
        with contextlib.suppress(OSError):
            return self._pid == os.getpid() and self._path.stat().st_ino == self._inode
        return False

    def _open(self) -> int:
        self._drop()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        self._file, self._inode, self._pid = file, os.fstat(file).st_ino, os.getpid()
        # Does it once, whoever calls it first.
        close = weakref.finalize(self, os.close, file)
        close.atexit = False
        self._close = close
        return file


def _read(file: int) -> int | None:
    # What a process that died in the middle of it has left is no tick.
    with contextlib.suppress(ValueError, KeyError, TypeError):
        # All of it: a name has a job's arguments, and may be long.
        return int(json.loads(os.pread(file, os.fstat(file).st_size, 0))["tick"])
    return None
