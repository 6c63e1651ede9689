"""The worker processes of one `Delay` in this process."""

import contextlib
import threading
from collections.abc import Callable

from flask_delay._native import _generation
from flask_delay.backends.processes.child import Child


class Pool:
    """The worker processes of one process. No lock: each access is atomic.

    An exception from another thread may arrive between two accesses. Then a child may be dropped;
    it notices the closed connection, and ends.
    """

    def __init__(self) -> None:
        self.generation = _generation()
        self._idle: list[Child] = []
        # By the id of the thread that waits for the child's task.
        self._busy: dict[int, Child] = {}
        # Children that were told to end.
        self._ending: list[Child] = []

    def __del__(self) -> None:
        # The app was dropped without a shutdown.
        while self._idle and self.generation == _generation():
            self._idle.pop().kill()

    def take(self, make: Callable[[], Child]) -> Child:
        """Take an idle child for this thread, or make a new one."""
        self._reap()
        thread = threading.get_ident()
        while self._idle:
            try:
                self._busy[thread] = child = self._idle.pop()
            except IndexError:
                break
            if child.is_fit():
                return child
            self.kill()
        self._busy[thread] = child = make()
        return child

    def give_back(self) -> None:
        """This thread's child is idle again."""
        self._idle.append(self._busy.pop(threading.get_ident()))

    def retire(self) -> None:
        """Tell this thread's child to end; the next task gets another one."""
        child = self._busy.pop(threading.get_ident())
        child.end()
        self._ending.append(child)
        # At the end of the process no thread starts any more; `wait` reaps it then.
        with contextlib.suppress(RuntimeError):
            child.reap_later()

    def kill(self) -> None:
        """Kill this thread's child, if it has one."""
        child = self._busy.pop(threading.get_ident(), None)
        if child is not None:
            child.kill()

    def strike(self) -> None:
        """Kill the children that still have a task."""
        for child in list(self._busy.values()):
            child.strike()

    def end(self, *, wait: bool) -> None:
        """Tell idle children to end; `wait` says whether `Pool.wait` will be called."""
        while self._idle:
            try:
                child = self._idle.pop()
            except IndexError:
                return
            child.end()
            self._ending.append(child)
            if not wait:
                child.reap_later()

    def wait(self, deadline: float | None) -> None:
        """Wait for the children that were told to end; see `Child.wait`."""
        while self._ending:
            try:
                child = self._ending.pop()
            except IndexError:
                return
            child.wait(deadline)

    def disown(self) -> None:
        """Leave the children to the parent of this forked process."""
        for child in [*self._idle, *self._busy.values(), *self._ending]:
            child.disown()

    def _reap(self) -> None:
        for child in list(self._ending):
            if child.is_over():
                self._ending.remove(child)
