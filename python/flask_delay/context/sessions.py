"""The session that a task may read: a copy, since no response is left to carry a change."""

import copy
from typing import Any, NoReturn

from flask.sessions import NullSession, SessionMixin


def contents(session: SessionMixin) -> tuple[dict[str, Any], dict[str, Any]]:
    """A copy of a session's items, and one of what else it says of itself.

    Raises TypeError for an item that cannot be copied.
    """
    items = {}
    for key, value in session.items():
        try:
            items[key] = copy.deepcopy(value)
        except Exception as error:
            raise TypeError(
                f"the session's {key!r} cannot be copied for a task ({error}): pass the"
                f" values the task needs as arguments, without using(request=True)"
            ) from error
    # Strings, such as the `sid` of sessions that a server keeps.
    about = {name: value for name, value in vars(session).items() if type(value) is str}
    return items, about | {"new": session.new}


# Of a class of sessions that Flask never saves.
class ReadOnlySession(NullSession):
    """A session as it was at submit; every change of it raises RuntimeError."""

    def __init__(self, items: dict[str, Any], about: dict[str, Any]) -> None:
        super().__init__(copy.deepcopy(items))
        vars(self).update(about)

    def _refuse(self, *_args: object, **_kwargs: object) -> NoReturn:
        raise RuntimeError(
            "the session of a task is a copy that can only be read: the response, which"
            " would carry a change to the browser, has been sent; change the session in"
            " the view"
        )

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    @property
    def modified(self) -> bool:
        """Always False; setting it raises RuntimeError."""
        return False

    @modified.setter
    def modified(self, _value: bool) -> None:
        self._refuse()
