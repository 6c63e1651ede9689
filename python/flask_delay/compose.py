"""`gather` and `chain`, which make tasks of other tasks. `then` is a method of the future."""

from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar, overload

from flask_delay import state
from flask_delay._native import Executor, Future, _check_step, _gather
from flask_delay.journal.store import Step, Submit
from flask_delay.options import NONE
from flask_delay.submit import call_of, submitting
from flask_delay.tasks import PeriodicTask, Task

_P = ParamSpec("_P")
_T = TypeVar("_T")
_A = TypeVar("_A")
_B = TypeVar("_B")
_C = TypeVar("_C")
_D = TypeVar("_D")
_E = TypeVar("_E")


# Results of different types are a list too. Type checkers see a tuple, as with asyncio's gather, so
# that each result has its own type when they are unpacked.
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

    The first future that fails or is cancelled ends it at once, with the same exception; the others
    continue. With `return_exceptions` it waits for all, and the list contains exceptions,
    CancelledError included. It holds no worker and takes no place in a queue. Cancelling it does
    not affect the others.

    The futures may belong to several executors; the new one belongs to the executor of the first.
    Without futures, it belongs to the current app's executor and is done at once. May be called
    from any thread. Raises TypeError for an argument that is not a future of this package;
    ValueError for a future that was made by hand; RuntimeError after the executor's `shutdown`;
    ForkedFutureError for an unfinished future of the process from which this process was forked.
    """
    executor = None if futures else _executor()
    return _gather(gather, executor, futures, return_exceptions)


def _executor() -> Executor:
    found = state.meant_state()
    return state.shared_executor() if found is None else found.executor


class Chain(Generic[_P]):
    """A sequence of functions; each is called with the result of the one before.

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
        """Run the first function with the arguments, then the others; return the last future.

        Runs in the current app, as `delay` and `Future.then`; if the first function is a `Task`, as
        its own `delay`. Raises as those; if a later step raises, the first task is cancelled unless
        it has started. If the first function is durable, so must be the others: they are accepted
        in one commit, or none of them.
        """
        given = call_of(self._first, args, kwargs)
        submit, first = submitting(state.find, NONE, given[0])
        if isinstance(submit, Submit):
            return submit.chain(first, *given[1:], map(_step, self._rest))
        future: Future[Any] = submit(first, *given[1], **given[2])
        last = future
        try:
            for step in self._rest:
                last = last.then(step)
        except BaseException:
            # This also cancels the tasks that follow it.
            future.cancel()
            raise
        return last


def _step(fn: Callable[..., Any]) -> Step:
    """A step for the journal."""
    task, args, kwargs = call_of(fn, (), {})
    if isinstance(task, Task):
        return task._chosen, task.__wrapped__, args, kwargs  # noqa: SLF001
    return NONE, fn, (), {}


def chain(first: Callable[_P, object], /, *rest: Callable[[Any], object]) -> Chain[_P]:
    """Make an object that runs functions in order: `chain(fetch, parse, store).delay(url)`.

    That is `delay(fetch, url).then(parse).then(store)`. Each is a function, or a `Task`, which runs
    with its options. Raises TypeError for objects that cannot be called; ValueError for a `Task`
    after the first whose `key` or `unique` depends on its argument.
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
