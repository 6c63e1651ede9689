"""The functions of durable tasks: their names in the journal, and the functions of these names.

Only what `@task` has made is found. Nothing is imported by a name that the journal has.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

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


def register(task: Any, name: str | None, also: tuple[str, ...]) -> None:
    """Have a result of `task` found by its function's name or by `name`, and by former names.

    Raises ValueError for a name that another function has been given.
    """
    path = registry.name_of(task.__wrapped__)
    for it in (path if name is None else name, *also):
        for other in (registry.named.get(it), registry.decorated.get(it)):
            theirs = None if other is None else registry.name_of(other.__wrapped__)
            if theirs not in {None, path} and it in names_of(other):
                raise ValueError(
                    f"the name {it!r} of the task {path} is that of {theirs} already: each needs"
                    f" one of its own"
                )
    task._names = (name, also)  # noqa: SLF001
    registry.decorated[path] = task
    for it in also if name is None else (name, *also):
        registry.named[it] = task


def name_of_task(task: Any, main: str = registry.MAIN) -> str:
    """The name in the journal of what `@task` has made; `main` is as in `registry`."""
    name: str | None = task._names[0]  # noqa: SLF001
    return registry.name_of(task.__wrapped__, main) if name is None else name


def names_of(task: Any, main: str = registry.MAIN) -> tuple[str, ...]:
    """This name and the former ones; none for a function that cannot be durable."""
    if fault(task.__wrapped__) is not None:
        return ()
    also: tuple[str, ...] = task._names[1]  # noqa: SLF001
    return (name_of_task(task, main), *also)


class Functions:
    """The functions of this process that may be durable tasks of one app."""

    def __init__(self, main: str) -> None:
        """`main` is as in `registry`."""
        self.main = main

    def name_of(self, fn: Callable[..., Any]) -> str:
        """The function's name in the journal. Raises TypeError for one that has none."""
        return name_of_task(self.task_of(fn), self.main)

    def task_of(self, fn: Callable[..., Any]) -> Any:
        """What `@task` has made of the function. Raises TypeError if that is not there."""
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
            if task is not None and name in names_of(task, self.main):
                return task
        raise LookupError(f"no @task of this process has the name {name!r}")

    def names(self) -> list[str]:
        """All names by which `find` finds one."""
        tasks = [*registry.named.values(), *registry.decorated.values()]
        return sorted({name for task in tasks for name in names_of(task, self.main)})


def _refusal(fn: Callable[..., Any], why: str) -> str:
    name = registry.qualname_of(fn) or repr(fn)
    return f"{name!r} is not for durable tasks: {why}"
