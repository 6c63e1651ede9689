"""`task`, the decorator for functions that can run in the background."""

import functools
import inspect
import weakref
from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator, Sequence
from typing import (
    Any,
    Concatenate,
    Generic,
    NoReturn,
    ParamSpec,
    Protocol,
    Self,
    TypeVar,
    Unpack,
    overload,
)

from flask_delay import state, validators
from flask_delay._native import Future, _check_function, _check_step
from flask_delay.journal import functions, store
from flask_delay.mapping import map_with
from flask_delay.options import AllOptions, Chosen, Options, follower
from flask_delay.periodic.job import Job
from flask_delay.registry import name_of
from flask_delay.submit import Decorated, Find, refuse_many

_P = ParamSpec("_P")
_R = TypeVar("_R")
_T = TypeVar("_T")
_S = TypeVar("_S")
_Y = TypeVar("_Y")
_Q = ParamSpec("_Q")


class _Wrapped(Decorated, Generic[_P, _R]):
    """The common base of `Task` and `PeriodicTask`."""

    __wrapped__: Callable[_P, _R]
    # Of what `task` returns, not of its copies.
    _registered: functions.Registered

    def __init__(
        self,
        fn: Callable[_P, _R],
        find: Find,
        chosen: Chosen,
        source: tuple[object, str] | None = None,
        origin: "_Wrapped[..., Any] | None" = None,
    ) -> None:
        functools.update_wrapper(self, fn)
        self._find = find
        self._chosen = chosen
        # The attribute from which a bound task was made.
        self._source = source
        # The result of `task` of which this is a copy. The registry finds it while it exists.
        self._origin = origin

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Call the function in this thread."""
        return self.__wrapped__(*args, **kwargs)

    def _bound(self, instance: Any, owner: type | None) -> Any:
        bind = getattr(type(self.__wrapped__), "__get__", None)
        if instance is None or bind is None:
            return self
        method = bind(self.__wrapped__, instance, owner)
        return type(self)(method, self._find, self._chosen, (instance, self.__name__))

    def __getattr__(self, name: str) -> Any:
        # Above all `__code__`, by which other code recognises `async def` functions.
        if name == "__wrapped__":
            raise AttributeError(name)
        return getattr(self.__wrapped__, name)

    def __reduce__(self) -> Any:
        return self.__qualname__ if self._source is None else (getattr, self._source)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, type(self)):
            return NotImplemented
        return (
            self.__wrapped__ == other.__wrapped__
            and self._find == other._find
            and self._chosen == other._chosen
        )

    def __hash__(self) -> int:
        return hash(self.__wrapped__)

    def __repr__(self) -> str:
        options = f" using({self._chosen!r})" if self._chosen.given else ""
        return f"<task {self.__module__}.{self.__qualname__}{options}>"


class Task(_Wrapped[_P, _R], Generic[_P, _R, _T]):
    """A function that can also be run in the background; made by `task`.

    A call runs the function directly. On a class it is a method like any other. May be used from
    any thread; pickled by its name, as functions are.
    """

    def delay(self, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Run the function in the background and return its future at once.

        Runs in the current app or, for `Delay.task`, in that Delay. Raises as `delay` and
        `Using.delay`.
        """
        future: Future[_T] = self._find(self._chosen)(self.__wrapped__, *args, **kwargs)
        return future

    def map(
        self,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
    ) -> Iterator[_T]:
        """Run the function for the items of the iterables, as `Executor.map`.

        Raises as `delay`, and ValueError with the option `id`.
        """
        refuse_many(self._chosen)
        return map_with(
            self._find(self._chosen),
            self.__wrapped__,
            *iterables,
            timeout=timeout,
            chunksize=chunksize,
            buffersize=buffersize,
        )

    def _flask_delay_follow(
        self, future: Future[Any], on: str, fn: "functools.partial[Any] | None" = None
    ) -> Future[_T]:
        """Implements `future.then(task)`, also for a partial; found there by this name."""
        step: Callable[..., Any] = self.__wrapped__
        given = () if fn is None else fn.args
        named = {} if fn is None else fn.keywords
        if future._is_durable():  # noqa: SLF001
            _check_step(self._chosen.policy, step, is_first=True)
            found = state.following(self._find, self._chosen, future, on)
            durable: Future[_T] = found(step, *given, **named)
            return durable
        if fn is not None:
            step = functools.partial(step, *given, **named)
        if self._chosen.backend is None:
            # The follower runs on the future's executor, which may be that of another Delay or of
            # none.
            submit: Any = follower(self._chosen, future, state.app_or_none(), on=on)
        else:
            submit = self._find(self._chosen, future, on)
        followed: Future[_T] = submit(step)
        return followed

    def _check_step(self) -> None:
        """Raise the error of `future.then(task)`, for any future."""
        _check_step(self._chosen.policy, self.__wrapped__)

    @overload
    def using(self, **options: Unpack[Options]) -> "Task[_P, _R, _T]": ...

    @overload
    def using(self, **options: Unpack[AllOptions]) -> "PeriodicTask[_P, _R]": ...

    def using(self, **options: Unpack[AllOptions]) -> Any:
        """The same function with other options, which override those of the decorator.

        Combinations of both are checked at this call. Raises as `flask_delay.using`.
        """
        origin = self._origin or self
        return _task(self.__wrapped__, self._find, self._chosen.but(options), origin=origin)

    # Type checkers unwrap `classmethod` and `staticmethod` first, so only the first parameter shows
    # the kind of a method.
    @overload
    def __get__(
        self: "Task[Concatenate[type[_S], _Q], _R, _T]", instance: _S | None, owner: type[_S], /
    ) -> "Task[_Q, _R, _T]": ...

    @overload
    def __get__(self, instance: None, owner: type, /) -> Self: ...

    @overload
    def __get__(
        self: "Task[Concatenate[_S, _Q], _R, _T]", instance: _S, owner: type | None = None, /
    ) -> "Task[_Q, _R, _T]": ...

    def __get__(self, instance: Any, owner: type | None = None, /) -> Any:
        return self._bound(instance, owner)


class PeriodicTask(_Wrapped[_P, _R]):
    """A function that can also run repeatedly; made by `task` with `every` or `cron`.

    A call runs the function directly; nothing runs by itself before its `delay` is called. If that
    has not happened at the app's first request, this is logged. May be used from any thread.
    """

    def _begins(self) -> None:
        unstarted.pop(name_of(self), None)

    def _flask_delay_follow(self, future: object, on: object, fn: object = None) -> NoReturn:
        """Implements `future.then(task)`, also for a partial; found there by this name."""
        del future, on, fn
        self._check_step()

    def _check_step(self) -> NoReturn:
        """Raise the error of `future.then(task)`, for any future."""
        raise ValueError(
            f"{self.__qualname__!r} cannot be the next step: its option"
            f" {'every' if 'every' in self._chosen.given else 'cron'!r} makes it a job, which"
            f" follows nothing; give the step a function without it"
        )

    def __get__(self, instance: Any, owner: type | None = None, /) -> Any:
        return self._bound(instance, owner)

    def delay(self, *args: _P.args, **kwargs: _P.kwargs) -> Job:
        """Run the function repeatedly, from now on. Raises as `Periodic.delay`."""
        self._begins()
        job: Job = self._find(self._chosen)(self.__wrapped__, *args, **kwargs)
        return job

    def using(self, **options: Unpack[AllOptions]) -> "PeriodicTask[_P, _R]":
        """The same function with other options. Raises as `flask_delay.using`."""
        origin = self._origin or self
        return PeriodicTask(self.__wrapped__, self._find, self._chosen.but(options), origin=origin)


def _task(
    fn: Callable[..., Any],
    find: Find,
    chosen: Chosen,
    source: tuple[object, str] | None = None,
    origin: _Wrapped[..., Any] | None = None,
) -> Any:
    kind = Task if chosen.plan is None else PeriodicTask
    return kind(fn, find, chosen, source, origin)


unstarted: weakref.WeakValueDictionary[str, PeriodicTask[..., Any]] = weakref.WeakValueDictionary()
"""By name, those that nothing has made a job of yet, and that need no arguments to become one."""


def _needs_nothing(fn: Callable[..., Any]) -> bool:
    try:
        inspect.signature(fn).bind()
    except (TypeError, ValueError):
        return False
    return True


class _MethodTask:
    """A `classmethod` or `staticmethod` whose attribute access returns a `Task`."""

    def __init__(
        self,
        method: "classmethod[Any, ..., Any] | staticmethod[..., Any]",
        find: Find,
        chosen: Chosen,
    ) -> None:
        self.__wrapped__ = method.__func__
        self._method = method
        self._find = find
        self._chosen = chosen
        # The same object each time, as with the function of a static method.
        self._static: Any = None
        if isinstance(method, staticmethod):
            self._static = _task(method.__func__, find, chosen)

    def __get__(self, instance: object, owner: type | None = None, /) -> Any:
        if self._static is not None:
            return self._static
        bound = self._method.__get__(instance, owner)
        source = (type(instance) if owner is None else owner, self.__wrapped__.__name__)
        return _task(bound, self._find, self._chosen, source)


class Decorator:
    """A decorator that makes a function a `Task`: `@task`, or with options `@task(...)`.

    The function stays callable, and keeps its name, signature and docstring. `fn.delay(...)` runs
    it in the background, as does `fn.map(iterable)` for many arguments; `fn.using(...)` is the same
    function with other options. You may apply it before there is an app: each `delay` finds the
    app. On a class it goes above `@classmethod` and `@staticmethod`.

    The journal has durable tasks by the function's name with its module ("shop.tasks.send"), or by
    `name`. `also` lists names that it had before, in tasks that still wait.

    Raises TypeError for an object that is not a function, for a `durable` function that another
    process could not find, and for options as `using`; ValueError for a `name` that another
    function has.
    """

    __slots__ = ("_also", "_chosen", "_find", "_name")

    def __init__(
        self,
        find: Find,
        chosen: Chosen | None = None,
        *,
        name: str | None = None,
        also: tuple[str, ...] = (),
    ) -> None:
        self._find = find
        self._chosen = chosen or Chosen({})
        self._name = name
        self._also = also

    def __repr__(self) -> str:
        return f"task({self._chosen!r})"

    @overload
    def __call__(
        self, fn: Callable[_P, Coroutine[Any, Any, _T]], /
    ) -> Task[_P, Coroutine[Any, Any, _T], _T]: ...

    @overload
    def __call__(
        self, fn: Callable[_P, Generator[_Y, Any, _T]], /
    ) -> Task[_P, Generator[_Y, Any, _T], _T]: ...

    @overload
    def __call__(self, fn: Callable[_P, _T], /) -> Task[_P, _T, _T]: ...

    @overload
    def __call__(
        self, /, *, name: str = ..., also: Sequence[str] = ..., **options: Unpack[Options]
    ) -> "Decorator": ...

    @overload
    def __call__(
        self, /, *, name: str = ..., also: Sequence[str] = ..., **options: Unpack[AllOptions]
    ) -> "PeriodicDecorator": ...

    def __call__(
        self,
        fn: Any = None,
        /,
        *,
        name: str | None = None,
        also: Sequence[str] = (),
        **options: Unpack[AllOptions],
    ) -> Any:
        """Make `fn` a task, or return a decorator with options."""
        merged = self._chosen.but(options)
        name = self._name if name is None else _checked("name", validators.name, _NAME, name)
        former = _checked("also", validators.names, _NAMES, also) or self._also
        if fn is None:
            return Decorator(self._find, merged, name=name, also=former)
        if isinstance(fn, classmethod | staticmethod):
            _check_function(fn.__func__, "task")
            if merged.durable or name or former:
                functions.require(fn.__func__)
            return _MethodTask(fn, self._find, merged)
        _check_function(fn, "task")
        if merged.durable or name or former:
            functions.require(fn)
        made = _task(fn, self._find, merged)
        functions.register(made, name, former)
        store.learn()
        if isinstance(made, PeriodicTask) and _needs_nothing(fn):
            unstarted[name_of(fn)] = made
        return made


_NAME = "a string of 1 to 200 printable characters"
_NAMES = f"a list or tuple of names, each {_NAME}"


def _checked(name: str, parse: Callable[[object], _T], allowed: str, value: object) -> _T:
    return validators.checked(parse, value, f"task's {name!r}", allowed)


class PeriodicDecorator(Protocol):
    """The result of `task` with `every` or `cron`, for type checkers."""

    def __call__(self, fn: Callable[_P, _R], /) -> PeriodicTask[_P, _R]:
        """Make `fn` a periodic task."""


task = Decorator(state.find)
