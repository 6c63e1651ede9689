"""Werkzeug's reloader: two processes, of which the serving one has the tasks.

At SIGTERM the watching process would kill the serving one at once. This module makes it pass the
signal on, and wait. It also notes when a process begins to watch: it has loaded the app by then.
"""

import os
import signal
from collections.abc import Callable
from types import FrameType, ModuleType
from typing import Any


class _Watch:
    """What this process does when it watches the serving one."""

    # Functions that are called first.
    before: list[Callable[[], object]] = []  # noqa: RUF012 (of the process)
    passes_sigterm = False


def pass_sigterm_on() -> None:
    """Let the serving process end its tasks, if Werkzeug's reloader starts one.

    Does nothing in the serving process itself, or if the reloader is not of a known form; then
    SIGTERM has its usual effect.
    """
    _Watch.passes_sigterm = True
    _replace_call()


def before_watching(call: Callable[[], object]) -> None:
    """Have `call()` called if this process starts the one that serves, and only watches from then.

    That is never so if the reloader is not of a known form.
    """
    if call not in _Watch.before:
        _Watch.before.append(call)
    _replace_call()


def _replace_call() -> None:
    if os.environ.get("WERKZEUG_RUN_MAIN") == "true":
        return
    # The reloader starts processes with this. Imported here: not needed under a server that handles
    # SIGTERM itself.
    import subprocess  # noqa: PLC0415

    from werkzeug import _reloader  # noqa: PLC0415

    if getattr(_reloader, "subprocess", None) is subprocess:
        replaced = ModuleType("subprocess")
        replaced.__dict__.update(vars(subprocess), call=_call)
        vars(_reloader)["subprocess"] = replaced


def _call(*arguments: Any, **options: Any) -> int:
    """`subprocess.call` that passes SIGTERM on to the child and waits for it."""
    import subprocess  # noqa: PLC0415

    for call in _Watch.before:
        call()
    if not _Watch.passes_sigterm:
        return subprocess.call(*arguments, **options)  # noqa: S603
    child: subprocess.Popen[bytes] | None = None
    told = False

    def tell(signum: int, _: FrameType | None) -> None:
        nonlocal told
        told = True
        if child is not None:
            child.send_signal(signum)

    before = signal.signal(signal.SIGTERM, tell)
    try:
        # The command of the reloader: the same one that runs here.
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
