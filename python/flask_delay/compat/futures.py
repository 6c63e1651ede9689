"""Flask-Executor's futures: a future whose callbacks see the request, and a collection."""

from collections.abc import Callable, Generator, Hashable, Iterator
from concurrent import futures
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

from flask_delay import Future, context
from flask_delay._native import _check_callback

_T = TypeVar("_T")


class FutureProxy(futures.Future[_T]):
    """A task's future, with callbacks that see the request in which they were added.

    Equal to the `flask_delay.Future` below it, and with the same attributes (`id`, `name`,
    `progress`, ...). Every method may be called from any thread.
    """

    # No super().__init__(): the state is that of the wrapped future.
    def __init__(self, future: Future[_T]) -> None:
        """Made by `Executor.submit`."""
        self._self = future

    def __repr__(self) -> str:
        return f"<{type(self).__name__}( {self._self!r} )>"

    def __eq__(self, other: object) -> bool:
        return bool(self._self == (other._self if isinstance(other, FutureProxy) else other))

    def __hash__(self) -> int:
        return hash(self._self)

    def __getattr__(self, name: str) -> Any:
        # Missing only in a copy or an unpickled object, for which `__init__` did not run.
        if name == "_self":
            raise AttributeError(name)
        return getattr(self._self, name)

    def __await__(self) -> Generator[Any, None, _T]:
        return self._self.__await__()

    def add_done_callback(self, fn: Callable[[futures.Future[_T]], object]) -> None:
        """Call `fn(future)` when the task is done, on its worker, in the order added.

        If this is called in a request, `fn` sees a snapshot of that request; it always has an app
        context. If the task is done already, `fn` runs at once in the calling thread. An exception
        from `fn` is logged. Raises TypeError if `fn` is not callable, or is a coroutine function,
        which nothing would await.
        """
        _check_callback(fn)
        self._self.add_done_callback(_Callback(self, fn))

    def cancel(self) -> bool:
        """Cancel the task if it has not started, or is a coroutine."""
        return self._self.cancel()

    def cancelled(self) -> bool:
        """Whether the task was cancelled."""
        return self._self.cancelled()

    def running(self) -> bool:
        """Whether the task is running."""
        return self._self.running()

    def done(self) -> bool:
        """Whether the task has ended, cancelled tasks included."""
        return self._self.done()

    def result(self, timeout: float | None = None) -> _T:
        """The task's result; waits and raises as `flask_delay.Future.result`."""
        return self._self.result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The task's exception, or None; waits and raises as `result`."""
        return self._self.exception(timeout)

    def set_running_or_notify_cancel(self) -> bool:
        """For executors only."""
        return self._self.set_running_or_notify_cancel()

    def set_result(self, result: _T) -> None:
        """For executors only."""
        self._self.set_result(result)

    def set_exception(self, exception: BaseException | None) -> None:
        """For executors only."""
        self._self.set_exception(exception)


class _Callback:
    """A done callback, with the request in which it was added."""

    __slots__ = ("_fn", "_future", "_request")

    def __init__(self, future: FutureProxy[Any], fn: Callable[[Any], object]) -> None:
        self._fn = fn
        self._future = future
        self._request: Callable[[], AbstractContextManager[object]] | None = None
        if context.in_request():
            self._request = context.snapshot(context.current())

    def __repr__(self) -> str:
        # The log shows this if the callback raises.
        return repr(self._fn)

    def __call__(self, _future: Future[Any]) -> None:
        if self._request is None:
            self._fn(self._future)
            return
        with self._request():
            self._fn(self._future)


class FutureCollection:
    """Futures by key. Attributes of a future are available here, with the key as first argument.

    `futures.done(key)`, `futures.result(key, timeout)`, `futures.progress(key)` and so on return
    None for an unknown key, and raise AttributeError if a future has no such attribute. Every
    method may be called from any thread.
    """

    def __init__(self, max_length: int | None = 50) -> None:
        """Make an empty collection.

        When it has more than `max_length` futures (None: no limit), the oldest done ones are
        dropped. Futures that are not done always stay.
        """
        self.max_length = max_length
        # No lock, which a fork in another thread could leave locked: each access to these is
        # atomic.
        self._futures: dict[Hashable, futures.Future[Any]] = {}
        self._reserved: dict[Hashable, object] = {}

    def __contains__(self, future: object) -> bool:
        return future in self._futures.copy().values()

    def __len__(self) -> int:
        return len(self._futures)

    def __repr__(self) -> str:
        return f"<FutureCollection of {len(self)}>"

    def __getattr__(self, name: str) -> Callable[..., Any]:
        # Python looks for these when it copies or pickles the object.
        if name.startswith("__"):
            raise AttributeError(name)

        def of_future(future_key: Hashable, *args: Any, **kwargs: Any) -> Any:
            future = self._futures.get(future_key)
            if future is None:
                return None
            attribute = getattr(future, name)
            return attribute(*args, **kwargs) if callable(attribute) else attribute

        return of_future

    def add(self, future_key: Hashable, future: futures.Future[Any]) -> None:
        """Keep `future` under `future_key`. Raises ValueError if the key is in use."""
        with self.reserved(future_key) as store:
            store(future)

    def pop(self, future_key: Hashable) -> futures.Future[Any] | None:
        """Remove the future of this key and return it, or None if there is none."""
        return self._futures.pop(future_key, None)

    @contextmanager
    def reserved(self, future_key: Hashable) -> Iterator[Callable[[futures.Future[Any]], None]]:
        """Reserve the key for a future that is yet to be made; yields a function that stores it."""
        mine = object()
        if self._reserved.setdefault(future_key, mine) is not mine:
            raise _exists(future_key)
        try:
            # After the reservation: an earlier holder of the key has stored its future by now.
            if future_key in self._futures:
                raise _exists(future_key)

            def store(future: futures.Future[Any]) -> None:
                self._futures[future_key] = future
                self._drop_oldest(but=future_key)

            yield store
        finally:
            del self._reserved[future_key]

    def _drop_oldest(self, but: Hashable) -> None:
        if self.max_length is None:
            return
        surplus = len(self._futures) - self.max_length
        if surplus <= 0:
            return
        for key, future in self._futures.copy().items():
            if surplus <= 0:
                break
            if key != but and future.done() and self._futures.pop(key, None) is not None:
                surplus -= 1


def _exists(future_key: Hashable) -> ValueError:
    return ValueError(
        f"future_key {future_key!r} already exists; take that future out with"
        f" futures.pop({future_key!r}), or use another key"
    )
