"""What goes over the connection of a worker process: frames, which say what they are.

Each begins with a header of fixed length: its kind, the number of the call that it belongs to,
and how long its two parts are. The first part is JSON. The other is what is pickled of a call or an
answer, which nobody unpickles who has not seen that it is the one he waits for; and what a task
notes on its progress, as text.
"""

import json
import struct
from enum import IntEnum
from typing import Any, NamedTuple


class Kind(IntEnum):
    """What a frame says."""

    # To the worker process.
    SETUP = 1
    RUN = 2
    STOP = 3
    END = 4
    # From it.
    READY = 16
    BROKEN = 17
    PROGRESS = 18
    RETURNED = 19
    RAISED = 20
    AGAIN = 21
    CANCELLED = 22


ANSWERS = frozenset({Kind.RETURNED, Kind.RAISED, Kind.AGAIN, Kind.CANCELLED})
"""How a call ends."""

_WITH_DATA = ANSWERS | {Kind.RUN, Kind.BROKEN, Kind.PROGRESS}

# Quicker than to ask the class.
_KINDS = {kind.value: kind for kind in Kind}
_HEADER = struct.Struct("!BQIQ")
# No text of ours comes near: see `pickles`.
_MOST_JSON = 4 << 20

CHUNK = 256 << 10
"""So much is read at once. Nothing is set aside for what a frame only says that it has."""


class BadFrameError(Exception):
    """What was received is no frame, or none that may come now."""


class Frame(NamedTuple):
    """One of them."""

    kind: Kind
    call: int
    text: Any = None
    data: bytes = b""

    def encode(self) -> bytes:
        """As it is sent."""
        # ASCII, so that half a surrogate, as in the name of a file, goes too.
        text = b"" if self.text is None else json.dumps(self.text).encode()
        header = _HEADER.pack(self.kind.value, self.call, len(text), len(self.data))
        return b"".join((header, text, self.data))


class Reader:
    """Makes frames of the bytes that come. For one thread at a time."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, received: bytes) -> None:
        """Some more have come."""
        self._bytes += received

    def is_empty(self) -> bool:
        """Whether there is nothing of a frame."""
        return not self._bytes

    def next(self) -> Frame | None:
        """The next frame, if all of it is there. Raises BadFrameError."""
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
