"""The functions of durable tasks: their names in the journal, and the functions of these names.

Only what `@task` has made is found. Nothing is imported by a name that the journal has.
"""

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from types import FunctionType
from typing import Any, NamedTuple

from flask_delay import registry

_MODULE = "write it with `def` in a module, under @task"


def fault(fn: Callable[..., Any]) -> str | None:
    """The reason why another process could not find the function, and the remedy; or None."""
    if isinstance(fn, partial):
        return "it is a partial: decorate the function itself, and pass the arguments to delay()"
    qualname = registry.qualname_of(fn)
    if qualname is None:
        return f"it is an object of the class {type(fn).__qualname__}: {_MODULE}"
    owner, _, name = qualname.rpartition(".")
    if name == "<lambda>":
        return f"it is a lambda: {_MODULE}"
    if "<locals>" in owner:
        return f"it is defined in another function: {_MODULE}"
    if owner or inspect.ismethod(fn):
        return f"it is a method: {_MODULE}, and pass what it needs of its object"
    return None


def require(fn: Callable[..., Any]) -> None:
    """Raise TypeError for a function that another process could not find."""
    why = fault(fn)
    if why is not None:
        raise TypeError(_refusal(fn, why))


class Registered(NamedTuple):
    """What the journal has to know of a result of `task`."""

    path: str
    """Its function with its module."""
    name: str | None
    """The name that `task` was told, which counts instead."""
    also: tuple[str, ...]
    """Former names."""
    fault: str | None
    """Why it cannot be durable."""

    def journal_name(self, main: str) -> str:
        """Its name in the journal; `main` is as in `registry`."""
        if self.name is not None:
            return self.name
        if self.path.startswith(_PROGRAM):
            return f"{main}.{self.path.removeprefix(_PROGRAM)}"
        return self.path

    def names(self, main: str = registry.MAIN) -> tuple[str, ...]:
        """This name and the former ones; none for a function that cannot be durable."""
        return () if self.fault is not None else (self.journal_name(main), *self.also)


_PROGRAM = f"{registry.MAIN}."


def register(task: Any, name: str | None, also: tuple[str, ...]) -> None:
    """Have a result of `task` found by its function's name or by `name`, and by former names.

    Raises ValueError for a name that another function has been given.
    """
    fn = task.__wrapped__
    made = Registered(registry.name_of(fn), name, also, fault(fn))
    for it in (made.path if name is None else name, *also):
        for other in (registry.named.get(it), registry.decorated.get(it)):
            theirs: Registered | None = None if other is None else other._registered  # noqa: SLF001
            if theirs is not None and theirs.path != made.path and it in theirs.names():
                raise ValueError(
                    f"the name {it!r} of the task {made.path} is that of {theirs.path} already:"
                    f" each needs one of its own"
                )
    task._registered = made  # noqa: SLF001
    registry.decorated[made.path] = task
    for it in also if name is None else (name, *also):
        registry.named[it] = task


class Functions:
    """The functions of this process that may be durable tasks of one app."""

    def __init__(self, main: str) -> None:
        """`main` is as in `registry`."""
        self.main = main

    def name_of(self, fn: Callable[..., Any]) -> str:
        """The function's name in the journal. Raises TypeError for one that has none."""
        return self.name_of_task(self.task_of(fn))

    def name_of_task(self, task: Any) -> str:
        """The name in the journal of what `task_of` or `find` returns."""
        registered: Registered = task._registered  # noqa: SLF001
        return registered.journal_name(self.main)

    def lane_of(self, fn: Callable[..., Any]) -> str:
        """The name by which all processes count the function's tasks together, durable or not.

        Raises TypeError for a function that other processes could not tell from others.
        """
        task = registry.decorated.get(registry.name_of(fn))
        if task is not None and task.__wrapped__ is fn and task._registered.fault is None:  # noqa: SLF001
            return self.name_of_task(task)
        why = fault(fn)
        if why is not None:
            name = registry.qualname_of(fn) or repr(fn)
            raise TypeError(
                f"tasks of {name!r} cannot be counted on the machine: {why}; or give them a 'key'"
            )
        return registry.name_of(fn, self.main)

    def task_of(self, fn: Callable[..., Any]) -> Any:
        """What `@task` has made of the function. Raises TypeError if that is not there."""
        # At each submit, so the usual case comes first.
        if type(fn) is FunctionType:
            task = registry.decorated.get(f"{fn.__module__}.{fn.__qualname__}")
            if task is not None and task.__wrapped__ is fn and task._registered.fault is None:  # noqa: SLF001
                return task
        require(fn)
        task = registry.decorated.get(registry.name_of(fn))
        if task is None:
            raise TypeError(_refusal(fn, "it has no @task, by which other processes know it"))
        if task.__wrapped__ is not fn:
            raise TypeError(_refusal(fn, "another function of its name has been decorated since"))
        return task

    def find(self, name: str) -> Any:
        """What `@task` has made of the function of this name. Raises LookupError if there is none.

        The name may come from anywhere.
        """
        for task in (
            registry.named.get(name),
            registry.decorated.get(name),
            registry.decorated.get(f"{registry.MAIN}{name.removeprefix(self.main)}"),
        ):
            if task is not None and name in task._registered.names(self.main):  # noqa: SLF001
                return task
        raise LookupError(f"no @task of this process has the name {name!r}")

    def meant(self, name: str, stored: Iterable[str]) -> list[str]:
        """The names in the journal that `name` stands for: itself, or one that ends with it.

        `stored` are names that the journal has. Raises LookupError if there are none or several.
        """
        stored = list(stored)
        own = self.names()
        if name in own:
            return [name]
        found = set(self.known_as(name, stored))
        # A plain task that was published has the function's name alone.
        if len(found - {name}) > 1:
            them = ", ".join(sorted(found - {name}))
            raise LookupError(f"several tasks are called {name!r}; say which: {them}")
        if not found:
            known = ", ".join(sorted({*own, *stored})) or "none"
            raise LookupError(f"no task in the journal is called {name!r}; those it knows: {known}")
        return sorted(found)

    def known_as(self, name: str, stored: Iterable[str]) -> list[str]:
        """As `meant`, but all of several names, and [] if there are none."""
        known = {*self.names(), *stored}
        return sorted(it for it in known if it == name or it.rpartition(".")[2] == name)

    @staticmethod
    def has_durable() -> bool:
        """Whether there is a task that is durable wherever it is submitted."""
        return any(task._chosen.durable for task in registry.decorated.values())  # noqa: SLF001

    def names(self) -> list[str]:
        """All names by which `find` finds one."""
        tasks = [*registry.named.values(), *registry.decorated.values()]
        return sorted({name for task in tasks for name in task._registered.names(self.main)})  # noqa: SLF001


def _refusal(fn: Callable[..., Any], why: str) -> str:
    name = registry.qualname_of(fn) or repr(fn)
    return f"{name!r} is not for durable tasks: {why}"
