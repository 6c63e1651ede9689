"""`examples/quickstart`, served by a real server and asked over HTTP."""

import base64
import hashlib
import http.client
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from flask import Flask
from hypothesis import given, settings
from hypothesis import strategies as st
from werkzeug.datastructures import FileStorage
from werkzeug.serving import make_server
from werkzeug.test import encode_multipart

import flask_delay.demo.quickstart
from flask_delay import delay

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/quickstart/app.py"
DEADLINE = 30.0


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: Any


class Site:
    """The served example, and a client."""

    def __init__(self, module: Any, app: Flask, port: int) -> None:
        self.module, self.app, self.port = module, app, port

    def request(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)
        try:
            connection.request(method, path, body, {"Content-Type": kind} if kind else {})
            response = connection.getresponse()
            return Answer(response.status, response.headers, json.loads(response.read()))
        finally:
            connection.close()

    def get(self, path: str) -> Answer:
        return self.request("GET", path)

    def post_json(self, value: object) -> Answer:
        return self.request("POST", "/digest", json.dumps(value).encode(), "application/json")

    def upload(self, data: bytes, name: str = "some.txt") -> Answer:
        boundary, body = encode_multipart({"file": FileStorage(io.BytesIO(data), name)})
        kind = f"multipart/form-data; boundary={boundary}"
        return self.request("POST", "/digest", body, kind)

    def wait(self, task: str, until: str = "callback") -> dict[str, Any]:
        """Ask until a field of the task is set."""
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            answer = self.get(f"/tasks/{task}")
            assert answer.status == 200, answer
            state: dict[str, Any] = answer.body
            if state[until]:
                return state
            time.sleep(0.01)
        raise AssertionError(f"no {until} in {state}")

    def result(self, answer: Answer) -> dict[str, Any]:
        """What the task that was answered so returned in the end."""
        assert answer.status == 202, answer
        state = self.wait(answer.body["id"])
        assert state["state"] == "finished"
        assert "error" not in state
        result: dict[str, Any] = state["result"]
        progress = state["progress"]
        assert (progress["done"], progress["total"]) == (result["size"], result["size"])
        return result


@pytest.fixture
def uploads(tmp_path, monkeypatch):
    """Where temporary files go."""
    directory = tmp_path / "uploads"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    return directory


@pytest.fixture
def folder(tmp_path):
    """What DIGEST_ROOT is set to."""
    directory = tmp_path / "allowed"
    directory.mkdir()
    return directory


@pytest.fixture
def site(uploads, folder):
    spec = importlib.util.spec_from_file_location("quickstart_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    app = module.create_app({"DIGEST_ROOT": str(folder)})
    server = make_server("127.0.0.1", 0, app, threaded=True)
    server.daemon_threads = False  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield Site(module, app, server.server_port)
    finally:
        server.shutdown()
        thread.join()
        module.executor.shutdown()


@pytest.fixture
def gate():
    """Keeps tasks waiting; opened at the end at the latest."""
    event = threading.Event()
    yield event
    event.set()


def counts(data: bytes) -> dict[str, Any]:
    """The same, the simplest way there is."""
    return {
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "lines": sum(1 for byte in data if byte == 0x0A),
        "words": len(re.findall(rb"[^ \t\n\v\f\r]+", data)),
    }


SOME_BYTES = [
    b"",
    b"\n",
    b"no newline at the end",
    b"two words\nand a line\n",
    b" \t\n\v\f\r ",
    b"\x00\x1c\x85\xa0 \xff\xfe",
    "über façade\u2003日本\n".encode(),
]


@pytest.mark.parametrize("data", SOME_BYTES, ids=repr)
def test_upload(site, uploads, data, wait_until):
    answer = site.upload(data, "some file.txt")
    assert answer.body["url"] == answer.headers["Location"] == f"/tasks/{answer.body['id']}"
    assert site.result(answer) == counts(data) | {"file": "some file.txt"}
    # By another callback: if the task ended before both were added, they may run at once.
    assert wait_until(lambda: not any(uploads.iterdir()))


def test_upload_of_several_megabytes(site, uploads, wait_until):
    line = b"The quick brown fox jumps over the lazy dog, again and again.\r\n"
    data = line * (5_000_000 // len(line)) + b"The end"
    assert site.result(site.upload(data)) == counts(data) | {"file": "some.txt"}
    assert wait_until(lambda: not any(uploads.iterdir()))


def test_upload_of_the_readme(site):
    data = (ROOT / "README.md").read_bytes()
    assert site.result(site.upload(data, "README.md")) == counts(data) | {"file": "README.md"}


@pytest.mark.parametrize("around", [b"xy", b"x ", b" x", b"\n\n", b"x\n"])
def test_words_at_the_end_of_a_chunk(site, folder, around):
    chunk = site.module.CHUNK
    data = b"w" * (chunk - 1) + around + b"w" * (chunk - 2) + around + b"end"
    (folder / "words").write_bytes(data)
    assert site.result(site.post_json({"path": "words"})) == counts(data) | {"file": "words"}


@settings(deadline=None)
@given(st.lists(st.binary(max_size=9) | st.text(" \n\tab", max_size=9).map(str.encode)))
def test_counter_and_any_chunks(chunks):
    counter = flask_delay.demo.quickstart.Counter()
    for chunk in chunks:
        counter.update(chunk)
    found = {name: getattr(counter, name) for name in ("size", "sha256", "lines", "words")}
    assert found == counts(b"".join(chunks))


@pytest.mark.skipif(shutil.which("wc") is None, reason="no wc to compare with")
def test_counts_as_wc(site, folder):
    path = folder / "example.py"
    shutil.copy(EXAMPLE, path)
    result = site.result(site.post_json({"path": str(path)}))
    env = os.environ | {"LC_ALL": "C"}
    run = subprocess.run(["wc", "-lwc", path], env=env, capture_output=True, text=True, check=True)
    assert run.stdout.split()[:3] == [str(result[name]) for name in ("lines", "words", "size")]


def test_answer_comes_before_the_file_is_read(site, folder, gate, monkeypatch, caplog):
    chunk = site.module.CHUNK
    update = site.module.Counter.update

    def update_slowly(counter, data):
        update(counter, data)
        if counter.size > chunk:
            assert gate.wait(DEADLINE)

    monkeypatch.setattr(site.module.Counter, "update", update_slowly)
    (folder / "big").write_bytes(b"x" * 3 * chunk)
    answer = site.post_json({"path": "big"})
    assert answer.status == 202

    state = site.wait(answer.body["id"], "progress")
    while state["progress"]["done"] == 0:
        state = site.wait(answer.body["id"], "progress")
    assert state["state"] == "running"
    assert (state["progress"]["done"], state["progress"]["total"]) == (chunk, 3 * chunk)
    assert state["callback"] is state["finished_at"] is None
    assert "result" not in state

    gate.set()
    assert site.result(answer)["size"] == 3 * chunk
    logged = [record for record in caplog.records if record.funcName == "report"]
    assert len(logged) == 1
    assert answer.body["id"] in logged[0].getMessage()
    assert logged[0].threadName.startswith("delay")


def test_ten_seconds_of_work_go_on_behind_the_answer(site, gate, monkeypatch, caplog):
    class Clock:
        now = 0.0

        def monotonic(self):
            return self.now

        def sleep(self, seconds):
            assert gate.wait(DEADLINE)
            self.now += seconds

    clock = Clock()
    monkeypatch.setattr(site.module, "time", clock)
    answer = site.get("/test?num=7")
    assert answer.status == 200
    assert answer.body == {"msg": "ok", "task": answer.body["task"]}
    state = site.wait(answer.body["task"], "progress")
    assert state["state"] == "running"
    assert state["callback"] is None

    gate.set()
    state = site.wait(answer.body["task"])
    assert state["result"] == {"seconds": 10.0, "num": "7"}
    assert clock.now == pytest.approx(10)
    assert state["callback"]["thread"].startswith("delay")
    moments = [state["enqueued_at"], state["started_at"], state["finished_at"]]
    moments = [datetime.fromisoformat(at) for at in (*moments, state["callback"]["at"])]
    assert moments == sorted(moments)
    assert [record.funcName for record in caplog.records].count("report") == 1


def test_form_field_path(site, folder):
    (folder / "a b").write_bytes(b"one two\n")
    kind = "application/x-www-form-urlencoded"
    answer = site.request("POST", "/digest", b"path=a+b", kind)
    assert site.result(answer) == counts(b"one two\n") | {"file": "a b"}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (None, 400),
        ("", 400),
        (["a"], 400),
        ("a\0b", 400),
        (".", 400),
        ("missing", 404),
        ("missing/deeper", 404),
        ("../uploads", 403),
        ("../outside", 403),
        ("link", 403),
        ("/etc/passwd", 403),
        ("x" * 5000, 400),
    ],
)
def test_bad_path(site, folder, path, status):
    (folder.parent / "outside").write_text("secret")
    (folder / "link").symlink_to(folder.parent / "outside")
    answer = site.post_json({"path": path})
    assert answer.status == status
    assert list(answer.body) == ["error"]


def test_path_in_a_loop_of_links(site, folder):
    (folder / "loop").symlink_to(folder / "loop")
    # Python 3.13 no longer tells such a link from one that leads nowhere.
    assert site.post_json({"path": "loop"}).status in {400, 404}


def test_a_task_that_ends_while_it_is_shown(site, gate, monkeypatch):
    """No answer says that a task still runs and that its callback was called."""
    started = threading.Event()

    def work():
        started.set()
        assert gate.wait(DEADLINE)
        return "done"

    called = threading.Event()
    with site.app.app_context():
        future = delay(work)
        future.add_done_callback(site.module.report)
        future.add_done_callback(lambda _: called.set())
    assert started.wait(DEADLINE)

    def end_meanwhile(moment):
        gate.set()
        assert called.wait(DEADLINE)
        return moment and moment.isoformat()

    monkeypatch.setattr(site.module, "iso", end_meanwhile)
    state = site.get(f"/tasks/{future.id}").body
    assert (state["state"], state["callback"]) == ("running", None)
    assert site.get(f"/tasks/{future.id}").body["result"] == "done"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (None, ""),
        (b"", "multipart/form-data; boundary=x"),
        (b"{", "application/json"),
        (b"[1]", "application/json"),
        (b'"text"', "application/json"),
        (b"other=1", "application/x-www-form-urlencoded"),
    ],
)
def test_neither_file_nor_path(site, body, kind):
    answer = site.request("POST", "/digest", body, kind)
    assert answer.status == 400
    assert "multipart field 'file'" in answer.body["error"]


def test_paths_are_off_by_default(site, folder):
    site.app.config["DIGEST_ROOT"] = None
    (folder / "file").write_text("x")
    answer = site.post_json({"path": str(folder / "file")})
    assert answer.status == 403
    assert "DIGEST_ROOT" in answer.body["error"]


def test_unknown_task_url_and_method(site):
    assert site.get("/tasks/none").status == 404
    assert "'none'" in site.get("/tasks/none").body["error"]
    assert site.get("/nowhere").status == 404
    assert site.get("/digest").status == 405


def ask_for_the_page(site, password=None, name="ann"):
    headers = {}
    if password is not None:
        login = base64.b64encode(f"{name}:{password}".encode()).decode()
        headers["Authorization"] = f"Basic {login}"
    client = site.app.test_client()
    # Over the proxy of this machine, for instance.
    return client.get(
        "/dashboard/", headers=headers, environ_overrides={"REMOTE_ADDR": "127.0.0.1"}
    )


@pytest.mark.parametrize("password", [None, "", "None", "secret"])
def test_the_live_page_is_closed_without_a_password(site, password):
    answer = ask_for_the_page(site, password)
    assert answer.status_code == 401
    assert "WWW-Authenticate" in answer.headers


def test_the_live_page_opens_with_the_password_alone(site):
    site.app.config["DASHBOARD_PASSWORD"] = "schön"
    assert [ask_for_the_page(site, it).status_code for it in (None, "", "schon")] == [401] * 3
    answer = ask_for_the_page(site, "schön")
    assert (answer.status_code, "read-only" in answer.text) == (200, False)
    # As a number in the environment is read.
    site.app.config["DASHBOARD_PASSWORD"] = 4711
    assert ask_for_the_page(site, "4711").status_code == 200


def test_error_of_a_task_is_shown(site, caplog):
    def fail():
        raise LookupError("nothing there")

    with site.app.app_context():
        future = delay(fail)
        future.add_done_callback(site.module.report)
    state = site.wait(future.id)
    assert state["state"] == "finished"
    assert state["error"] == {"type": "LookupError", "message": "nothing there"}
    assert "result" not in state


def test_upload_that_is_not_accepted_leaves_nothing(site, uploads):
    with site.app.app_context():
        site.module.executor.shutdown()
    assert site.upload(b"late").status == 500
    assert list(uploads.iterdir()) == []


def test_flask_finds_the_app():
    command = [sys.executable, "-m", "flask", "--app", "examples/quickstart/app", "routes"]
    run = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE, check=True
    )
    assert re.search(r"quickstart.start_digest +POST +/digest", run.stdout)


def test_the_demo_serves_the_example():
    assert Path(flask_delay.demo.quickstart.__file__).read_bytes() == EXAMPLE.read_bytes()
