"""Tasks made of others: `gather` and `chain`. The third way, `then`, is the future's own."""

from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar, overload

from flask_delay import state
from flask_delay._native import Executor, Future, _check_step, _gather
from flask_delay.options import NONE
from flask_delay.submit import submitting
from flask_delay.tasks import PeriodicTask, Task

_P = ParamSpec("_P")
_T = TypeVar("_T")
_A = TypeVar("_A")
_B = TypeVar("_B")
_C = TypeVar("_C")
_D = TypeVar("_D")
_E = TypeVar("_E")


# Results of different types are a list too. To type checkers they are a tuple, as with
# asyncio's gather, so that each has its own when they are unpacked.
@overload
def gather(*futures: Future[_T]) -> Future[list[_T]]: ...


@overload
def gather(one: Future[_A], two: Future[_B], /) -> Future[tuple[_A, _B]]: ...


@overload
def gather(one: Future[_A], two: Future[_B], three: Future[_C], /) -> Future[tuple[_A, _B, _C]]: ...


@overload
def gather(
    one: Future[_A], two: Future[_B], three: Future[_C], four: Future[_D], /
) -> Future[tuple[_A, _B, _C, _D]]: ...


@overload
def gather(
    one: Future[_A], two: Future[_B], three: Future[_C], four: Future[_D], five: Future[_E], /
) -> Future[tuple[_A, _B, _C, _D, _E]]: ...


@overload
def gather(*futures: Future[Any], return_exceptions: bool = False) -> Future[list[Any]]: ...


def gather(*futures: Future[Any], return_exceptions: bool = False) -> Future[Any]:
    """Return a future of the list of the futures' results, in their order.

    The first of them that fails or is cancelled ends it at once, with the same exception; the
    others go on. With `return_exceptions` it waits for all, and exceptions stand in the list,
    CancelledError too. It holds no worker and takes no place in a queue. To cancel it leaves
    the others alone.

    They may be of several executors; it is one of the first one's, and of the current app's if
    there are none, when it is done at once. May be called from any thread. Raises TypeError
    for what is no future of this package; ValueError for one that was made by hand;
    RuntimeError after the executor's `shutdown`; ForkedFutureError for one that is not done
    and of the process that this one was forked from.
    """
    executor = None if futures else _executor()
    return _gather(gather, executor, futures, return_exceptions)


def _executor() -> Executor:
    found = state.meant_state()
    return state.shared_executor() if found is None else found.executor


class Chain(Generic[_P]):
    """Functions that are called one after the other, each with what the one before returned.

    Made by `chain`. May be used any number of times, from any thread.
    """

    __slots__ = ("_first", "_rest")

    def __init__(
        self, first: Callable[_P, object], rest: tuple[Callable[[Any], object], ...]
    ) -> None:
        self._first = first
        self._rest = rest

    def __repr__(self) -> str:
        return f"chain({', '.join(map(repr, (self._first, *self._rest)))})"

    def delay(self, *args: _P.args, **kwargs: _P.kwargs) -> Future[Any]:
        """Run the first function with the arguments, then the others; the last one's future.

        In the current app, as `delay` and `Future.then`; if the first is a `Task`, where that
        is run. Raises as those, and cancels the first one then if it has not started.
        """
        submit, first = submitting(state.find, NONE, self._first)
        future: Future[Any] = submit(first, *args, **kwargs)
        last = future
        try:
            for step in self._rest:
                last = last.then(step)
        except BaseException:
            # And those that follow it, with it.
            future.cancel()
            raise
        return last


def chain(first: Callable[_P, object], /, *rest: Callable[[Any], object]) -> Chain[_P]:
    """What runs functions one after the other: `chain(fetch, parse, store).delay(url)`.

    That is `delay(fetch, url).then(parse).then(store)`. Each is a function or a `Task`, which
    is run with its options. Raises TypeError for what cannot be called and for generator
    functions; ValueError for a `Task`, but for the first, whose `key` or `unique` goes by its
    argument.
    """
    if isinstance(first, PeriodicTask):
        first._check_step()  # noqa: SLF001
    _check_step(None, first, is_first=True)
    for step in rest:
        if isinstance(step, Task | PeriodicTask):
            step._check_step()  # noqa: SLF001
        else:
            _check_step(None, step)
    return Chain(first, rest)
