"""The parent's side of one worker process. The module `worker` is the other side.

The child is started with `subprocess`, which executes a new Python at once. So it shares no lock,
thread or memory with the server, and does not import the server's `__main__`.
"""

import contextlib
import os
import select
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from multiprocessing.spawn import get_executable
from pathlib import Path
from typing import Any

from flask_delay._native import TaskTimeout
from flask_delay.backends.base import ProcessDied
from flask_delay.backends.message import TaskMessage
from flask_delay.backends.processes import frames
from flask_delay.backends.processes.frames import BadFrameError, Frame, Kind
from flask_delay.backends.serializer.pickles import Serializer
from flask_delay.logs import log as _log
from flask_delay.servers import cpython, gevent


def _refuse_gevent() -> None:
    if gevent.is_patched("subprocess"):
        raise RuntimeError(
            "backend='processes' does not go with gevent, which has patched `subprocess` and lets"
            " the main thread alone start processes: serve the app with threads (gunicorn's"
            " gthread), or use backend='celery'"
        )


_refuse_gevent()

# An exception from another thread, as that of `timeout`, arrives between two bytecodes. So one
# blocking step takes at most this long.
_SLICE = 20  # milliseconds
# A killed process is gone at once, unless it is in an uninterruptible system call.
_GRACE = 5.0
# An app that takes longer may never finish loading, and no `timeout` counts until it has.
_LONG = 60.0

# The child gets its instructions over the connection. Not even JSON is needed before the path is
# set, so no module is imported from a wrong place.
_PROGRAM = """\
import sys
_, parent, lifeline, connection, *path = sys.argv
sys.path[:] = path
del sys.argv[1:], path
from flask_delay.backends.processes.worker import main
main(int(parent), int(lifeline), int(connection))
"""


class _Look:
    """A thread that waits for the stack of the child's task."""

    def __init__(self) -> None:
        self.is_over = threading.Event()
        self.frames: list[str] | None = None


class Child:
    """A worker process. For one thread at a time."""

    def __init__(self, app: str, name: str, serializer: Serializer) -> None:
        """Start the process; `app` is the app to load, written as FLASK_APP."""
        # gevent may have patched Python since this module was loaded.
        _refuse_gevent()
        here, there = Pipe()
        # The child ends when no process holds the other end of this pipe any more.
        leash, lifeline = Pipe(duplex=False)
        with there, leash:
            # Only this child inherits these two; it closes them in processes that it starts.
            ends = (leash.fileno(), there.fileno())
            options = cpython.interpreter_options()
            self._process = subprocess.Popen(  # noqa: S603 (our own code)
                [_python(), *options, "-c", _PROGRAM, *map(str, (os.getpid(), *ends)), *sys.path],
                pass_fds=ends,
                stdin=subprocess.DEVNULL,
            )
        self._connection: Connection[Any, Any] = here
        self._lifeline: Connection[Any, Any] = lifeline
        self._descriptor = here.fileno()
        # So that no read or write takes longer than `_SLICE`, whatever the other end does.
        os.set_blocking(self._descriptor, False)
        # Made once: the connection's own `poll` makes one for each call.
        self._readable = select.poll()
        self._readable.register(self._descriptor, select.POLLIN)
        self._writable = select.poll()
        self._writable.register(self._descriptor, select.POLLOUT)
        self._received = frames.Reader()
        self._app = app
        self._serializer = serializer
        # Threads that want to know where the task is. Atomic: `run` alone takes them out.
        self._looks: deque[_Look] = deque()
        # The number of the last call that was sent to the child.
        self._call = 0
        self._is_loading = True
        # Whether the child holds nothing of a task.
        self._is_free = True
        self._began = time.monotonic()
        setup = {"app": app, "name": name, "main": serializer.names.main}
        # The frame fits, since nothing has been sent yet. `await_app` will report a dead child.
        with contextlib.suppress(EOFError, ConnectionError):
            self._send(Frame(Kind.SETUP, 0, setup), lambda: False)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def await_app(self, given_up: Callable[[], bool]) -> bool:
        """Wait until the child has loaded the app; False if `given_up()`.

        An exception from another thread may arrive at any time; if the child is free then, another
        task may continue the wait. Raises ProcessDied if the child ends meanwhile, RuntimeError if
        it cannot load the app.
        """
        with self._dying():
            while self._is_loading:
                if self._readable.poll(_SLICE):
                    break
                self._see_death(self._readable)
                self._complain()
                if given_up():
                    return False
            else:
                return True
            # From here on an exception may lose received bytes.
            self._is_loading = self._is_free = False
            while (frame := self._receive()) is None:
                if given_up():
                    return False
            if frame.call != 0 or frame.kind not in {Kind.READY, Kind.BROKEN}:
                raise BadFrameError(f"{frame.kind.name} before it had loaded the app")
        if frame.kind is Kind.BROKEN:
            exception = self._serializer.unpack_exception(frame.text, frame.data)
            raise RuntimeError(
                f"a worker process cannot load the app {self._app!r}: {exception}; what it loads"
                f" is what the setting DELAY_APP, or that of this Delay's name, says"
            ) from exception
        self._is_free = True
        return True

    def run(
        self,
        message: TaskMessage,
        data: bytes,
        *,
        stopped: Callable[[], bool],
        given_up: Callable[[], bool],
        progress: Callable[[Any, Any, str], object],
    ) -> Frame | None:
        """Run the task whose call is packed in `data` in the child; return the answer.

        Tells the task to stop when `stopped()`, and returns None when `given_up()`. Raises
        ProcessDied if the process ends meanwhile, or sends anything else.
        """
        self._is_free = False
        self._call += 1
        with self._dying():
            if not self._send(Frame(Kind.RUN, self._call, message.to_dict(), data), given_up):
                return None
            told = is_looking = False
            while not given_up():
                frame = self._receive()
                if frame is not None:
                    self._check(frame)
                    if frame.kind is Kind.STACK:
                        self._show(frame.text)
                        is_looking = False
                    elif frame.kind is not Kind.PROGRESS:
                        self._is_free = True
                        return frame
                    else:
                        done, total = frame.text
                        progress(done, total, frame.data.decode(errors="replace"))
                if self._looks and not is_looking:
                    is_looking = True
                    if not self._send(Frame(Kind.LOOK, self._call), given_up):
                        return None
                if not told and stopped():
                    told = True
                    if not self._send(Frame(Kind.STOP, self._call), given_up):
                        return None
        return None

    def stack(self, patience: float) -> list[str] | None:
        """Where the task of the child is; None if it does not say so within so many seconds.

        May be called by any thread.
        """
        look = _Look()
        self._looks.append(look)
        look.is_over.wait(patience)
        return look.frames

    def _show(self, frames: list[str] | None) -> None:
        """Answer the threads that look, as many as there are now."""
        for _ in range(len(self._looks)):
            look = self._looks.popleft()
            look.frames = frames
            look.is_over.set()

    def _check(self, frame: Frame) -> None:
        """Raise BadFrameError for a frame that does not belong to this call."""
        if frame.call != self._call:
            raise BadFrameError(
                f"a frame {frame.kind.name} of its call {frame.call}, in call {self._call}"
            )
        if frame.kind is Kind.PROGRESS:
            if isinstance(frame.text, list) and len(frame.text) == 2:  # noqa: PLR2004 (of, in all)
                return
        elif frame.kind is Kind.STACK:
            if isinstance(frame.text, list) and all(isinstance(it, str) for it in frame.text):
                return
        elif frame.kind in frames.ANSWERS:
            return
        raise BadFrameError(f"a frame {frame.kind.name} where an answer was due")

    @contextlib.contextmanager
    def _dying(self) -> Any:
        try:
            yield
        except TaskTimeout:
            # The exception is an OSError, but was raised here by another thread.
            raise
        except BadFrameError as error:
            # After an invalid frame no later bytes can be trusted.
            self._process.kill()
            raise ProcessDied(
                f"the worker process {self.pid} was ended, since it sent {error}: has a task used"
                f" a file descriptor that it has not opened?"
            ) from None
        except (EOFError, OSError):
            raise ProcessDied(self._last_words()) from None

    def _send(self, frame: Frame, given_up: Callable[[], bool]) -> bool:
        """Send the whole frame; False if `given_up()`."""
        with memoryview(frame.encode()) as left:
            sent = 0
            while sent < len(left):
                try:
                    sent += os.write(self._descriptor, left[sent : sent + frames.CHUNK])
                except BlockingIOError:
                    self._see_death(self._writable)
                    self._writable.poll(_SLICE)
                    if given_up():
                        return False
        return True

    def _receive(self) -> Frame | None:
        """The next frame, or None if none arrived within a slice."""
        frame = self._received.next()
        if frame is not None:
            return frame
        if not self._readable.poll(_SLICE):
            self._see_death(self._readable)
            return None
        try:
            received = os.read(self._descriptor, frames.CHUNK)
        except BlockingIOError:
            return None
        if not received:
            raise EOFError
        self._received.feed(received)
        return self._received.next()

    def _see_death(self, ready: select.poll) -> None:
        """Raise EOFError if the child has ended and has left nothing to read.

        Another process may keep the child's end of the connection open.
        """
        if self.is_over() and not ready.poll(0):
            raise EOFError

    def _complain(self) -> None:
        """Log once that the app takes long to load."""
        if time.monotonic() - self._began > _LONG:
            self._began = float("inf")
            _log.warning(
                "the worker process %s has not loaded the app %r after %d s; until it has, its"
                " task has not begun, and no timeout counts",
                self.pid,
                self._app,
                _LONG,
            )

    def _last_words(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE)
        code = self._process.returncode
        if code is None:
            how = "does not answer any more"
        elif code < 0:
            how = f"was killed by signal {-code}"
            if code == -9:  # noqa: PLR2004 (SIGKILL)
                how += ", as by the kernel when memory runs out"
        else:
            how = f"ended itself, with code {code}"
        return f"the worker process {self.pid} {how}"

    def is_free(self) -> bool:
        """Whether the child lives and holds no task: it has answered, or loads the app."""
        return self._is_free and not self.is_over()

    @property
    def calls(self) -> int:
        """How many tasks the child was given."""
        return self._call

    def is_fit(self) -> bool:
        """Whether the child is free and has sent nothing unexpected."""
        if not self.is_free():
            return False
        return self._is_loading or (self._received.is_empty() and not self._readable.poll(0))

    def end(self) -> None:
        """Tell the child to end when all tasks submitted inside it are done; see `wait`."""
        if self._is_loading:
            # The child has done nothing yet, and may not read the message for long.
            self._process.kill()
            return
        with contextlib.suppress(EOFError, OSError):
            # The frame fits, since all that was sent has been read.
            self._send(Frame(Kind.END, 0), lambda: False)

    def wait(self, deadline: float | None) -> None:
        """Wait for the child's end; kill it at `deadline` on the monotonic clock."""
        left = None if deadline is None else max(deadline - time.monotonic(), 0)
        try:
            self._process.wait(left)
        except subprocess.TimeoutExpired:
            self.kill()
        self._close()

    def reap_later(self) -> None:
        """Reap the child in a thread after its end, so that no zombie is left."""
        threading.Thread(target=self._process.wait, name="delay-reaper", daemon=True).start()

    def kill(self) -> None:
        """Kill the child at once."""
        self.strike()
        self._close()

    def strike(self) -> None:
        """Kill the child; the thread that waits for its answer does the rest."""
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE)

    def is_over(self) -> bool:
        """Whether the child has ended."""
        return self._process.poll() is not None

    def disown(self) -> None:
        """Leave the child to the parent of this forked process."""
        # Only the parent may wait for it, and the child must notice the parent's end.
        self._process.returncode = 0
        self._close()

    def _close(self) -> None:
        self._connection.close()
        self._lifeline.close()


def rss_of(process: int) -> int:
    """The bytes of memory that a process has in use; 0 if it is gone.

    Raises OSError where there is no /proc.
    """
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError):
        if process == os.getpid():
            raise
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _python() -> str:
    """The Python program: the one set for `multiprocessing`, or this process's program.

    In a server that embeds Python, such as uWSGI, it is the interpreter of its environment.
    """
    program = os.fsdecode(get_executable() or "")
    if "python" in Path(program).name.lower() or program != sys.executable:
        return program
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = Path(sys.exec_prefix, "bin")
    found = (folder / name for name in (f"python{version}", "python3", "python"))
    return str(next((path for path in found if path.exists()), program))
