"""The exceptions of durable tasks: text in the journal, and exceptions again.

The text is a JSON object: `type` ("shop.errors.OutOfStock"), `message`, `traceback`, `notes`, and
where JSON has them `arguments`, `made` and `attributes`, see `failures`. The journal itself writes
the first four. Whatever stands there, nothing is imported and nothing of it runs.
"""

import json
import math
import sys
import traceback
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Any

from flask_delay import failures, registry
from flask_delay.backends.base import RemoteError

# Characters of a message, of all notes, of the arguments and of all attributes.
_MOST = 10_000
# Characters of a traceback's beginning and of its end.
_HEAD, _TAIL = 5_000, 15_000
# Levels of lists in an argument. JSON in Python has a limit that depends on the caller's depth.
_DEEPEST = 20


def encoded(exception: BaseException, main: str) -> str:
    """Write an exception as text; `main` is as in `registry`."""
    kind = type(exception)
    made = failures.made_of(exception)
    record: dict[str, Any] = {
        "type": f"{registry.module_of(kind, main)}.{kind.__qualname__}",
        "message": failures.text_of(exception, _MOST),
        "traceback": _traceback(exception),
        "notes": _fitting(note for note in _notes(exception) if isinstance(note, str)),
    }
    arguments = list(exception.args)
    if _is_kept(arguments):
        record["arguments"] = arguments
    if made is not exception.args and _is_kept(list(made)):
        record["made"] = list(made)
    attributes = dict(_attributes(exception))
    if attributes and _is_kept(attributes):
        record["attributes"] = attributes
    # A lone surrogate is not a character of a text, and in JSON it is this escape.
    return json.dumps(record, ensure_ascii=False).encode(errors="backslashreplace").decode()


def decoded(text: str, main: str) -> BaseException:
    """Make the exception of a text: RemoteError if its class is not here, or cannot be made."""
    try:
        record = json.loads(text)
        path, message = record["type"], record["message"]
        if not (isinstance(path, str) and isinstance(message, str)):
            raise TypeError  # noqa: TRY301 (as for what is missing)
    except (ValueError, KeyError, TypeError, RecursionError):
        return RemoteError("unknown", f"the journal has an error that cannot be read: {text[:200]}")
    exception = _rebuilt(record, path, message, main)
    if exception is None:
        exception = RemoteError(path, message)
    notes, where = record.get("notes"), record.get("traceback")
    if isinstance(notes, list):
        failures.add_notes(exception, (note for note in notes if isinstance(note, str)))
    if where and isinstance(where, str):
        failures.add_notes(exception, [f"In the process that ran the task:\n{where}"])
    return exception


def _rebuilt(record: Mapping[str, Any], path: str, message: str, main: str) -> BaseException | None:
    kind = _class(path, main)
    if kind is None:
        return None
    args, made, attributes = map(record.get, ("arguments", "made", "attributes"))
    if not isinstance(args, list):
        args = [message]
    return failures.rebuilt(
        kind,
        made if isinstance(made, list) else args,
        args,
        {name: it for name, it in attributes.items() if not name.startswith("__")}
        if isinstance(attributes, dict)
        else {},
    )


def _class(path: str, main: str) -> type[Exception] | None:
    """The imported exception class of this dotted path."""
    names = path.split(".")
    # The longest module first: where a class has the name of a module, imports prefer the module.
    for end in range(len(names) - 1, 0, -1):
        module = ".".join(names[:end])
        if module in sys.modules or module == main:
            found = failures.exception_class(f"{module}:{'.'.join(names[end:])}", main)
            if found is not None:
                return found
    return None


def _traceback(exception: BaseException) -> str:
    found = traceback.TracebackException.from_exception(exception)
    # They are in the record already.
    found.__notes__ = None
    text = "".join(found.format())
    if len(text) <= _HEAD + _TAIL:
        return text
    return f"{text[:_HEAD]}\n  ...\n{text[-_TAIL:]}"


def _notes(exception: BaseException) -> Iterable[object]:
    notes = getattr(exception, "__notes__", ())
    return notes if isinstance(notes, list | tuple) else ()


def _fitting(texts: Iterable[str]) -> list[str]:
    """The first of the texts, up to `_MOST` characters."""
    kept = list(texts)
    sums = accumulate(map(len, kept))
    return [text for text, length in zip(kept, sums, strict=True) if length <= _MOST]


def _attributes(exception: BaseException) -> Iterable[tuple[str, object]]:
    for name, value in getattr(exception, "__dict__", {}).items():
        if not name.startswith("__") and _is_plain(value, _DEEPEST):
            yield name, value


def _is_kept(value: object) -> bool:
    """Whether JSON carries the value unchanged, in not too many characters."""
    return _is_plain(value, _DEEPEST) and len(json.dumps(value)) <= _MOST


def _is_plain(value: object, depth: int) -> bool:
    kind: Any = type(value)
    if kind is list:
        items: Any = value
        return depth > 0 and all(_is_plain(item, depth - 1) for item in items)
    if kind is dict:
        pairs: Any = value
        return depth > 0 and all(
            type(key) is str and _is_plain(item, depth - 1) for key, item in pairs.items()
        )
    if kind is float:
        return math.isfinite(value)  # type: ignore[arg-type]
    if kind is int:
        # Python refuses to write and to read integers of more than 4300 digits.
        return value.bit_length() <= 4096  # type: ignore[attr-defined,no-any-return] # noqa: PLR2004
    return kind in {str, bool, type(None)}
