"""Contexts for tasks in which `g` has what the caller has there, as other libraries have it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast

from flask import Request, g, has_request_context, request
from werkzeug.local import LocalProxy


class Lent:
    """Makes, on each call, a context in which `g` and `request` have what the caller's had.

    What is lent is shared, and the caller may still use it: so a teardown function of the task's
    context does not find it in `g`, only what the task itself has put there.
    """

    __slots__ = ("_attributes", "_is_live", "_make", "_values")

    def __init__(self, make: Callable[[], AbstractContextManager[object]], *, live: bool) -> None:
        """Lend what the current context has to those that `make` makes.

        That is all of `g`: `live`, so that caller and task see what the other one changes, or a
        shallow copy, taken now. If there is a request, the attributes that were set on it are lent
        to the task's own.
        """
        self._make = make
        self._is_live = live
        self._values = _contents() if live else dict(_contents())
        self._attributes = _set_on_request() if has_request_context() else {}

    def __call__(self) -> AbstractContextManager[object]:
        """Make a context."""
        return self._made()

    @contextmanager
    def _made(self) -> Iterator[None]:
        with self._make():
            if self._attributes and has_request_context():
                own = vars(_request())
                own.update({it: self._attributes[it] for it in self._attributes.keys() - own})
            if self._is_live:
                _give(self._values)
            else:
                _contents().update(self._values)
            try:
                yield
            finally:
                if self._is_live:
                    _give({})
                else:
                    own = _contents()
                    for name, value in self._values.items():
                        if own.get(name, self) is value:
                            del own[name]


def _g() -> Any:
    return cast("LocalProxy[Any]", g)._get_current_object()


def _give(contents: dict[str, Any]) -> None:
    # Its own `__setattr__` would make an entry of that.
    object.__setattr__(_g(), "__dict__", contents)


def _contents() -> dict[str, Any]:
    found: dict[str, Any] = vars(_g())
    return found


def _request() -> Request:
    return cast("LocalProxy[Request]", request)._get_current_object()


def _set_on_request() -> dict[str, Any]:
    """What the app has set on the request; the rest is Flask's and Werkzeug's."""
    current = _request()
    kind = type(current)
    return {
        name: value
        for name, value in vars(current).items()
        if not name.startswith("_") and not hasattr(kind, name)
    }
