"""Uploads among the arguments of tasks: files that outlive the request.

Below the folder of uploads each process has a folder, and a lock file that it has locked as long as
it lives. In it each task has a folder with its files. Who finds a lock file unlocked removes both.
"""

import atexit
import contextlib
import copy
import errno
import fcntl
import hashlib
import inspect
import io
import os
import re
import secrets
import shutil
import tempfile
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from werkzeug.datastructures import FileStorage, Headers, MultiDict
from werkzeug.exceptions import RequestEntityTooLarge

from flask_delay._native import Executor, Future, _check_call, _Policy, current_task
from flask_delay.logs import log as _log
from flask_delay.registry import task_name

# How deep in containers uploads are found: as the native module looks.
_DEPTH = 2
# Bytes that are copied in one call.
_CHUNK = 1 << 24
_PROCESS = re.compile(r"([0-9a-f]{32})\.lock")
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,10}")
_BATCH = re.compile(r"[0-9a-f]{32}")
_PLACE = re.compile(r"[0-9a-f]{32}/[0-9]+(\.[A-Za-z0-9]{1,10})?")
# The file of a durable task's folder that has the task's id.
_TASK = "task"
# Of a disk that takes no more.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
# Tries to make a folder for this process, of which a sweep may take one away.
_TRIES = 10

_NO_TEXTS: Mapping[str, Any] = types.MappingProxyType({})
_Args = tuple[Any, ...]
_Kwargs = dict[str, Any]


@dataclass(frozen=True, slots=True, repr=False)
class Stored:
    """An upload that was kept for a task; stands for it among the arguments until the task runs."""

    path: str
    size: int
    """In bytes."""
    filename: str | None
    name: str | None
    """Of the form's field."""
    headers: tuple[tuple[str, str], ...]
    as_path: bool
    """Whether the function takes a path."""

    def __repr__(self) -> str:
        return f"<upload {self.filename!r}, {self.size:,} bytes>"

    @property
    def content_type(self) -> str | None:
        """As that of the upload."""
        return Headers(self.headers).get("content-type")

    def open(self, stack: contextlib.ExitStack) -> FileStorage | Path:
        """What the function gets. Its file is open until the stack is left."""
        path = Path(self.path)
        if self.as_path:
            return path
        stream = stack.enter_context(path.open("rb"))
        file = FileStorage(stream, self.filename, self.name, headers=Headers(self.headers))
        # Not that of the file, which an upload without a name would take.
        file.filename = self.filename
        return file


class Opening:
    """Calls a function with what it takes of each upload, opened for this call.

    Equality is that of the function: `limit`, `rate` and `unique` depend on it.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        texts: Mapping[str, Stored],
        begun: Callable[[Future[Any]], object] | None,
    ) -> None:
        self.fn = fn
        self.begun = begun
        """Called with the future of each attempt, in the process that has it."""
        self._texts = texts
        # The task takes its name from here.
        self.__qualname__ = task_name(fn)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Open the files of the `Stored` arguments, call the function, close them."""
        with contextlib.ExitStack() as stack:
            args, kwargs = self._opened(stack, args, kwargs)
            return self.fn(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        # The process that calls the function for this one does not have the future.
        return {**vars(self), "begun": None}

    def _opened(
        self, stack: contextlib.ExitStack, args: _Args, kwargs: _Kwargs
    ) -> tuple[_Args, _Kwargs]:
        def open_(value: Any) -> Any:
            found = self._texts.get(value) if type(value) is str else value
            return found.open(stack) if type(found) is Stored else value

        if self.begun is not None:
            self.begun(current_task.future)
        return _mapped(args, kwargs, open_)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Opening) and self.fn == other.fn

    def __hash__(self) -> int:
        return hash(self.fn)

    def __repr__(self) -> str:
        return repr(self.fn)


class _AsyncOpening(Opening):
    """The same for a coroutine function."""

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with contextlib.ExitStack() as stack:
            args, kwargs = self._opened(stack, args, kwargs)
            return await self.fn(*args, **kwargs)


class _YieldingOpening(Opening):
    """The same for a generator function, whose files stay open until it ends."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with contextlib.ExitStack() as stack:
            args, kwargs = self._opened(stack, args, kwargs)
            return (yield from self.fn(*args, **kwargs))


class _AsyncYieldingOpening(Opening):
    """The same for an `async def` generator function."""

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with contextlib.ExitStack() as stack:
            args, kwargs = self._opened(stack, args, kwargs)
            async with contextlib.aclosing(self.fn(*args, **kwargs)) as items:
                async for item in items:
                    yield item


_OPENINGS = (
    (inspect.iscoroutinefunction, _AsyncOpening),
    (inspect.isgeneratorfunction, _YieldingOpening),
    (inspect.isasyncgenfunction, _AsyncYieldingOpening),
)


def opening(
    fn: Callable[..., Any],
    texts: Mapping[str, Stored] = _NO_TEXTS,
    begun: Callable[[Future[Any]], object] | None = None,
) -> Opening:
    """The function that is to be called in the place of `fn` with `Stored` arguments.

    In a journal, `texts` stand for them. `begun` is called with the future of each attempt.
    """
    call = getattr(type(fn), "__call__", None)  # noqa: B004 (looked at, not called)
    kinds = (kind for is_one, kind in _OPENINGS if is_one(fn) or is_one(call))
    return next(kinds, Opening)(fn, texts, begun)


class Batch:
    """The folder of one task."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def remove(self, _: object = None) -> None:
        """Remove it with its files; a second call does nothing. Also a done callback."""
        try:
            shutil.rmtree(self.folder)
        except FileNotFoundError:
            pass
        except OSError:
            _log.exception("the uploads of a task in %r cannot be removed", str(self.folder))


class Uploads:
    """The uploads of the tasks of one `Delay` on one app. May be used from any thread."""

    def __init__(self, folder: Path, most: int | None, prefix: str) -> None:
        """Make no folder yet. `most` is in bytes, `prefix` that of the app's settings."""
        self.folder = folder
        self._most = most
        self._prefix = prefix

    def submit(  # noqa: PLR0917 (called by the native module)
        self,
        executor: Executor,
        policy: _Policy | None,
        scope: Any,
        fn: Callable[..., Any],
        args: _Args,
        kwargs: _Kwargs,
    ) -> Future[Any]:
        """Submit a call with uploads among its arguments. Raises as `keep`, and as a submit."""
        submit = partial(executor._submit_with, policy, scope)  # noqa: SLF001
        return self.submit_by(submit, fn, args, kwargs)

    def submit_by(
        self,
        submit: Callable[..., Future[Any]],
        fn: Callable[..., Any],
        args: _Args,
        kwargs: _Kwargs,
    ) -> Future[Any]:
        """As `submit`, by a function that takes the function and what stands for the uploads."""
        _check_call(fn, *args, **kwargs)
        batch, args, kwargs = self.keep(own_folder(self), fn, args, kwargs)
        try:
            future = submit(opening(fn), *args, **kwargs)
        except BaseException:
            batch.remove()
            raise
        # With `unique` it may be another task's, whose end comes later than necessary.
        future.add_done_callback(batch.remove)
        return future

    def keep(
        self, folder: Path, fn: Callable[..., Any], args: _Args, kwargs: _Kwargs
    ) -> tuple[Batch, _Args, _Kwargs]:
        """Keep the uploads among the arguments in a new folder below `folder`.

        Returns it, and the arguments with what stands for the uploads. Raises
        RequestEntityTooLarge above `UPLOAD_MAX_BYTES`, ValueError for an upload that is closed or
        cannot be read again, OSError if the files cannot be written. Nothing stays behind then.
        """
        sizes = {id(file): _size(file) for file in found(args, kwargs)}
        total = sum(sizes.values())
        if self._most is not None and total > self._most:
            raise RequestEntityTooLarge(
                f"the uploads for the task {task_name(fn)!r} have {total:,} bytes, and"
                f" {self._prefix}UPLOAD_MAX_BYTES allows {self._most:,}"
            )
        wants_path = _wants_path(fn)
        kept: dict[tuple[int, bool], Stored] = {}

        def change(as_path: bool, file: Any) -> Any:
            if not issubclass(type(file), FileStorage):
                return file
            key = id(file), as_path
            if key not in kept:
                suffix = Path(file.filename or "").suffix
                number = f"{len(kept)}{suffix if _SUFFIX.fullmatch(suffix) else ''}"
                _write(file, batch.folder / number)
                kept[key] = Stored(
                    str(batch.folder / number),
                    sizes[id(file)],
                    file.filename,
                    file.name,
                    # They may be any mapping.
                    tuple(Headers(file.headers)),
                    as_path,
                )
            return kept[key]

        with self._told():
            batch = Batch(folder / secrets.token_hex(16))
            batch.folder.mkdir(mode=0o700)
            try:
                args, kwargs = _mapped(args, kwargs, change, wants_path)
            except BaseException:
                batch.remove()
                raise
        return batch, args, kwargs

    def keep_lasting(
        self, folder: Path, id: str, fn: Callable[..., Any], args: _Args, kwargs: _Kwargs
    ) -> tuple[Batch, _Args, _Kwargs, dict[str, Any]]:
        """As `keep`, for the durable task with this id.

        Returns texts for the uploads, and for JSON what the texts mean.
        """
        _check_call(fn, *args, **kwargs)
        with self._told():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        batch, args, kwargs = self.keep(folder, fn, args, kwargs)
        notes: dict[str, Any] = {}

        def change(value: Any) -> Any:
            if type(value) is not Stored:
                return value
            place = Path(value.path).relative_to(folder).as_posix()
            text = f"{value!r} {place}"
            notes[text] = [
                place, value.size, value.filename, value.name, value.headers, value.as_path,
            ]  # fmt: skip
            return text

        try:
            with self._told():
                (batch.folder / _TASK).write_text(id, "utf-8")
            args, kwargs = _mapped(args, kwargs, change)
        except BaseException:
            batch.remove()
            raise
        return batch, args, kwargs, notes

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Says what to do about an error of the file system."""
        try:
            yield
        except OSError as error:
            if error.errno is None:
                raise
            raise OSError(
                error.errno,
                f"{error.strerror}: the upload cannot be kept for the task in {str(self.folder)!r};"
                f" make room there, give this user the folder, or set {self._prefix}UPLOAD_DIR to"
                f" another one",
            ) from error

    def problem(self) -> str | None:
        """Why no upload can be kept, or None."""
        # `os.path`, since `Path.exists` raises where this user may not look.
        places = (self.folder, *self.folder.parents)
        there = next(place for place in places if os.path.exists(place))  # noqa: PTH110
        if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
            return None
        return (
            f"{str(self.folder)!r} cannot be written by this user, and uploads for tasks are kept"
            f" there: change the owner of {str(there)!r}, or set {self._prefix}UPLOAD_DIR to"
            f" another folder"
        )

    def count(self) -> tuple[int, int]:
        """How many uploads there are in the folder, and their bytes."""
        sizes = []
        for place, _, names in os.walk(self.folder):
            for name in names:
                if place != str(self.folder) and name != _TASK:
                    with contextlib.suppress(FileNotFoundError):
                        sizes.append(os.stat(os.path.join(place, name)).st_size)  # noqa: PTH116, PTH118
        return len(sizes), sum(sizes)


# --- Arguments ------------------------------------------------------------------------


def found(args: _Args, kwargs: _Kwargs) -> list[FileStorage]:
    """The uploads among the arguments, each once."""
    files: dict[int, FileStorage] = {}

    def look(value: Any) -> Any:
        if issubclass(type(value), FileStorage):
            files[id(value)] = value
        return value

    _mapped(args, kwargs, look)
    return list(files.values())


def _mapped(
    args: _Args,
    kwargs: _Kwargs,
    change: Callable[..., Any],
    knows: Callable[[int | str], bool] | None = None,
) -> tuple[_Args, _Kwargs]:
    """The arguments with what `change` makes of each value in them.

    With `knows`, `change` is called with what that says of the argument, and the value.
    """

    def step(key: int | str, value: Any) -> Any:
        return _changed(value, change if knows is None else partial(change, knows(key)), _DEPTH)

    return (
        tuple(step(index, value) for index, value in enumerate(args)),
        {name: step(name, value) for name, value in kwargs.items()},
    )


def _changed(value: Any, change: Callable[[Any], Any], depth: int) -> Any:
    """The value, or a copy of the container with what `change` has made of its items."""
    new = change(value)
    kind = type(value)
    if new is not value or depth == 0 or not issubclass(kind, list | tuple | dict):
        return new
    inner = partial(_changed, change=change, depth=depth - 1)
    if issubclass(kind, dict):
        is_multi = issubclass(kind, MultiDict)
        pairs = list(value.items(multi=True) if is_multi else value.items())
        # As the native module, which looks at the lists of values.
        inner = partial(inner, depth=depth - 2) if is_multi else inner
        changed = [(key, inner(it)) for key, it in pairs]
        if all(one is two for (_, one), (_, two) in zip(pairs, changed, strict=True)):
            return value
        if is_multi or kind is dict:
            return kind(changed)
        new = copy.copy(value)
        new.update(changed)
        return new
    if kind is not list and kind is not tuple:
        return value
    items = [inner(it) for it in value]
    return value if all(map(_is, items, value)) else kind(items)


def _is(one: object, two: object) -> bool:
    return one is two


def _wants_path(fn: Callable[..., Any]) -> Callable[[int | str], bool]:
    """A function that tells whether the parameter for an argument is annotated as a path."""
    parameters: Mapping[str, inspect.Parameter] = {}
    # What has no signature has no annotations.
    with contextlib.suppress(Exception):
        parameters = inspect.signature(fn).parameters
    by_place = [it for it in parameters.values() if it.kind in _BY_PLACE]
    rest = {it.kind: it for it in parameters.values()}

    def wants(key: int | str) -> bool:
        if isinstance(key, str):
            parameter = parameters.get(key) or rest.get(inspect.Parameter.VAR_KEYWORD)
        elif key < len(by_place):
            parameter = by_place[key]
        else:
            parameter = rest.get(inspect.Parameter.VAR_POSITIONAL)
        return parameter is not None and _means_path(_resolved(fn, parameter.annotation))

    return wants


_BY_PLACE = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _resolved(fn: Callable[..., Any], annotation: Any) -> Any:
    """The annotation, also if it is text; None if that means nothing here."""
    if not isinstance(annotation, str):
        return annotation
    while isinstance(fn, partial):
        fn = fn.func
    fn = inspect.unwrap(fn)
    if not hasattr(fn, "__globals__"):
        # An object that is called.
        fn = inspect.unwrap(getattr(type(fn), "__call__", fn))  # noqa: B004
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    try:
        return typing.get_type_hints(holder, getattr(fn, "__globals__", {}))["it"]
    except Exception:
        # Such as a name that is imported for type checkers alone.
        return None


def _means_path(annotation: Any) -> bool:
    """Whether the annotation is Path, or has it within, and takes no upload."""
    if annotation is Path:
        return True
    inner = typing.get_args(annotation)
    return any(map(_means_path, inner)) and FileStorage not in inner


def without(args: _Args, kwargs: _Kwargs) -> tuple[_Args, _Kwargs]:
    """The arguments with None for each upload."""
    return _mapped(args, kwargs, lambda it: None if issubclass(type(it), FileStorage) else it)


# --- In a journal ---------------------------------------------------------------------

# A durable task's folder is in one that all processes share, and has the task's id in a file.


def lasting_folder(uploads: Uploads, name: str) -> Path:
    """The folder of durable tasks of this name, whether it is there or not."""
    return uploads.folder / f"durable-{hashlib.sha256(name.encode()).hexdigest()[:32]}"


def read_notes(folder: Path, notes: Mapping[str, Any]) -> tuple[Batch, dict[str, Stored]]:
    """What the texts of `keep_lasting` mean. Raises ValueError or TypeError for other notes."""
    found = {}
    for text, (place, size, filename, name, headers, as_path) in notes.items():
        if not _PLACE.fullmatch(place):
            raise ValueError(place)
        pairs = tuple((str(key), str(value)) for key, value in headers)
        found[text] = Stored(str(folder / place), int(size), filename, name, pairs, bool(as_path))
    first = next(iter(found.values()))
    return Batch(Path(first.path).parent), found


def reader(texts: Mapping[str, Stored]) -> Callable[[Any], Any]:
    """A function that returns an argument with what its texts stand for."""

    def known(value: Any) -> Any:
        return texts.get(value, value) if type(value) is str else value

    return lambda value: _changed(value, known, _DEPTH)


def lasting(folder: Path) -> Iterator[tuple[Batch, str | None, float]]:
    """The folders of durable tasks, the tasks' ids, and when each was made (since 1970)."""
    with contextlib.suppress(FileNotFoundError):
        for place in folder.iterdir():
            if not _BATCH.fullmatch(place.name):
                continue
            id = None
            with contextlib.suppress(FileNotFoundError):
                id = (place / _TASK).read_text("utf-8")
            with contextlib.suppress(FileNotFoundError):
                yield Batch(place), id, place.stat().st_mtime


# --- Files ----------------------------------------------------------------------------


def _size(file: FileStorage) -> int:
    """The bytes of an upload, from its beginning. Raises ValueError if it cannot be read again."""
    stream = file.stream
    try:
        place = stream.tell()
        stream.seek(0, os.SEEK_END)
        size = stream.tell()
        stream.seek(place)
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(
            f"the upload {file.filename!r} cannot be read for the task ({error}): submit the task"
            f" before the file is closed, or pass file.read()"
        ) from error
    return size


def _write(file: FileStorage, path: Path) -> None:
    """Have the whole upload at `path`, without a copy of it in memory. Its place is kept."""
    stream = file.stream
    place = stream.tell()
    source = _descriptor(stream)
    if source is None or not _linked(stream, source, path):
        with open(path, "xb", opener=_private) as target:
            if source is None or not _copied(source, target.fileno()):
                stream.seek(0)
                shutil.copyfileobj(stream, target, 1 << 20)
    stream.seek(place)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _descriptor(stream: IO[bytes]) -> int | None:
    """That of the stream's file, to which all is written; None if it has none."""
    found: Any = stream
    if isinstance(stream, tempfile.SpooledTemporaryFile):
        # To ask for the descriptor of one in memory would write it to the disk.
        if stream.name is None:
            return None
        found = stream._file  # noqa: SLF001
    found = getattr(found, "file", found)
    # Others, such as those that unpack, need not say what is in their file.
    if type(getattr(found, "raw", found)) is not io.FileIO:
        return None
    try:
        descriptor = stream.fileno()
        stream.flush()
    except (OSError, ValueError, AttributeError):
        return None
    return descriptor


def _linked(stream: IO[bytes], source: int, path: Path) -> bool:
    """Whether the file could be given another name: only a temporary one, which is nobody's."""
    if os.fstat(source).st_nlink and getattr(stream, "delete", False) is not True:
        return False
    with contextlib.suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            # With a folder, the system follows the link.
            os.link(f"/proc/self/fd/{source}", path.name, dst_dir_fd=folder)
        finally:
            os.close(folder)
        path.chmod(0o600)
        return True
    return False


def _copied(source: int, target: int) -> bool:
    """Whether the system could copy the file, which does not pass through this process then."""
    copy_range = getattr(os, "copy_file_range", None)
    left = os.fstat(source).st_size
    done = 0
    try:
        while copy_range is not None and left > done:
            count = copy_range(source, target, min(left - done, _CHUNK), done)
            if count == 0:
                break
            done += count
    except OSError as error:
        if error.errno in _FULL:
            raise
        done = -1
    if done == left:
        return True
    os.ftruncate(target, 0)
    os.lseek(target, 0, os.SEEK_SET)
    return False


# --- The folders of processes -----------------------------------------------------------

# By process and folder; with the descriptor of the lock file. No lock: each access is atomic.
_own: dict[tuple[int, Path], tuple[Path, int]] = {}
# The names of such folders, with those that are being made.
_names: dict[tuple[int, str], None] = {}


def own_folder(uploads: Uploads) -> Path:
    """The folder of this process, which is made at first use, after a sweep. Raises OSError."""
    key = os.getpid(), uploads.folder
    found = _own.get(key)
    # What cleans up may have removed it.
    if found is None or not found[0].is_dir():
        with uploads._told():  # noqa: SLF001
            uploads.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            sweep(uploads.folder)
            made = _made(uploads.folder)
        if found is not None:
            _own.pop(key, None)
        found = _own.setdefault(key, made)
        if found is not made:
            _dropped(made)
    return found[0]


def _made(folder: Path) -> tuple[Path, int]:
    for _ in range(_TRIES):
        token = secrets.token_hex(16)
        lock = folder / f"{token}.lock"
        # Before another thread's sweep can see it: to close it there would unlock it.
        _names[os.getpid(), token] = None
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A sweep may have removed it before it was locked.
            if os.fstat(descriptor).st_nlink:
                (folder / token).mkdir(mode=0o700)
                return folder / token, descriptor
        except BlockingIOError:
            pass
        except BaseException:
            lock.unlink(missing_ok=True)
            os.close(descriptor)
            raise
        os.close(descriptor)
    raise BlockingIOError(f"other processes remove all that this one makes in {str(folder)!r}")


def _dropped(own: tuple[Path, int]) -> None:
    """Remove the folder of this process if it is empty, and its lock file with it."""
    folder, descriptor = own
    with contextlib.suppress(OSError):
        folder.rmdir()
        folder.with_suffix(".lock").unlink()
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove what processes have left behind that are no longer alive."""
    try:
        places = list(folder.iterdir())
    except FileNotFoundError:
        return
    for place in places:
        match = _PROCESS.fullmatch(place.name)
        if match is not None and (os.getpid(), match[1]) not in _names:
            _swept(folder / match[1])


def _swept(folder: Path) -> None:
    lock = folder.with_suffix(".lock")
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        # Another sweep was quicker, or it is another user's.
        return
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
        lock.unlink(missing_ok=True)
    except OSError:
        # Its process is alive.
        return
    finally:
        os.close(descriptor)


def _leave() -> None:
    """Remove the empty folders of this process, which ends."""
    for key, own in list(_own.items()):
        if key[0] == os.getpid():
            del _own[key]
            _dropped(own)


atexit.register(_leave)
