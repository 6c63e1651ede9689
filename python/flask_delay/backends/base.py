"""What a backend is: where tasks run, if not on threads of this process.

They are packages of `flask_delay.backends`, above the extension; imported when the first task
is for them, and no earlier.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Protocol

from flask import Flask

from flask_delay._native import Executor, Future, _Policy
from flask_delay.config import Config

_PACKAGE = "flask_delay.backends"


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
    """What each package has as `Backend`; its methods may be called from any thread."""

    cannot: Mapping[str, str]
    """The options of `using` that it cannot do, and what to do instead."""

    executor: Executor | None
    """The pool of this process that its tasks are in, if they are not in the app's own."""

    @staticmethod
    def check(options: Mapping[str, object], /) -> None:
        """Raise ValueError for values of the other options that it cannot do."""

    def __init__(self, name: str, settings: Config, app: Flask) -> None:
        """Be the one of the `Delay` of this name on this app; starts nothing yet.

        Raises ValueError for settings that are missing, ImportError for a package that is.
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

    def drain(self, timeout: float | None) -> bool:
        """Wait until nothing is left to do; False if `timeout` seconds were not enough."""

    def shutdown(self, wait: bool, *, cancel_futures: bool) -> None:
        """Take no more tasks, as `Executor.shutdown`."""


def kind(name: str) -> type[Backend]:
    """The class of the backend of this name."""
    made: type[Backend] = import_module(f"{_PACKAGE}.{name}").Backend
    return made
