"""`using`: the methods `delay` and `map` with options."""

import functools
from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator
from typing import Any, ParamSpec, Protocol, TypeVar, Unpack, overload

from flask_delay import state
from flask_delay._native import Future
from flask_delay.mapping import map_with
from flask_delay.options import AllOptions, Chosen, Options
from flask_delay.periodic.job import Job

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Find(Protocol):
    """Finds, at the moment of a submit, the function that submits; it returns a future or a job."""

    def __call__(
        self, chosen: Chosen, future: Future[Any] | None = None, on: str = "success", /
    ) -> Callable[..., Any]:
        """The function that submits with these options or, with a future, adds a follower to it."""


class Decorated:
    """The base of the results of `task`: the function, its options and its `Delay`."""

    __wrapped__: Callable[..., Any]
    _find: Find
    _chosen: Chosen

    def _begins(self) -> None:
        """Called before the function is submitted, or becomes a job."""


OPTIONED = (Decorated, functools.partial)
"""What may have options of its own. Nothing else has to be given to `submitting`."""


def submitting(
    find: Find, chosen: Chosen, fn: Any, *, many: bool = False
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The function that submits `fn` with these options, and the object to pass to it for `fn`.

    For a `Task`, or a partial of one, its own options are the defaults. `find` decides where it is
    submitted. `state.find` stands for no particular Delay, so there the task's own `find` decides.
    Raises as both, and ValueError if `many` tasks are not possible.
    """
    kind = type(fn)
    if issubclass(kind, Decorated):
        task: Decorated = fn
        if find is state.find:
            find = task._find
        chosen = chosen.above(task._chosen)  # noqa: SLF001
        fn = task.__wrapped__
        task._begins()  # noqa: SLF001
    elif kind is functools.partial and issubclass(type(fn.func), Decorated):
        return _submitting_partial(find, chosen, fn, many=many)
    if many:
        refuse_many(chosen)
    return find(chosen), fn


def _submitting_partial(
    find: Find, chosen: Chosen, fn: Any, *, many: bool
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    submit, inner = submitting(find, chosen, fn.func, many=many)
    # As the partial would, so that `key` and `unique` depend on all arguments.
    filled = functools.partial(_given, *fn.args, **fn.keywords)

    def submit_filled(inner: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = filled(*args, **kwargs)
        return submit(inner, *args, **kwargs)

    return submit_filled, inner


def call_of(
    fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """The `Task` of a partial of one, with all arguments; anything else as it is."""
    if type(fn) is functools.partial and issubclass(type(fn.func), Decorated):
        return fn.func, *functools.partial(_given, *fn.args, **fn.keywords)(*args, **kwargs)
    return fn, args, kwargs


def _given(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs


def refuse_many(chosen: Chosen) -> None:
    """Raise ValueError for options that `map` does not allow."""
    for name in ("id", "once", "debounce", "every", "cron"):
        if name in chosen.given:
            value: object = chosen.given[name]
            raise ValueError(
                f"the option {name!r} is {value!r}, which is for one call of delay(), but map()"
                f" submits many tasks"
            )


class Mapper:
    """The base of classes with `map`: `Delay`, `Using`, Flask-Executor's interface."""

    __slots__ = ()

    def _submitting(
        self, fn: Any, *, many: bool = False
    ) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """As `submitting`, for this object."""
        raise NotImplementedError

    @overload
    def map(
        self,
        fn: Callable[..., Coroutine[Any, Any, _T] | Generator[Any, Any, _T]],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
    ) -> Iterator[_T]: ...

    @overload
    def map(
        self,
        fn: Callable[..., _T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
    ) -> Iterator[_T]: ...

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
    ) -> Iterator[Any]:
        """Run `fn` for the items of the iterables; return the results in their order.

        As `Executor.map`: submits all tasks at once or, with `buffersize`, that many and one more
        for each result that is taken. The iterator raises TimeoutError `timeout` seconds after this
        call. `chunksize` changes nothing. With the option `request` all tasks have copies of the
        request that is current at this call. Raises as `Delay.delay`, and ValueError with the
        option `id`.
        """
        submit, fn = self._submitting(fn, many=True)
        return map_with(
            submit, fn, *iterables, timeout=timeout, chunksize=chunksize, buffersize=buffersize
        )


class Submitter(Mapper):
    """The base of classes with `delay` and `map`: `Delay` and `Using`."""

    __slots__ = ()

    @overload
    def delay(
        self,
        fn: Callable[_P, Coroutine[Any, Any, _T] | Generator[Any, Any, _T]],
        /,
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> Future[_T]: ...

    @overload
    def delay(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]: ...

    def delay(self, fn: Callable[_P, Any], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[Any]:
        """Run `fn(*args, **kwargs)` in a fresh app context, without a request.

        Returns its future at once. A plain function runs on a worker; an `async def` function runs
        on the event loop that all coroutines share. A generator function runs to its end, what it
        yields is read by `Future.stream`, and its result is what it returns. A `Task` runs with its
        options, where `using` does not override them, and belongs to this Delay. The task sees the
        caller's other `contextvars`. An exception of the task is logged and kept in the future.

        Raises TypeError if `fn` is not callable; if it is written in
        Python and the arguments do not fit its signature; or if an argument would not outlive the
        request (an upload, a proxy such as `request`). Raises RuntimeError after `shutdown`;
        QueueFull if the queue is full and `WHEN_FULL` or `BLOCK_TIMEOUT` says so.

        With `id`: DuplicateTask. With `request=True`: RuntimeError without a current request;
        RequestEntityTooLarge if its body is above `MAX_CONTENT_LENGTH`; TypeError if its session
        cannot be copied. With `unique`: TypeError for arguments without a hash, if there is no
        `key`; DuplicateTask if it is "raise". With a function as `key`: its exceptions, and
        TypeError if its result has no hash.
        """
        submit, fn = self._submitting(fn)
        made: Future[Any] = submit(fn, *args, **kwargs)
        return made


class _Using:
    """The common base of `Using` and `Periodic`."""

    __slots__ = ("_chosen", "_find")

    def __init__(self, find: Find, chosen: Chosen) -> None:
        self._find = find
        self._chosen = chosen

    def __repr__(self) -> str:
        return f"using({self._chosen!r})"

    def _submitting(
        self, fn: Any, *, many: bool = False
    ) -> tuple[Callable[..., Any], Callable[..., Any]]:
        return submitting(self._find, self._chosen, fn, many=many)


class Using(_Using, Submitter):
    """The methods `delay` and `map`, with options; made by `using`.

    May be kept and used any number of times, from any thread.
    """

    __slots__ = ()


class Periodic(_Using):
    """The method `delay` for jobs; made by `using` with `every` or `cron`.

    May be kept and used any number of times, from any thread.
    """

    __slots__ = ()

    def delay(self, fn: Callable[_P, object], /, *args: _P.args, **kwargs: _P.kwargs) -> Job:
        """Run `fn(*args, **kwargs)` repeatedly, from now on, as tasks of their own.

        Each run happens once on a machine, however many processes have the job. A lock file in the
        app's instance folder, or in `JOBS_FOLDER`, decides which process runs it. In one process,
        an equal call returns the existing job. With `DELAY_MODE` "immediate" or "manual" the job
        never runs by itself.

        Raises TypeError as `flask_delay.delay`; ValueError if the job has no name that is the same
        in every process, or has the name of another job: then it needs the option `key`;
        RuntimeError after `shutdown`, and if no app is current and not exactly one has a Delay;
        OSError if that folder cannot be written.
        """
        submit, fn = self._submitting(fn)
        made: Job = submit(fn, *args, **kwargs)
        return made


def made(find: Find, options: AllOptions) -> Using | Periodic:
    """The result of `using` with these options. Raises as `using`."""
    chosen = Chosen(options)
    return Using(find, chosen) if chosen.plan is None else Periodic(find, chosen)


@overload
def using(**options: Unpack[Options]) -> Using: ...


@overload
def using(**options: Unpack[AllOptions]) -> Periodic: ...


def using(**options: Unpack[AllOptions]) -> Any:
    """The methods `delay` and `map` with options, of the current app or the only one there is.

    `using(timeout=5).delay(fn, x)`: see `Options` for the list. With `every` or `cron` `delay`
    makes a job: `using(every=60).delay(fn, x)`, see `Repetition`. Raises TypeError for an unknown
    option or one of the wrong type, ValueError for a bad value and for options that contradict each
    other.
    """
    return made(state.find, options)
