"""Werkzeug's reloader: two processes, of which the one that serves has the tasks.

At SIGTERM the other one, which only watches, would kill it on the spot. So it is made to pass
the signal on, and to wait.
"""

import os
import signal
from types import FrameType, ModuleType
from typing import Any


def pass_sigterm_on() -> None:
    """Let the process that serves end its tasks, should Werkzeug's reloader start one.

    Does nothing in that process itself, nor if the reloader is not what is known here; then
    SIGTERM does what it does without this.
    """
    if os.environ.get("WERKZEUG_RUN_MAIN") == "true":
        return
    # What the reloader starts processes with. Imported here: under a server that handles
    # SIGTERM itself, none of this is needed.
    import subprocess  # noqa: PLC0415

    from werkzeug import _reloader  # noqa: PLC0415

    if getattr(_reloader, "subprocess", None) is subprocess:
        replaced = ModuleType("subprocess")
        replaced.__dict__.update(vars(subprocess), call=_call)
        vars(_reloader)["subprocess"] = replaced


def _call(*arguments: Any, **options: Any) -> int:
    """`subprocess.call`, but for SIGTERM, which the child gets and is waited for."""
    import subprocess  # noqa: PLC0415

    child: subprocess.Popen[bytes] | None = None
    told = False

    def tell(signum: int, _: FrameType | None) -> None:
        nonlocal told
        told = True
        if child is not None:
            child.send_signal(signum)

    before = signal.signal(signal.SIGTERM, tell)
    try:
        # What the reloader gives: the very command that runs here.
        with subprocess.Popen(*arguments, **options) as child:  # noqa: S603
            try:
                if told:
                    child.terminate()
                return child.wait()
            except BaseException:
                child.kill()
                raise
    finally:
        signal.signal(signal.SIGTERM, before)
