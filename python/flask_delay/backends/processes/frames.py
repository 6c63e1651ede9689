"""The frames on the connection of a worker process.

Each frame begins with a header of fixed length: its kind, the number of its call, and the lengths
of its two parts. The first part is JSON. The second part is the pickle of a call or an answer, or
the note of a task's progress as text. A reader unpickles it only after it has checked that the
frame belongs to its call.
"""

import json
import struct
from enum import IntEnum
from typing import Any, NamedTuple


class Kind(IntEnum):
    """The kind of a frame."""

    # To the worker process.
    SETUP = 1
    RUN = 2
    STOP = 3
    END = 4
    LOOK = 5
    # From it.
    READY = 16
    BROKEN = 17
    PROGRESS = 18
    RETURNED = 19
    RAISED = 20
    AGAIN = 21
    CANCELLED = 22
    STACK = 23


ANSWERS = frozenset({Kind.RETURNED, Kind.RAISED, Kind.AGAIN, Kind.CANCELLED})
"""How a call ends."""

_WITH_DATA = ANSWERS | {Kind.RUN, Kind.BROKEN, Kind.PROGRESS}

# Faster than a look-up in the class.
_KINDS = {kind.value: kind for kind in Kind}
_HEADER = struct.Struct("!BQIQ")
# Larger than any text that is sent: see `pickles`.
_MOST_JSON = 4 << 20

CHUNK = 256 << 10
"""So much is read at once. Nothing is set aside for what a frame only says that it has."""


class BadFrameError(Exception):
    """The received bytes are no frame, or no frame that may come now."""


class Frame(NamedTuple):
    """One frame."""

    kind: Kind
    call: int
    text: Any = None
    data: bytes = b""

    def encode(self) -> bytes:
        """The bytes that are sent."""
        # ASCII, so that a lone surrogate, as in a file name, passes too.
        text = b"" if self.text is None else json.dumps(self.text).encode()
        header = _HEADER.pack(self.kind.value, self.call, len(text), len(self.data))
        return b"".join((header, text, self.data))


class Reader:
    """Splits received bytes into frames. For one thread at a time."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, received: bytes) -> None:
        """Add received bytes."""
        self._bytes += received

    def is_empty(self) -> bool:
        """Whether no byte of a frame is left."""
        return not self._bytes

    def next(self) -> Frame | None:
        """The next frame, if it is complete. Raises BadFrameError."""
        if len(self._bytes) < _HEADER.size:
            return None
        number, call, text_length, data_length = _HEADER.unpack_from(self._bytes)
        kind = _KINDS.get(number)
        if kind is None:
            raise BadFrameError(f"a frame of the unknown kind {number}")
        if text_length > _MOST_JSON or (data_length and kind not in _WITH_DATA):
            raise BadFrameError(f"a frame {kind.name} of {text_length} and {data_length} bytes")
        text_end = _HEADER.size + text_length
        end = text_end + data_length
        if len(self._bytes) < end:
            return None
        text = self._bytes[_HEADER.size : text_end]
        with memoryview(self._bytes) as view:
            data = bytes(view[text_end:end])
        del self._bytes[:end]
        try:
            return Frame(kind, call, json.loads(text.decode("ascii")) if text else None, data)
        except (ValueError, RecursionError):
            raise BadFrameError(f"a frame {kind.name} whose text is no JSON") from None
