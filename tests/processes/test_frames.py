"""The frames that go over the connection of a worker process."""

import struct

import pytest

from flask_delay.backends.processes.frames import BadFrameError, Frame, Kind, Reader


def read(data, piece=None):
    reader = Reader()
    found = []
    for begin in range(0, len(data), piece or len(data)):
        reader.feed(data[begin : begin + (piece or len(data))])
        while (frame := reader.next()) is not None:
            found.append(frame)
    return found, reader


FRAMES = [
    Frame(Kind.SETUP, 0, {"app": "shop:app", "name": "half a surrogate: \udc80", "main": None}),
    Frame(Kind.RUN, 1, ["name", "id", 1], b"\0" * 1000),
    Frame(Kind.PROGRESS, 1, [0.5, None], "é".encode()),
    Frame(Kind.STOP, 2**63),
    Frame(Kind.AGAIN, 1, [float("inf"), None]),
]


@pytest.mark.parametrize("piece", [None, 1, 7])
def test_frames_come_whole_however_they_come(piece):
    found, reader = read(b"".join(frame.encode() for frame in FRAMES), piece)
    assert found == FRAMES
    assert reader.is_empty()


def test_half_a_frame_is_none():
    found, reader = read(FRAMES[1].encode()[:-1])
    assert found == []
    assert not reader.is_empty()


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"a pickle, or whatever a program writes", "unknown kind"),
        (struct.pack("!BQIQ", Kind.READY, 0, 0, 1), "READY of 0 and 1 bytes"),
        (struct.pack("!BQIQ", Kind.RAISED, 1, 2**32 - 1, 0), "RAISED of 4294967295 and 0 bytes"),
        (struct.pack("!BQIQ", Kind.RAISED, 1, 2, 0) + b"{(", "no JSON"),
    ],
)
def test_what_is_no_frame(data, what):
    with pytest.raises(BadFrameError, match=what):
        read(data)
