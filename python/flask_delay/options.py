"""The options of one task: which there are, what is allowed, what they do.

The entries of `Options` are the one list of them: each says its type, its check and its
text; `submitter` hands them on.
"""

import difflib
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple, TypedDict, cast, get_type_hints

from flask import Flask

from flask_delay import context
from flask_delay._native import Executor, Future

Submit = Callable[..., Future[Any]]
"""What takes a function and its arguments and gives a future, as `Executor.submit`."""


class Option(NamedTuple):
    """What there is to say about one option."""

    check: Callable[[object], bool]
    allowed: str
    help: str


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


class Options(TypedDict, total=False):
    """The options of `using` and `task`."""

    request: Annotated[
        bool,
        Option(
            _is_flag,
            "True or False",
            "Whether the task gets a copy of the current request, made at submit.",
        ),
    ]


KNOWN: Mapping[str, Option] = {
    name: hint.__metadata__[0]
    for name, hint in get_type_hints(Options, include_extras=True).items()
}
"""All options by name."""


def check(given: Options) -> Options:
    """What was given, if it is right.

    Raises TypeError for an option that is not known and for a value that is not allowed.
    """
    for name, value in given.items():
        option = KNOWN.get(name)
        if option is None:
            near = difflib.get_close_matches(name, KNOWN, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"{name!r} is not an option; valid are {', '.join(KNOWN)}{hint}")
        if not option.check(value):
            raise TypeError(f"the option {name!r} is {value!r}, but must be {option.allowed}")
    return cast("Options", dict(given))


def submitter(options: Options, executor: Executor, app: Flask | None) -> Submit:
    """What submits to `executor`, which is the app's, with these options.

    With `request` it is for now: each of its tasks has the request that is current here.
    Raises as `context.snapshot`.
    """
    if not options.get("request"):
        return executor.submit
    snapshot = context.snapshot(app)

    def submit(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return executor._submit_in(snapshot, fn, *args, **kwargs)  # noqa: SLF001

    return submit
