"""What a visitor may see and do, and whether a request was made by the page itself."""

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from werkzeug.datastructures import Headers
from werkzeug.wrappers import Response as AnyResponse

VERBS = frozenset({"cancel", "pause", "retry", "run", "stop"})
"""What one can do on the page. A set of them is what `authorize` may return."""

NOTHING: frozenset[str] = frozenset()
"""The rights of a visitor who may look and do nothing."""

Authorize = Callable[[], Any] | None
"""Returns "read" or True, "act", a set of verbs, a response, or False or None."""

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})

MISSING: Any = object()
"""Stands for an `authorize` that was not given."""

OF_DASHBOARD = (
    "dashboard_blueprint() needs authorize=: a function that says what the visitor of the current"
    f' request may do. It returns "act", "read", a set of {", ".join(map(repr, sorted(VERBS)))}, a'
    " response such as a redirect to the login, or False. If the page is guarded elsewhere, write"
    " authorize=None: everyone who reaches it may look, and do nothing"
)
OF_STREAMS = (
    "stream_blueprint() needs authorize=: a function that says whether the visitor of the current"
    " request may read the stream. It returns True, a response such as a redirect to the login, or"
    " False. If the blueprint is guarded elsewhere, write authorize=None: everyone who has a task's"
    " id may read its stream"
)


def check(authorize: object, remedy: str) -> None:
    """Raise TypeError unless this can be asked, or is None."""
    if authorize is MISSING or not (authorize is None or callable(authorize)):
        wrong = "" if authorize is MISSING else f"; this is {authorize!r}"
        raise TypeError(remedy + wrong)


def read(verdict: object) -> frozenset[str] | AnyResponse | None:
    """The rights that `authorize` has given: a set of verbs, a response, or None for none at all.

    Raises ValueError for what it must not return, which never means rights.
    """
    if isinstance(verdict, AnyResponse):
        return verdict
    if verdict is None or verdict is False:
        return None
    if verdict is True or verdict == "read":
        return NOTHING
    if verdict == "act":
        return VERBS
    if isinstance(verdict, set | frozenset | list | tuple) and VERBS.issuperset(verdict):
        return frozenset(verdict)
    verbs = ", ".join(sorted(VERBS))
    raise ValueError(
        f'authorize has returned {verdict!r}, which is not "read", "act", a bool, a response or a'
        f" set of these: {verbs}"
    )


def foreign(headers: Headers, host: str) -> str | None:
    """Why a request that changes something was not made by a page of this host; None if it was.

    There is no token: browsers say where a request comes from, and a page cannot change that.
    """
    site = headers.get("Sec-Fetch-Site")
    if site is not None:
        return None if site == "same-origin" else f"the header Sec-Fetch-Site is {site!r}"
    origin = headers.get("Origin")
    if origin is None:
        return "it has neither the header Sec-Fetch-Site nor the header Origin"
    try:
        place = urlsplit(origin).netloc
    except ValueError:
        place = ""
    if place and place == host:
        return None
    return (
        f"the header Origin is {origin!r}, and the host is {host!r}; behind a proxy that changes"
        f" Host, the app needs ProxyFix"
    )
