"""`python -m flask_delay demo`, run as a user does."""

import os
import re
import signal
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import flask_delay
from flask_delay.demo import _Answer, _Timeline

DEADLINE = 50.0


def run(*arguments: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "flask_delay", *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=os.environ | {"PYTHONUTF8": "1"} | (env or {}),
        timeout=DEADLINE,
        check=False,
    )


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "flask_delay", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=os.environ | {"PYTHONUTF8": "1"},
    )


def fails(result: subprocess.CompletedProcess[str]) -> str:
    """Assert exit 2 and one line on stderr alone; return that line."""
    assert result.returncode == 2, result
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def blocks(text: str) -> list[list[str]]:
    """The output, split at empty lines."""
    return [block.splitlines() for block in text.split("\n\n")]


def found(pattern: str, text: str) -> re.Match[str]:
    match = re.search(pattern, text)
    assert match is not None, f"no {pattern!r} in:\n{text}"
    return match


def check_timeline(lines: list[str]) -> None:
    """Assert that everything is there, in order."""
    times = [float(line.split(" ms", 1)[0].replace(",", "")) for line in lines]
    assert times == sorted(times)
    text = "\n".join(lines)
    positions = [
        found(pattern, text).start()
        for pattern in (
            r"request sent\n",
            r"task started, \w+ on thread delay",
            r"█ 100% ",
            r"task finished",
            r"callback fired on thread \w+",
        )
    ]
    assert positions == sorted(positions)
    assert len(re.findall(r"  answered 20[02], ", text)) == 1


class Lines:
    """A terminal that keeps what it was given."""

    def __init__(self):
        self.all = []

    def line(self, text):
        self.all.append(text)

    def bar(self, done, total, text):
        return f"█ 100% {text}"


def test_a_task_that_starts_before_the_client_has_noted_that_it_sent():
    begun = datetime(2026, 12, 1, tzinfo=UTC)
    moments = [begun + timedelta(milliseconds=it) for it in range(1, 6)]
    started, sent, answered, finished, called = moments
    lines = Lines()
    answer = _Answer(202, {}, begun, sent, answered, "")
    _Timeline(lines, answer, "  answered 202, ").update(
        {
            "progress": {"done": 1, "total": 1, "note": "file"},
            "started_at": started.isoformat(),
            "finished_at": finished.isoformat(),
            "callback": {"at": called.isoformat(), "thread": "delay_0"},
            "result": {"lines": 1, "words": 1},
        }
    )
    assert lines.all[0].endswith("request sent")
    assert "task started" in lines.all[1]


def test_own_sources_without_arguments():
    result = run("demo")
    assert (result.returncode, result.stderr) == (0, "")
    head, test, single, table, foot = blocks(result.stdout)
    assert re.fullmatch(
        rf"flask-delay {re.escape(flask_delay.__version__)} on Python [\d.]+\S*:"
        r" the quickstart app at http://127\.0\.0\.1:\d+",
        head[0],
    )
    assert re.fullmatch(
        r"Its live page, while this runs: http://127\.0\.0\.1:\d+/dashboard/"
        r' \(any name, password "[\w-]{8}"\)',
        head[1],
    )
    assert single[0].startswith("POST /digest  ")
    check_timeline(single[1:])
    package = Path(flask_delay.__file__).parent
    sources = {str(path.relative_to(package)) for path in package.rglob("*.py")}
    named = {single[0].split("  ")[1].split(",")[0], *(row.split()[-1] for row in table[2:-1])}
    assert named == sources
    assert test[0] == "GET /test"
    assert 'answered 200, "msg": "ok"' in "\n".join(test)
    check_timeline(test[1:])
    assert "callback fired on thread delay" in test[-1]
    late = found(r"([\d,.]+) ms after the answer", test[-1])[1]
    assert float(late.replace(",", "")) > 500
    assert "Every callback was called" in foot[0]


def test_files(tmp_path):
    empty, text = tmp_path / "empty", tmp_path / 'na"me \u00fc.txt'
    empty.touch()
    text.write_bytes(b"two words\n" * 100_000 + b"end")
    result = run("demo", empty, text)
    assert (result.returncode, result.stderr) == (0, "")
    _, _, first, second, _ = blocks(result.stdout)
    assert first[0] == "POST /digest  empty, 0 B"
    check_timeline(first[1:])
    assert ": 0 lines, 0 words, sha256 e3b0c44298fc1c14" in "\n".join(first)
    assert second[0] == f"POST /digest  {text.name}, 1.0 MB"
    check_timeline(second[1:])
    assert ": 100,000 lines, 200,001 words," in "\n".join(second)


def test_output_that_cannot_show_blocks(tmp_path):
    file = tmp_path / "\u65e5\u672c"
    file.write_bytes(b"x")
    result = run("demo", file, env={"PYTHONIOENCODING": "ascii"})
    assert (result.returncode, result.stderr) == (0, "")
    assert "POST /digest  ??, 1 B" in result.stdout
    assert "#" * 24 + " 100%" in result.stdout


def test_missing_file(tmp_path):
    assert "no-such-file: No such file or directory" in fails(
        run("demo", tmp_path / "no-such-file")
    )


def test_directory(tmp_path):
    assert fails(run("demo", tmp_path)).endswith("not a regular file")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_unreadable_file(tmp_path):
    file = tmp_path / "secret"
    file.touch(mode=0)
    assert fails(run("demo", file)).endswith("Permission denied")


def test_taken_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = fails(run("demo", "--port", port))
    assert f"127.0.0.1:{port}: Address already in use" in line


def test_chosen_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert f"http://127.0.0.1:{port}\n" in run("demo", "--port", port).stdout


@pytest.mark.parametrize("port", ["-1", "65536", "http", "\u0661"])
def test_bad_port(port):
    result = run("demo", f"--port={port}")
    assert result.returncode == 2
    assert "0 to 65535" in result.stderr


def test_interrupt():
    with start("demo", "--full") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "task started, sleeping" in line:
                process.send_signal(signal.SIGINT)
                break
        out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130
    assert err == ""
    assert "callback fired" not in out


def test_reader_that_has_seen_enough():
    with start("demo") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(DEADLINE) == 0


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"]])
def test_help(arguments):
    result = run(*arguments)
    assert result.returncode == 0
    assert "usage: python -m flask_delay" in result.stdout


def test_version():
    assert run("--version").stdout == f"flask-delay {flask_delay.__version__}\n"


def test_no_command():
    assert run().returncode == 2
