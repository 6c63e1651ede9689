"""Uploads among the arguments: what the task gets, where the files are, and that none is left."""

import errno
import functools
import gzip
import io
import os
import resource
import stat
import sys
import tempfile
import threading
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pytest
from flask import Request, request
from tests.uploaded import uploads_in
from werkzeug.datastructures import FileStorage, ImmutableMultiDict
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.formparser import default_stream_factory
from werkzeug.test import encode_multipart

from flask_delay import QueueFull, TaskTimeout, delay, uploads, using
from flask_delay.commands import checks

if TYPE_CHECKING:
    from somewhere import Something  # type: ignore[import-not-found]

DATA = os.urandom(5_000_000)


@pytest.fixture
def left(app, tmp_path):
    """The files that are there now, without those that say which processes live."""
    return lambda: uploads_in(tmp_path / "instance")


@pytest.fixture
def gone(left, wait_until):
    """The file of a task is removed after its end, which its result does not wait for."""

    def check() -> None:
        assert wait_until(lambda: not left()), left()

    return check


def post(app, view, **files):
    """What a view does with the files of a request, outside of a server."""
    app.add_url_rule(f"/{id(view)}", endpoint=str(id(view)), view_func=view, methods=["POST"])
    answer = app.test_client().post(f"/{id(view)}", data=files)
    # The client's own file.
    answer.request.environ["wsgi.input"].close()
    return answer


def of(data=b"data", filename="report.csv", **rest):
    return FileStorage(io.BytesIO(data), filename=filename, name="report", **rest)


def told(file):
    return type(file), file.filename, file.name, file.content_type, file.stream.tell(), file.read()


# --- What the task gets ---------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 5, 600_000, len(DATA)], ids=["none", "small", "disk", "big"])
def test_a_task_gets_an_upload_of_its_own(app, gone, deadline, size):
    futures = []

    def view():
        file = request.files["report"]
        # As to look which kind of file it is.
        file.read(3)
        futures.append(delay(told, file))
        assert file.read() == DATA[3:size]
        file.close()
        return "ok"

    assert post(app, view, report=(io.BytesIO(DATA[:size]), "a b.csv", "text/csv")).data == b"ok"
    assert futures[0].result(deadline) == (
        FileStorage, "a b.csv", "report", "text/csv", 0, DATA[:size],
    )  # fmt: skip
    assert futures[0].name == "told"
    gone()


def test_headers_arrive(app, deadline):
    file = of(headers={"X-Kind": "monthly", "Content-Type": "text/csv"})
    with app.app_context():
        assert delay(lambda it: dict(it.headers), file).result(deadline) == dict(file.headers)


@pytest.mark.parametrize("name", ["", None])
def test_an_upload_without_a_name(app, deadline, name):
    with app.app_context():
        assert delay(lambda it: it.filename, of(filename=name)).result(deadline) == name


def test_a_generator_function_reads_while_it_yields(app, gone, deadline):
    def read(file):
        yield file.read(2)
        yield file.read()
        return "read"

    async def read_async(file):
        for item in read(file):
            yield item

    for function, result in ((read, "read"), (read_async, None)):
        with app.app_context():
            future = delay(function, of(b"data"))
        assert list(future.stream(timeout=deadline)) == [b"da", b"ta"]
        assert future.result(deadline) == result
    gone()


def test_a_coroutine_function(app, gone, deadline):
    async def read(file):
        return file.read()

    with app.app_context():
        assert delay(read, of()).result(deadline) == b"data"
    gone()


@pytest.mark.parametrize(
    ("wrap", "unwrap"),
    [
        (lambda it: [1, *it], lambda it: it[1:]),
        (tuple, list),
        (lambda it: {"a": it[0], "b": it[1]}, lambda it: list(it.values())),
        (lambda it: [it], lambda it: it[0]),
        (lambda it: {"key": it}, lambda it: it["key"]),
        (
            lambda it: ImmutableMultiDict([("a", 1), *(("b", one) for one in it)]),
            lambda it: it.getlist("b"),
        ),
    ],
    ids=["list", "tuple", "dict", "lists", "lists of a dict", "files of a request"],
)
def test_in_a_container(app, gone, deadline, wrap, unwrap):
    def read(found):
        return type(found), [it.read() for it in unwrap(found)]

    value = wrap([of(b"1"), of(b"2")])
    with app.app_context():
        assert delay(read, value).result(deadline) == (type(value), [b"1", b"2"])
    # The view's own is as it was.
    assert [it.read() for it in unwrap(value)] == [b"1", b"2"]
    gone()


def test_the_same_upload_twice_is_one_file(app, left, deadline):
    file, go = of(), threading.Event()

    def read(one, two):
        assert go.wait(deadline)
        return one is not two, one.read(), two.read()

    with app.app_context():
        future = delay(read, file, file)
        assert len(left()) == 1
        go.set()
        assert future.result(deadline)[1:] == (b"data", b"") or future.result()


def by_annotation(file: Path):
    return file


def by_text(file: "Path"):
    return file


def by_keyword(*, file: Path | None):
    return file


def by_several(*files: Path):
    return files[-1]


def by_names(**files: Annotated[Path, "annotated"]):
    return files["file"]


def by_list(files: "list[Path]"):
    return files[0]


class Held:
    def method(self, file: Path):
        return file

    def __call__(self, file: Path):
        return file


class HeldByText:
    def __call__(self, file: "Path"):
        return file


@pytest.mark.parametrize(
    "call",
    [
        lambda it: delay(by_annotation, it),
        lambda it: delay(by_annotation, file=it),
        lambda it: delay(by_text, it),
        lambda it: delay(by_keyword, file=it),
        lambda it: delay(by_several, it, it),
        lambda it: delay(by_names, file=it),
        lambda it: delay(by_list, [it]),
        lambda it: delay(Held().method, it),
        lambda it: delay(Held(), it),
        lambda it: delay(HeldByText(), it),
        lambda it: delay(functools.partial(HeldByText()), it),
        lambda it: delay(functools.partial(by_annotation), it),
    ],
)
def test_a_path_for_a_parameter_that_takes_one(app, deadline, gone, call):
    with app.app_context():
        path = call(of(filename="video.MP4")).result(deadline)
    assert isinstance(path, Path)
    # Programs tell from it what is in the file.
    assert path.suffix == ".MP4"
    gone()


def test_a_path_has_the_file(app, deadline):
    def read(file: Path):
        return file.read_bytes(), stat.S_IMODE(file.stat().st_mode), file.stat().st_size

    with app.app_context():
        assert delay(read, of()).result(deadline) == (b"data", 0o600, 4)


def for_checkers(file: "Something"):
    return file.read()


def either(file: "FileStorage | Path"):
    assert isinstance(file, FileStorage)
    return file.read()


@pytest.mark.parametrize("fn", [for_checkers, either])
def test_an_annotation_without_a_meaning_here_is_no_path(app, deadline, fn):
    with app.app_context():
        assert delay(fn, of()).result(deadline) == b"data"


@pytest.mark.parametrize("name", ["../../etc/passwd", "x./../y", "a.\0b", "a." + "x" * 300, ".."])
def test_a_filename_is_only_told(app, left, deadline, name, tmp_path):
    def look(file):
        (found,) = left()
        return file.filename, found.relative_to(tmp_path / "instance/delay/uploads").parts[2]

    with app.app_context():
        assert delay(look, of(filename=name)).result(deadline) == (name, "0")


# --- Attempts and ends ------------------------------------------------------------------


def test_each_attempt_reads_from_the_beginning(app, gone, deadline):
    seen = []

    def read(file):
        seen.append((file.stream, file.read()))
        if len(seen) < 3:
            raise ValueError("again")

    with app.app_context():
        using(retry=2).delay(read, of()).result(deadline)
    assert [data for _, data in seen] == [b"data"] * 3
    assert all(stream.closed for stream, _ in seen)
    gone()


def test_a_failure_removes_the_file(app, gone, deadline):
    def fail(_):
        raise ValueError("no")

    with app.app_context():
        assert isinstance(delay(fail, of()).exception(deadline), ValueError)
    gone()


def test_a_timeout_removes_the_file(app, gone, deadline):
    def wait(_):
        while True:
            pass

    with app.app_context():
        error = using(timeout=0.05).delay(wait, of()).exception(deadline)
    assert isinstance(error, TaskTimeout)
    gone()


@pytest.mark.parametrize("how", ["cancel", "expire", "drop", "shut down"])
def test_a_task_that_never_runs_removes_the_file(make_app, tmp_path, wait_until, deadline, how):
    app = make_app(DELAY_MAX_WORKERS=1, DELAY_QUEUE_SIZE=1, DELAY_WHEN_FULL="drop_oldest")
    background = app.extensions["delay"].owner
    go, begun = threading.Event(), threading.Event()

    def hold():
        begun.set()
        assert go.wait(deadline)

    with app.app_context():
        running = delay(hold)
        assert begun.wait(deadline)
        given = {"expires": 0.01} if how == "expire" else {}
        future = using(**given).delay(told, of())
        assert len(uploads_in(tmp_path)) == 1
        if how == "cancel":
            assert future.cancel()
        elif how == "drop":
            delay(int)
        elif how == "shut down":
            background.shutdown(wait=False, cancel_futures=True)
        else:
            threading.Event().wait(0.02)
        go.set()
        running.result(deadline)
        assert future.exception(deadline) if how == "expire" else wait_until(future.cancelled)
    assert wait_until(lambda: not uploads_in(tmp_path))


def test_a_submit_that_fails_leaves_nothing(make_app, tmp_path, deadline):
    app = make_app(DELAY_MAX_WORKERS=1, DELAY_QUEUE_SIZE=1, DELAY_WHEN_FULL="raise")
    go, begun = threading.Event(), threading.Event()

    def hold():
        begun.set()
        assert go.wait(deadline)

    with app.app_context():
        delay(hold)
        assert begun.wait(deadline)
        delay(int)
        with pytest.raises(QueueFull):
            delay(told, of())
        assert uploads_in(tmp_path) == []
        with pytest.raises(TypeError, match=r"told\(\) missing 1 required positional argument"):
            delay(told)
        with pytest.raises(TypeError, match="got an unexpected keyword argument 'name'"):
            delay(told, of(), name=1)
        go.set()
    app.extensions["delay"].shutdown(wait=True, cancel_futures=False)
    with app.app_context(), pytest.raises(RuntimeError):
        delay(told, of())
    assert uploads_in(tmp_path) == []


@pytest.mark.parametrize("mode", ["immediate", "manual"])
def test_in_tests(make_app, tmp_path, mode):
    app = make_app(DELAY_MODE=mode)
    with app.app_context():
        future = delay(told, of())
    if mode == "manual":
        assert len(uploads_in(tmp_path)) == 1
        app.extensions["delay"].executor.run_pending()
    assert future.result(0)[-1] == b"data"
    assert uploads_in(tmp_path) == []


def test_map_and_the_options_that_go_by_the_function(app, gone, deadline):
    running, most = [], []

    def read(file):
        running.append(1)
        most.append(len(running))
        running.pop()
        return file.read()

    with app.app_context():
        data = [str(it).encode() for it in range(20)]
        found = using(limit=1).map(read, [of(it) for it in data], timeout=deadline)
        assert list(found) == data
        assert max(most) == 1
        keyed = using(key=lambda file: file.filename, unique=True).delay
        go = threading.Event()

        def wait(_):
            return go.wait(deadline)

        one, two = keyed(wait, of()), keyed(wait, of())
        assert one is two
        go.set()
        assert one.result(deadline)
    gone()


def test_the_last_of_several_calls(app, gone, deadline):
    with app.app_context():
        one, two = (using(debounce=0.2).delay(told, of(data)) for data in (b"1", b"2"))
    assert two.result(deadline)[-1] == b"2"
    assert one.cancelled()
    gone()


def test_after_a_commit_that_does_not_come(app, gone):
    orm = pytest.importorskip("sqlalchemy.orm")
    engine = pytest.importorskip("sqlalchemy").create_engine("sqlite://")
    with app.app_context(), orm.Session(engine) as session:
        session.connection()
        future = using(after_commit=session).delay(told, of())
        session.rollback()
    engine.dispose()
    assert future.cancelled()
    gone()


def test_a_page_shows_the_name_and_the_size(make_app, deadline):
    app = make_app()
    background = app.extensions["delay"].owner
    app.register_blueprint(
        background.dashboard_blueprint(authorize=lambda: True, arguments=True), url_prefix="/page"
    )
    begun, go = threading.Event(), threading.Event()

    def wait(file):
        begun.set()
        return go.wait(deadline), file.read()

    with app.app_context():
        future = delay(wait, of(b"secret" * 1000, "plan.txt"))
        assert begun.wait(deadline)
        page = app.test_client().get("/page/running").text
        go.set()
        future.result(deadline)
    assert "plan.txt" in page
    assert "6,000 bytes" in page
    assert "secretsecret" not in page


# --- What is refused --------------------------------------------------------------------


def test_too_many_bytes(make_app, tmp_path, deadline):
    app = make_app(DELAY_UPLOAD_MAX_BYTES="10")
    with app.app_context():
        assert delay(told, of(b"x" * 10)).result(deadline)
        match = "'told' have 11 bytes, and DELAY_UPLOAD_MAX_BYTES allows 10"
        with pytest.raises(RequestEntityTooLarge, match=match):
            delay(told, of(b"x" * 11))
        # All of a task together, each once.
        with pytest.raises(RequestEntityTooLarge, match="have 12 bytes"):
            delay(len, [of(b"x" * 6), of(b"x" * 6)])
        one = of(b"x" * 6)
        assert delay(len, [one, one]).result(deadline) == 2

    def view():
        delay(told, request.files["report"])

    assert post(app, view, report=(io.BytesIO(b"x" * 11), "a")).status_code == 413


class NotAgain(io.BytesIO):
    def seekable(self):
        return False

    def seek(self, *_):
        raise io.UnsupportedOperation("not seekable")


def test_what_cannot_be_read(app, left):
    closed = of()
    closed.close()
    with app.app_context():
        with pytest.raises(ValueError, match=r"'report.csv' cannot be read .*before the file is c"):
            delay(told, closed)
        with pytest.raises(ValueError, match=r"'report.csv' cannot be read .*file\.read\(\)"):
            delay(told, FileStorage(NotAgain(b"x"), "report.csv"))
        with pytest.raises(TypeError, match="bytes-like"):
            delay(told, FileStorage(io.StringIO("text"), "report.csv"))
    assert left() == []


def test_the_stream_of_a_body_is_still_refused(app):
    def view():
        with pytest.raises(TypeError, match=r"stream of a request.*request\.get_data\(\)"):
            delay(told, request.stream)
        return "ok"

    assert post(app, view, report=(io.BytesIO(b"x"), "a")).data == b"ok"


@pytest.mark.skipif(not hasattr(os, "copy_file_range"), reason="the copy is Python's own")
@pytest.mark.parametrize("data", [b"x", DATA], ids=["from memory", "from a file"])
def test_a_full_disk(app, left, monkeypatch, data):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "copy_file_range", full)
    monkeypatch.setattr(uploads.shutil, "copyfileobj", full)
    with tempfile.TemporaryFile() as file:
        file.write(data)
        stream = io.BytesIO(data) if data == b"x" else file
        with app.app_context(), pytest.raises(OSError, match="make room.*DELAY_UPLOAD_DIR") as e:
            delay(told, FileStorage(stream, "report.csv"))
    assert e.value.errno == errno.ENOSPC
    assert left() == []


def test_a_system_that_copies_no_files(app, monkeypatch, deadline):
    calls = []

    def refuse(*given):
        calls.append(given)
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "copy_file_range", refuse, raising=False)
    with tempfile.TemporaryFile() as file, app.app_context():
        file.write(DATA)
        assert delay(told, FileStorage(file, "a")).result(deadline)[-1] == DATA
    assert calls


def test_a_folder_that_cannot_be(make_app, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"DELAY_UPLOAD_DIR is .*/file/uploads', but .*another f"):
        make_app(DELAY_UPLOAD_DIR=str(tmp_path / "file/uploads"))
    with pytest.raises(ValueError, match="DELAY_UPLOAD_DIR is 5"):
        make_app(DELAY_UPLOAD_DIR=5)
    (tmp_path / "instance").write_text("")
    # The default one is needed by uploads alone.
    app = make_app()
    with app.app_context(), pytest.raises(OSError, match="set DELAY_UPLOAD_DIR to another one"):
        delay(told, of())


def test_a_folder_behind_one_that_this_user_may_not_look_into(make_app, tmp_path, monkeypatch):
    def refuse(self, **_):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    # `Path.exists` of older Pythons passes this on, for users who are not root.
    monkeypatch.setattr(uploads.Path, "exists", refuse)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot be written by this user.*another folder"):
        make_app(DELAY_UPLOAD_DIR=str(tmp_path / "file/uploads"))


# --- Where the files are ------------------------------------------------------------------


def test_nobody_else_can_read_them(make_app, tmp_path, deadline):
    app = make_app(DELAY_UPLOAD_DIR=str(tmp_path / "there"))

    def look(_):
        found = [tmp_path / "there", *(tmp_path / "there").rglob("*")]
        return {it.is_dir() for it in found if stat.S_IMODE(it.stat().st_mode) & 0o077}, len(found)

    with app.app_context():
        # The folder, that of the process, its lock file, that of the task, and the file.
        assert delay(look, of()).result(deadline) == (set(), 5)


class Named(Request):
    """Whose uploads are files with names, in the folder of the test."""

    folder: Path

    def _get_file_stream(self, *_: Any, **__: Any) -> Any:
        return tempfile.NamedTemporaryFile(dir=self.folder)


@pytest.mark.skipif(sys.platform != "linux", reason="an open file gets a name there alone")
def test_a_named_temporary_file_is_linked(app, tmp_path, deadline, monkeypatch):
    monkeypatch.setattr(uploads.shutil, "copyfileobj", None)
    monkeypatch.setattr(os, "copy_file_range", None)
    monkeypatch.setattr(Named, "folder", tmp_path, raising=False)
    app.request_class = Named
    futures = []

    def view():
        futures.append(delay(told, request.files["report"]))
        return "ok"

    assert post(app, view, report=(io.BytesIO(DATA), "a.csv")).data == b"ok"
    assert futures[0].result(deadline)[-1] == DATA


def test_a_file_of_somebody_s_is_copied(app, tmp_path, deadline):
    mine = tmp_path / "mine"
    mine.write_bytes(b"mine")
    mine.chmod(0o644)

    def spoil(file: Path):
        file.write_bytes(b"theirs")

    with mine.open("rb") as stream, app.app_context():
        delay(spoil, FileStorage(stream, "a")).result(deadline)
    assert (mine.read_bytes(), stat.S_IMODE(mine.stat().st_mode)) == (b"mine", 0o644)


def test_a_stream_that_unpacks_is_read(app, tmp_path, deadline):
    with gzip.open(tmp_path / "a.gz", "wb") as file:
        file.write(DATA)
    with gzip.open(tmp_path / "a.gz", "rb") as file, app.app_context():
        assert delay(told, FileStorage(file, "a")).result(deadline)[-1] == DATA


def test_an_upload_in_memory_stays_there_until_it_is_written(app, deadline):
    with default_stream_factory(None, None, None) as stream, app.app_context():
        stream.write(b"data")
        assert delay(told, FileStorage(stream, "a")).result(deadline)[-1] == b"data"
        assert stream.name is None


@pytest.mark.slow
def test_a_big_upload_takes_no_memory(app, deadline):
    size = 200_000_000
    with tempfile.TemporaryFile() as file, app.app_context():
        file.truncate(size)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        future = delay(lambda it: it.stream.seek(0, 2), FileStorage(file, "a"))
        assert future.result(deadline) == size
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 30_000, "in kilobytes"


LEAVES = """
import io, os, signal, sys, threading
from flask import Flask
from werkzeug.datastructures import FileStorage
from flask_delay import Delay, delay

app = Flask("app", instance_path=sys.argv[1])
background = Delay(app)
begun = threading.Event()

def wait(file, seconds=60):
    begun.set()
    threading.Event().wait(seconds)

with app.app_context():
    if sys.argv[2] == "end":
        delay(wait, FileStorage(io.BytesIO(b"data"), "a"), 0.1)
    else:
        delay(wait, FileStorage(io.BytesIO(b"data"), "a"))
        assert begun.wait(20)
        os.kill(os.getpid(), signal.SIGKILL)
"""


FULL = """
import resource, sys, tempfile
from pathlib import Path
from flask import Flask
from werkzeug.datastructures import FileStorage
from flask_delay import Delay, delay

app = Flask("app", instance_path=sys.argv[1])
Delay(app)
with tempfile.TemporaryFile() as file, app.app_context():
    file.write(bytes(5_000_000))
    file.flush()
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
    try:
        delay(len, FileStorage(file, "a"))
    except OSError as error:
        print(error)
"""


def test_a_file_that_the_system_does_not_take_whole(run_script, tmp_path):
    done = run_script(FULL, str(tmp_path / "instance"))
    assert "make room there" in done.out, done
    assert uploads_in(tmp_path / "instance") == []


def test_what_a_killed_process_leaves_is_swept(app, run_script, tmp_path, deadline):
    folder = tmp_path / "instance/delay/uploads"
    assert run_script(LEAVES, str(tmp_path / "instance"), "kill").rc == -9
    (left,) = uploads_in(folder)
    with app.app_context():
        assert delay(told, of()).result(deadline)
    assert not left.exists()
    assert len(list(folder.glob("*.lock"))) == 1


def test_an_orderly_end_leaves_nothing(run_script, tmp_path):
    assert run_script(LEAVES, str(tmp_path / "instance"), "end").rc == 0
    assert list((tmp_path / "instance/delay/uploads").iterdir()) == []


def test_a_sweep_leaves_alone_what_others_have(app, tmp_path, run_script, deadline):
    """Of a process that lives, of this one, of a forked one; and what is not ours."""
    folder = tmp_path / "instance/delay/uploads"
    go = threading.Event()
    with app.app_context():
        future = delay(lambda _: go.wait(deadline), of())
        (mine,) = uploads_in(folder)
        (folder / "notes.txt").write_text("")
        done = run_script(LEAVES, str(tmp_path / "instance"), "end")
        assert (done.rc, mine.exists()) == (0, True)
        uploads.sweep(folder)
        pid = os.fork()
        if pid == 0:
            uploads.sweep(folder)
            os._exit(0)
        os.waitpid(pid, 0)
        assert mine.exists()
        # The lock is still there.
        assert run_script(LEAVES, str(tmp_path / "instance"), "end").rc == 0
        assert (mine.exists(), (folder / "notes.txt").exists()) == (True, True)
        go.set()
        assert future.result(deadline)


def test_a_folder_that_was_removed_is_made_again(app, gone, tmp_path, deadline):
    with app.app_context():
        for _ in range(2):
            assert delay(told, of()).result(deadline)
            gone()
            uploads.shutil.rmtree(tmp_path / "instance/delay/uploads")


def test_two_threads_at_once(app, deadline):
    start = threading.Barrier(8)
    found = []

    def submit():
        with app.app_context():
            start.wait(deadline)
            found.append(delay(told, of()))

    threads = [threading.Thread(target=submit) for _ in range(8)]
    for it in threads:
        it.start()
    for it in threads:
        it.join(deadline)
    assert [it.result(deadline)[-1] for it in found] == [b"data"] * 8


def test_check_tells_of_them(app, left, deadline, capsys):
    go = threading.Event()
    with app.app_context():
        future = delay(lambda _: go.wait(deadline), of())
        checks._look_at_uploads(*looked(app))
        go.set()
        future.result(deadline)
    assert "1 files with 4 bytes in" in capsys.readouterr().out


def looked(app):
    class Target:
        state = app.extensions["delay"]

    return Target(), checks._Report()


# --- Over HTTP ------------------------------------------------------------------------


def test_over_http(app, serve, deadline, gone):
    results = []

    @app.post("/")
    def start():
        future = delay(told, request.files["report"])
        future.add_done_callback(lambda it: results.append(it.result()))
        return {"task": future.id}

    kind, body = encode_multipart({"report": FileStorage(io.BytesIO(DATA), "a.csv")})
    ask = urllib.request.Request(
        serve(app), body, {"Content-Type": f'multipart/form-data; boundary="{kind}"'}
    )
    with urllib.request.urlopen(ask, timeout=deadline) as answer:
        assert answer.status == 200
    assert app.extensions["delay"].drain(deadline)
    assert results[0][-1] == DATA
    gone()
