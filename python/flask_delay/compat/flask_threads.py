"""Flask-Threads' interface on our threads: change the import, keep the rest.

    from flask_delay.compat.flask_threads import AppContextThread, ThreadPoolWithAppContextExecutor

replaces `from flaskthreads import ...`. Threads share `g` with the code that made them.
Flask-Threads is there for that, which is dangerous once the request is over: docs/migration.md says
when.
"""

import contextvars
import threading
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping
from typing import Any, ParamSpec, TypeVar, overload

from flask_delay import Executor, Future, context, state

__all__ = ["AppContextThread", "ThreadPoolWithAppContextExecutor"]

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _scope() -> Any:
    app = state.app_or_none()
    if app is None:
        raise RuntimeError(
            "there is no app context to run in: make this in a view, or in a block of"
            " `with app.app_context():`"
        )
    return context.lent(app, live=True)


class AppContextThread(threading.Thread):
    """A thread in an app context of the app that is current where it is made, with its `g`.

    Takes the arguments of `threading.Thread`. The interpreter waits for it at exit, unless it is a
    daemon, as for any thread.
    """

    def __init__(
        self,
        group: None = None,
        target: Callable[..., object] | None = None,
        name: str | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        daemon: bool | None = None,
    ) -> None:
        """Make a thread, which `start` starts. Raises RuntimeError without an app context."""
        super().__init__(group, target, name, args, kwargs, daemon=daemon)
        self._scope = _scope()

    def run(self) -> None:
        """Call the target in the app context."""
        with self._scope():
            super().run()


class ThreadPoolWithAppContextExecutor(Executor):
    """An `Executor` whose tasks have an app context of the app that is current where it is made.

    All of them share the `g` of that place. Every method may be called from any thread.
    """

    def __init__(self, max_workers: int | None = None, thread_name_prefix: str = "") -> None:
        """As `Executor`. Raises RuntimeError without an app context."""
        self._scope = _scope()
        super().__init__(max_workers, thread_name_prefix)

    @overload
    def submit(
        self,
        fn: Callable[_P, Coroutine[Any, Any, _T] | Generator[Any, Any, _T]],
        /,
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> Future[_T]: ...

    @overload
    def submit(
        self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> Future[_T]: ...

    def submit(self, fn: Callable[_P, Any], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[Any]:
        """Run `fn(*args, **kwargs)` in the app context. Raises as `Executor.submit`."""
        # As a new thread, it has no context variables: the caller's request is one of them.
        submit = contextvars.Context().run
        return submit(self._submit_with, None, self._scope, fn, *args, **kwargs)
