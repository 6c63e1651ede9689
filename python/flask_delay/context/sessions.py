"""The session of a task: a copy, since no response is left to carry a change."""

import contextlib
import contextvars
import copy
from collections.abc import Iterator
from typing import Any, cast

from flask import session
from flask.sessions import NullSession, SecureCookieSession, SessionMixin
from werkzeug.local import LocalProxy

from flask_delay._native import current_task
from flask_delay.logs import log as _log

# An underscore marks keys that an extension keeps for itself, such as the user that Flask-Login has
# found by a cookie. These two are Flask's, and their values are meant for the visitor.
_FOR_THE_VISITOR = ("_flashes", "_permanent")


def contents() -> tuple[dict[str, Any], dict[str, Any]]:
    """Copies of the current session's items, and of its string attributes.

    The session is not marked as accessed: the response does not depend on it. Raises TypeError for
    an item that cannot be copied.
    """
    items = {}
    with _unmarked() as session:
        for key, value in session.items():
            try:
                items[key] = copy.deepcopy(value)
            except Exception as error:
                raise TypeError(
                    f"the session's {key!r} cannot be copied for a task ({error}): pass the"
                    f" values the task needs as arguments, without using(request=True)"
                ) from error
        # Strings, such as the `sid` of server-side sessions.
        about = {name: value for name, value in vars(session).items() if type(value) is str}
        return items, about | {"new": session.new}


@contextlib.contextmanager
def _unmarked() -> Iterator[SessionMixin]:
    """The current session, marked as accessed afterwards only if it was before."""
    found = _unopened()
    if found is None:
        # Before Flask 3.1.3 the session marks itself when it is read.
        found = cast("LocalProxy[SessionMixin]", session)._get_current_object()
    accessed = found.accessed
    try:
        yield found
    finally:
        if found.accessed != accessed:
            found.accessed = accessed


def _unopened() -> SessionMixin | None:
    """The current session from its context: access by the public name would mark it."""
    for variable, value in contextvars.copy_context().items():
        if variable.name.startswith("flask."):
            kept = getattr(value, "_session", None)
            if isinstance(kept, SessionMixin):
                return kept
    return None


_changeable: Any = SecureCookieSession


# A class of sessions that Flask never saves.
class CopiedSession(NullSession):
    """A task's own copy of the session at submit.

    Code that looks up the user or renders a template may change it; it is never saved. The first
    change of an item that is meant for the visitor is logged.
    """

    def __init__(self, items: dict[str, Any], about: dict[str, Any]) -> None:
        super().__init__(copy.deepcopy(items))
        vars(self).update(about)
        self._before = dict(self)
        self._told = False
        self.on_update = CopiedSession._look

    # The methods of a session that can be changed; NullSession refuses changes.
    __setitem__ = _changeable.__setitem__
    __delitem__ = _changeable.__delitem__
    clear = _changeable.clear
    pop = _changeable.pop
    popitem = _changeable.popitem
    setdefault = _changeable.setdefault
    update = _changeable.update

    @property
    def modified(self) -> bool:
        """Always False, since nothing is saved; setting it is logged."""
        return False

    @modified.setter
    def modified(self, value: bool) -> None:
        if value:
            self._tell("modified")

    def _look(self) -> None:
        """Log a change that is meant for the visitor."""
        for key in self.keys() | self._before.keys():
            if key in self:
                private = str(key).startswith("_") and key not in _FOR_THE_VISITOR
                if not private and self[key] is not self._before.get(key):
                    self._tell(key)
            elif not str(key).startswith("_"):
                self._tell(key)

    def _tell(self, what: str) -> None:
        if self._told:
            return
        self._told = True
        try:
            future = current_task.future
        except RuntimeError:
            # No task is running: a done callback of the Flask-Executor interface.
            task = "a task"
        else:
            task = f"task {future.name} ({future.id})"
        _log.warning(
            "%s has changed %r in its session, a copy that is not saved, since the response,"
            " which would carry it to the browser, has been sent: change the session in the view",
            task,
            what,
        )
