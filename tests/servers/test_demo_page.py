"""`make demo-page`: a lively app whose live page stays open until Ctrl-C."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from base64 import b64encode
from pathlib import Path

import pytest
from tests.servers.harness import DEADLINE, poll

pytestmark = pytest.mark.servers

SCRIPT = Path(__file__).parents[2] / "examples/dashboard/demo.py"
# Of tasks that wait, by what the page says; the catalogue is parked after a minute only.
REASONS = {"scheduled", "paused", "limit", "rate", "ready"}


def test_it_shows_tasks_of_every_kind_and_ends_by_ctrl_c(tmp_path):
    log = tmp_path / "log"
    folder = tmp_path / "temporary"
    folder.mkdir()
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT)],
            env={**os.environ, "TMPDIR": str(folder)},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        assert poll(lambda: "Ctrl-C" in log.read_text()), log.read_text()
        url, password = re.findall(r'(http://127\.0\.0\.1:\d+/tasks/)|"([^"]+)"', log.read_text())
        url, password = url[0], password[1]
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(url, timeout=DEADLINE)

        def ask(page):
            login = b64encode(f"ann:{password}".encode()).decode()
            headers = {"Accept": "application/json", "Authorization": f"Basic {login}"}
            request = urllib.request.Request(url + page, None, headers)
            with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
                return json.load(answer)

        def waits():
            queue = ask("queue")
            found = {it["waits"] for it in (*queue["queued"], *queue["held"])}
            return {"after" if str(it).startswith("after") else it for it in found}

        assert poll(lambda: REASONS | {"after"} <= waits()), waits()
        assert poll(lambda: len(ask("failed")["groups"]) >= 2)
        assert poll(lambda: any(it["progress"] for it in ask("running")["tasks"]))
        assert len(ask("jobs")["jobs"]) == 3
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(DEADLINE) == 0, log.read_text()
        assert log.read_text().endswith("Ends.\n")
        # Of the journal and the server nothing is left.
        assert list(folder.iterdir()) == []
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(url, timeout=DEADLINE)
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGINT)
            process.wait(DEADLINE)
