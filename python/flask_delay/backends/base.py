"""The interface of a backend, which runs tasks outside of this process's threads.

Each backend is a module that `table` finds, above the extension. The first task for a backend
imports it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Protocol, cast

from flask import Flask

from flask_delay._native import Executor, Future, _Policy
from flask_delay.backends import table
from flask_delay.config import Config
from flask_delay.observe.view import TaskView

Finding = tuple[Literal["ok", "note", "wrong"], str]
"""A line of `flask delay check`, without a full stop."""


class ProcessDied(RuntimeError):  # noqa: N818 (as QueueFull)
    """The worker process ended while it ran the task, for example for lack of memory.

    It is unknown how much of the task was done.
    """


NO_ITEMS = (
    "what it yields would stay in the process that runs it; leave it to threads with"
    ' backend="threads", or give a function that returns its items'
)
"""Why a backend takes no generator function, and what to do instead."""


class BrokerUnavailable(ConnectionError):  # noqa: N818 (as QueueFull)
    """The broker or the result store cannot be reached.

    A submit that raises it has not accepted the task. A `get` that raises it cannot tell whether
    there is one.
    """


class RemoteError(RuntimeError):
    """The task failed elsewhere, with an exception whose class this process has not imported.

    `kind` is the name of that class, such as "shop.errors.OutOfStock"; the message is the original
    one.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(kind, text)

    @property
    def kind(self) -> str:
        """The name of the class."""
        kind: str = self.args[0]
        return kind

    def __str__(self) -> str:
        return ": ".join(self.args)


class Backend(Protocol):
    """The base of the class `Backend` that each backend module has.

    Each `Delay` that uses the backend has one instance. The methods may be called from any thread.
    """

    cannot: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """The options of `using` that it cannot do, and what to do instead."""

    runs_durable: ClassVar[bool] = False
    """Whether its `executor` can run tasks of the journal, as child processes of this process."""

    executor: Executor | None = None
    """The pool of this process that its tasks are in, if they are not in the app's own.

    The methods below use it, where a backend does not say otherwise.
    """

    is_shared: ClassVar[bool] = False
    """Whether `find` and `view` know the tasks of other processes."""

    @staticmethod
    def check(options: Mapping[str, object], /) -> None:
        """Raise ValueError for values of the other options that this backend does not support."""

    def __init__(self, name: str, settings: Config, app: Flask) -> None:
        """Prepare the backend for the `Delay` of this name on this app; starts nothing yet.

        The backend's own settings are `settings.of(Settings)`. Raises ValueError for missing
        settings, ImportError for a missing package.
        """

    def submit(
        self,
        policy: _Policy | None,
        options: Mapping[str, object],
        fn: Callable[..., Any],
        /,
        *args: Any,
        **kwargs: Any,
    ) -> Future[Any]:
        """Run `fn(*args, **kwargs)` there. The future's `cancel` and `stop` reach it.

        `options` are the options of `using` as given; `policy` is their form for the native module.
        """
        if self.executor is None:
            raise NotImplementedError
        del options
        return self.executor._submit_with(policy, None, fn, *args, **kwargs)  # noqa: SLF001

    def find(self, id: str) -> Future[Any] | None:
        """A future of the task with this id, whichever process has submitted it; None if unknown.

        Its `cancel` and `stop` reach the task. Its end sends no signal, is not counted, and runs no
        default callbacks. Raises BrokerUnavailable.
        """
        raise NotImplementedError

    def view(self, id: str) -> TaskView | None:
        """The state of the task that `find` would find. Raises BrokerUnavailable."""
        raise NotImplementedError

    def step(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """The function by which `executor` runs `fn` there."""
        return fn

    def stack(self, future: Future[Any], /) -> list[str]:
        """The frames of a task of `executor` that runs there, as text, outermost first.

        Waits only briefly. Raises LookupError that says why there are none.
        """
        del future
        raise LookupError("it runs outside of this process, which is not asked")

    def drain(self, timeout: float | None) -> bool:
        """Wait until no task is left; False if `timeout` seconds were not enough."""
        return self.executor is None or self.executor.drain(timeout)

    def shutdown(self, wait: bool, *, cancel_futures: bool) -> None:
        """Accept no more tasks, as `Executor.shutdown`."""
        if self.executor is not None:
            self.executor.shutdown(wait, cancel_futures=cancel_futures)

    def diagnose(self) -> Iterator[Finding]:
        """Check whether tasks would be delivered and run, for `flask delay check`."""
        return iter(())

    def work(self, arguments: Sequence[str]) -> None:
        """Run as a worker for this backend's tasks, for `flask delay worker ARGUMENTS`.

        Returns when the worker is told to end. Raises NotImplementedError if the backend has no
        workers that are started by a command.
        """
        raise NotImplementedError


def kind(name: str) -> type[Backend]:
    """The class of the backend of this name. Raises as `table.kind`."""
    return cast("type[Backend]", table.kind(name))
