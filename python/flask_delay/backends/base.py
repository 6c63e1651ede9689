"""What a backend is: where tasks run, if not on threads of this process.

Each is a module that `table` finds, above the extension; imported when the first task is for it,
and no earlier.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Protocol, cast

from flask import Flask

from flask_delay._native import Executor, Future, _Policy
from flask_delay.backends import table
from flask_delay.config import Config

Finding = tuple[Literal["ok", "note", "wrong"], str]
"""A line of `flask delay check`, without a full stop."""


class ProcessDied(RuntimeError):  # noqa: N818 (as QueueFull)
    """The worker process ended while it ran the task: killed, for want of memory perhaps.

    How far the task has come is not known.
    """


class BrokerUnavailable(ConnectionError):  # noqa: N818 (as QueueFull)
    """The task was not accepted: what carries tasks and their results cannot be reached."""


class RemoteError(RuntimeError):
    """The task failed elsewhere, with an exception whose class this process has not imported.

    `kind` is the name of that class, such as "shop.errors.OutOfStock", and the message is its
    own.
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
    """What the module of a backend has as `Backend`: a subclass of this.

    There is one for each `Delay` that uses it. The methods may be called from any thread.
    """

    cannot: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """The options of `using` that it cannot do, and what to do instead."""

    executor: Executor | None = None
    """The pool of this process that its tasks are in, if they are not in the app's own.

    The methods below use it, where a backend does not say otherwise.
    """

    @staticmethod
    def check(options: Mapping[str, object], /) -> None:
        """Raise ValueError for values of the other options that it cannot do."""

    def __init__(self, name: str, settings: Config, app: Flask) -> None:
        """Be the one of the `Delay` of this name on this app; starts nothing yet.

        Its own settings are `settings.of(Settings)`. Raises ValueError for settings that are
        missing, ImportError for a package that is.
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
        """Have `fn(*args, **kwargs)` run there. The future's `cancel` and `stop` reach it.

        `options` are those of `using`, as they were given, and `policy` is what they come to
        for the native module.
        """
        if self.executor is None:
            raise NotImplementedError
        del options
        return self.executor._submit_with(policy, None, fn, *args, **kwargs)  # noqa: SLF001

    def drain(self, timeout: float | None) -> bool:
        """Wait until nothing is left to do; False if `timeout` seconds were not enough."""
        return self.executor is None or self.executor.drain(timeout)

    def shutdown(self, wait: bool, *, cancel_futures: bool) -> None:
        """Take no more tasks, as `Executor.shutdown`."""
        if self.executor is not None:
            self.executor.shutdown(wait, cancel_futures=cancel_futures)

    def diagnose(self) -> Iterator[Finding]:
        """Look whether a task would be carried and run, for `flask delay check`."""
        return iter(())

    def work(self, arguments: Sequence[str]) -> None:
        """Be a worker for its tasks until told to end, for `flask delay worker ARGUMENTS`.

        Raises NotImplementedError if it has no workers that are started so.
        """
        raise NotImplementedError


def kind(name: str) -> type[Backend]:
    """The class of the backend of this name. Raises as `table.kind`."""
    return cast("type[Backend]", table.kind(name))
