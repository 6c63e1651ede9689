"""The body of a request, in memory, to be used in any number of copies of the request."""

import contextlib
import io
from typing import Any, NamedTuple, NoReturn

from flask import Request
from werkzeug.datastructures import FileStorage, Headers

# Limits that decide whether a form can be read; the view may have set them for this request.
_LIMITS = ("max_form_memory_size", "max_form_parts")


class _Gone(io.RawIOBase):
    """The stream of a body that the view has read without keeping it."""

    def readable(self) -> bool:
        return True

    def readinto(self, _buffer: object, /) -> NoReturn:
        raise RuntimeError(
            "the request's body was read from request.stream before the task was"
            " submitted, so the task's copy of the request does not have it: read it with"
            " request.get_data(), which keeps it, or pass the bytes as an argument"
        )


class _Upload(NamedTuple):
    field: str
    filename: str | None
    headers: list[tuple[str, str]]
    data: bytes

    @classmethod
    def read(cls, field: str, file: FileStorage) -> "_Upload":
        try:
            place = file.stream.tell()
            file.stream.seek(0)
            data = file.stream.read()
            file.stream.seek(place)
        except (OSError, ValueError) as error:
            raise RuntimeError(
                f"the upload {file.filename!r} cannot be read for a task's copy of the"
                f" request ({error}): submit the task before the file is closed or"
                f" consumed, or pass what the task needs as arguments"
            ) from error
        return cls(field, file.filename, list(file.headers), data)

    def open(self) -> FileStorage:
        return FileStorage(
            io.BytesIO(self.data), self.filename, self.field, headers=Headers(self.headers)
        )


class Body:
    """A copy of a request's body; `give` attaches it to another request."""

    def __init__(self, request: Request) -> None:
        """Read the body into memory, and leave the request as if it were unread.

        Raises the errors of reading it: RequestEntityTooLarge above `MAX_CONTENT_LENGTH`;
        RuntimeError for an upload that can no longer be read.
        """
        parsed = "form" in vars(request)
        # Raises for a length that is too large.
        stream = request.stream
        # From now on only data that was read before is available.
        request.stream = io.BytesIO()
        data = request.get_data(cache=False)
        request.stream = stream
        self._gone = isinstance(stream, _Gone)
        if not data and not self._gone:
            data = stream.read()
            if data:
                # The same stream under both names, as before.
                request.stream = request.environ["wsgi.input"] = io.BytesIO(data)
        self._data = data
        self._form: list[tuple[str, str]] | None = None
        self._uploads: list[_Upload] = []
        if parsed and not data:
            self._form = list(request.form.items(multi=True))
            self._uploads = [_Upload.read(*item) for item in request.files.items(multi=True)]
        if not data and not self._form and not self._uploads:
            self._gone |= bool(request.content_length)
        self._limits = {name: getattr(request, name) for name in _LIMITS}

    def environ(self) -> dict[str, Any]:
        """The environ keys for a request with a body of its own."""
        # The body ends where the data ends, whatever the header says.
        return {"wsgi.input": io.BytesIO(self._data), "wsgi.input_terminated": True}

    def give(self, request: Any) -> None:
        """Give the body to `request`, which was made with `environ`."""
        request.stream = _Gone() if self._gone else request.environ["wsgi.input"]
        for name, value in self._limits.items():
            # A subclass of Request may not allow setting these.
            with contextlib.suppress(AttributeError):
                setattr(request, name, value)
        if self._form is not None:
            make = request.parameter_storage_class
            request.form = make(self._form)
            request.files = make([(upload.field, upload.open()) for upload in self._uploads])
