"""The worker processes of one `Delay`, as this process has them."""

import threading
from collections.abc import Callable

from flask_delay._native import _generation
from flask_delay.backends.processes.child import Child


class Pool:
    """The worker processes of one process. No lock: each access is one step.

    An exception from outside may come between any two. Then a child may be dropped; it sees
    that, by its connection, and ends.
    """

    def __init__(self) -> None:
        self.generation = _generation()
        self._idle: list[Child] = []
        # By the thread that waits for its task.
        self._busy: dict[int, Child] = {}
        # They were asked to end.
        self._ending: list[Child] = []

    def __del__(self) -> None:
        # The app was dropped, and nobody had it shut down.
        while self._idle and self.generation == _generation():
            self._idle.pop().kill()

    def take(self, make: Callable[[], Child]) -> Child:
        """One that has nothing to do, for this thread; a new one, if there is none."""
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
        """This thread's child has nothing to do any more."""
        self._idle.append(self._busy.pop(threading.get_ident()))

    def kill(self) -> None:
        """End this thread's child, if it has one."""
        child = self._busy.pop(threading.get_ident(), None)
        if child is not None:
            child.kill()

    def strike(self) -> None:
        """End those that have a task still."""
        for child in list(self._busy.values()):
            child.strike()

    def end(self, *, wait: bool) -> None:
        """Have those end that have nothing to do; say whether `wait` is called for them."""
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
        """Wait for those that were asked to end; see `Child.wait`."""
        while self._ending:
            try:
                child = self._ending.pop()
            except IndexError:
                return
            child.wait(deadline)

    def disown(self) -> None:
        """They are another process's."""
        for child in [*self._idle, *self._busy.values(), *self._ending]:
            child.disown()

    def _reap(self) -> None:
        for child in list(self._ending):
            if child.is_over():
                self._ending.remove(child)
