"""One worker process, as its parent has it. What runs in there is in the module `inside`.

It is started with `subprocess`, which executes a new Python at once, so it shares no lock, no
thread and no memory with the server that asked for it, and does not import its `__main__`.
"""

import contextlib
import os
import pickle
import select
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from multiprocessing.spawn import get_executable
from pathlib import Path
from typing import Any

from flask_delay import greenlets
from flask_delay._native import TaskTimeout
from flask_delay.backends.processes import parcels
from flask_delay.elsewhere import ProcessDied

greenlets.refuse_processes()

# An exception from another thread, as that of `timeout`, arrives between two steps of Python
# code: so long a step takes at most.
_SLICE = 20  # milliseconds
# A process that was killed is gone at once, unless it is in the kernel's hands.
_GRACE = 5.0

_COMMAND = """\
import sys
sys.path[:] = {path!r}
from flask_delay.backends.processes.inside import main
main({connection}, {app!r}, {name!r})
"""


class Child:
    """A worker process. For one thread at a time."""

    def __init__(self, app: str, name: str) -> None:
        """Start it; `app` is what it loads, written as FLASK_APP."""
        # It may have come since the module was loaded.
        greenlets.refuse_processes()
        here, there = Pipe()
        with there:
            command = _COMMAND.format(path=sys.path, connection=there.fileno(), app=app, name=name)
            self._process = subprocess.Popen(  # noqa: S603 (our own code)
                [_python(), "-c", command],
                pass_fds=[there.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._connection: Connection[Any, Any] = here
        # Made once: the connection's own `poll` makes one for each call.
        self._readable = select.poll()
        self._readable.register(here.fileno(), select.POLLIN)
        self._app = app
        self._is_ready = False

    @property
    def pid(self) -> int:
        """Its id."""
        return self._process.pid

    def run(
        self,
        call: tuple[Any, ...],
        *,
        stopped: Callable[[], bool],
        given_up: Callable[[], bool],
        progress: Callable[[Any, Any, str], object],
    ) -> tuple[Any, ...]:
        """Have the call run there; return what has become of it.

        Tells the task to stop when `stopped()`, and returns `("cancelled",)` when nobody
        waits for it any more. Raises ProcessDied if the process ends meanwhile, RuntimeError
        if it cannot load the app.
        """
        try:
            if not self._await_app(given_up):
                return ("cancelled",)
            self._send("run", *call)
            told = False
            while True:
                message = self._receive()
                if message is not None:
                    if message[0] != "progress":
                        return message
                    progress(*message[1:])
                if not told and stopped():
                    told = True
                    self._send("stop")
                if given_up():
                    return ("cancelled",)
        except TaskTimeout:
            # An OSError, for all that; it is raised here from outside.
            raise
        except (EOFError, OSError):
            raise ProcessDied(self._last_words()) from None

    def _await_app(self, given_up: Callable[[], bool]) -> bool:
        if self._is_ready:
            return True
        while (message := self._receive()) is None:
            if given_up():
                return False
        if message[0] == "broken":
            exception = parcels.unpack_exception(message[1])
            raise RuntimeError(
                f"a worker process cannot load the app {self._app!r}: {exception}; what it loads"
                f" is what the setting DELAY_APP, or that of this Delay's name, says"
            ) from exception
        self._is_ready = True
        return True

    def _send(self, *message: Any) -> None:
        self._connection.send_bytes(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))

    def _receive(self) -> tuple[Any, ...] | None:
        """The next message, or None if there is none for a while."""
        if not self._readable.poll(_SLICE):
            # What it has started itself may keep its end of the connection open.
            if self.is_over() and not self._readable.poll(0):
                raise EOFError
            return None
        message: tuple[Any, ...] = pickle.loads(self._connection.recv_bytes())  # noqa: S301
        return message

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

    def end(self) -> None:
        """Have it end when all that its task has submitted there is done; see `wait`."""
        with contextlib.suppress(OSError):
            self._send("end")

    def wait(self, deadline: float | None) -> None:
        """Wait until it has ended; at `deadline`, by the monotonic clock, it is killed."""
        left = None if deadline is None else max(deadline - time.monotonic(), 0)
        try:
            self._process.wait(left)
        except subprocess.TimeoutExpired:
            self.kill()
        self._connection.close()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE)
        self._connection.close()

    def strike(self) -> None:
        """Have it killed, whoever waits for its answer: that one sees to the rest."""
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE)

    def is_over(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    def disown(self) -> None:
        """It is another process's: that of which this one was forked."""
        # Nobody here may wait for it, and it must see when its own parent is gone.
        self._process.returncode = 0
        self._connection.close()


def _python() -> str:
    """What executes Python: what `multiprocessing` was told, or this process's program.

    Where that is a server that Python is embedded in, as uWSGI is, the interpreter of its
    environment.
    """
    program = os.fsdecode(get_executable() or "")
    if "python" in Path(program).name.lower() or program != sys.executable:
        return program
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = Path(sys.exec_prefix, "bin")
    found = (folder / name for name in (f"python{version}", "python3", "python"))
    return str(next((path for path in found if path.exists()), program))
