"""`flask delay`: its commands say what is so, and what is wrong."""

import logging
import os
import re
import socket
import subprocess
import sys
import textwrap
import types
import weakref
from pathlib import Path

import pytest
from click.testing import CliRunner
from flask import Flask
from flask.cli import ScriptInfo

from flask_delay import Delay, registry
from flask_delay.commands import delay as group
from flask_delay.commands import page
from flask_delay.commands.target import Target

PAGE = (Path(__file__).parents[2] / "docs/commands.md").read_text()


def run(app, *arguments):
    """Run a command for an app, or for what a factory returns."""
    info = ScriptInfo(create_app=(lambda: app) if isinstance(app, Flask) else app)
    return CliRunner().invoke(
        group, arguments, obj=info, prog_name="flask delay", terminal_width=80
    )


@pytest.mark.parametrize(
    "command",
    [
        "",
        "config ",
        "check ",
        "bench ",
        "jobs ",
        "journal ",
        "journal list ",
        "work ",
        "dashboard ",
    ],
)
def test_help_is_as_documented(app, command):
    result = run(app, *command.split(), "--help")
    assert result.exit_code == 0
    assert f"```console\n$ flask delay {command}--help\n{result.output}```" in PAGE


def test_flask_finds_the_commands(tmp_path):
    (tmp_path / "app.py").write_text(
        "from flask import Flask\n"
        "from flask_delay import Delay\n"
        "app = Flask(__name__)\n"
        "executor = Delay(app)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "flask", "delay", "check"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "All is well." in done.stdout


class TestConfig:
    def test_every_key_its_value_and_where_it_came_from(self, make_app):
        app = make_app("shop", DELAY_MAX_WORKERS="4", DELAY_LOG_FAILURES=True, SECRET_KEY="hush")
        result = run(app, "config")
        assert result.exit_code == 0
        assert result.output == textwrap.dedent("""\
            Delay 'delay' on app 'shop'

            key                          value      from
            DELAY_MAX_WORKERS            4          app.config
            DELAY_QUEUE_SIZE             0          default
            DELAY_WHEN_FULL              'block'    default
            DELAY_BLOCK_TIMEOUT          None       default
            DELAY_SHUTDOWN_TIMEOUT       25.0       default
            DELAY_DRAIN_ON_SIGTERM       True       default
            DELAY_LOG_FAILURES           True       app.config
            DELAY_RESULT_LIMIT           1000       default
            DELAY_STREAM_ITEMS           1000       default
            DELAY_STREAM_BYTES           1000000    default
            DELAY_SWITCH_INTERVAL        0.0001     default
            DELAY_BACKEND                'threads'  default
            DELAY_JOBS_FOLDER            None       default
            DELAY_JOURNAL                None       default
            DELAY_JOURNAL_SYNC           'commit'   default
            DELAY_JOURNAL_KEEP           86400.0    default
            DELAY_JOURNAL_LIMIT          100000     default
            DELAY_JOURNAL_DEATHS         3          default
            DELAY_JOURNAL_MAX_BYTES      1000000    default
            DELAY_JOURNAL_TIMEOUT        30.0       default
            DELAY_JOURNAL_WAITING        0          default
            DELAY_UPLOAD_DIR             None       default
            DELAY_UPLOAD_MAX_BYTES       None       default
            DELAY_OUTBOX                 None       default
            DELAY_DURABLE                False      default
            DELAY_MODE                   'threads'  default
            DELAY_CELERY_APP             None       default
            DELAY_CELERY_BROKER_URL      None       default
            DELAY_CELERY_RESULT_BACKEND  None       default
            DELAY_CELERY_WHEN_DOWN       'raise'    default
            DELAY_PROCESSES              None       default
            DELAY_PROCESSES_MAX_TASKS    None       default
            DELAY_PROCESSES_MAX_RSS      None       default
            DELAY_APP                    None       default
        """)
        assert "hush" not in result.output

    def test_explained(self, app):
        result = run(app, "config", "--explain")
        assert "    How many tasks may run at once.\n    Allowed: an integer of at" in result.output
        assert max(map(len, result.output.splitlines())) <= 88

    def test_named(self, app):
        Delay(app, name="reports")
        result = run(app, "config", "--name", "reports")
        assert "REPORTS_MAX_WORKERS " in result.output
        assert "DELAY_" not in result.output

    def test_what_has_no_effect(self, app):
        app.config.update(DELAY_MAXWORKERS="hush", DELAY_RESULT_LIMIT=5, DELAY_MODE="threads")
        result = run(app, "config")
        assert re.search(r"DELAY_RESULT_LIMIT +1000 +default\n", result.output)
        assert result.output.endswith(
            "\nDELAY_MAXWORKERS is no setting: did you mean DELAY_MAX_WORKERS?\n"
            "DELAY_RESULT_LIMIT is 5 in app.config now, but init_app found 1000: set it before"
            " init_app\n"
        )
        assert "hush" not in result.output

    @pytest.mark.parametrize(
        "url", ["redis://:hunter2@h/0", "redis://h/0?password=hunter2", "sentinel://:hunter2@a;b"]
    )
    def test_password_is_not_shown(self, make_app, url):
        app = make_app(DELAY_CELERY_BROKER_URL=url)
        assert "hunter2" not in run(app, "config").output
        # Nor where the two are compared.
        app.config["DELAY_CELERY_BROKER_URL"] = f"{url}1"
        result = run(app, "config")
        assert "DELAY_CELERY_BROKER_URL is '" in result.output
        assert "hunter2" not in result.output

    def test_changed_since(self, make_app):
        app = make_app(DELAY_RESULT_LIMIT=5)
        app.config["DELAY_RESULT_LIMIT"] = "many"
        result = run(app, "config")
        assert re.search(r"DELAY_RESULT_LIMIT +5 +app.config, earlier\n", result.output)
        assert "DELAY_RESULT_LIMIT is 'many' in app.config now" in result.output

    def test_no_delay(self):
        result = run(Flask("plain"), "config")
        assert result.exit_code == 1
        assert "app 'plain' has no Delay named 'delay': call Delay(app)" in result.output

    def test_error_of_the_app_itself_is_not_hidden(self):
        def create_app():
            raise RuntimeError("of the app")

        assert "of the app" in str(run(create_app, "config").exception)


class TestCheck:
    @pytest.fixture(autouse=True)
    def _alone(self, monkeypatch):
        """The apps here have no durable tasks, whatever the modules of other tests have."""
        monkeypatch.setattr(registry, "decorated", weakref.WeakValueDictionary())

    def test_all_is_well(self, app):
        called = []
        app.extensions["delay"].owner.add_default_done_callback(called.append)
        result = run(app, "check")
        assert result.exit_code == 0, result.output
        marks = re.findall(r"^(\S+) +(\w+)  ", result.output, re.MULTILINE)
        assert marks == [
            ("ok", "app"),
            ("ok", "settings"),
            ("ok", "log"),
            ("note", "queue"),
            ("note", "requests"),
            ("ok", "task"),
            ("ok", "callback"),
            ("ok", "drain"),
        ]
        assert "in thread 'delay_0'" in result.output
        assert len(called) == 1
        assert result.output.endswith("\nAll is well.\n")

    @pytest.mark.parametrize("mode", ["immediate", "manual"])
    def test_modes_for_tests_are_noted(self, make_app, mode):
        result = run(make_app(DELAY_MODE=mode), "check")
        assert result.exit_code == 0, result.output
        assert f"note   mode       DELAY_MODE is '{mode}', which is for tests" in result.output

    def is_wrong(self, app, text, *arguments):
        result = run(app, "check", *arguments)
        assert result.exit_code == 1, result.output
        assert re.search(rf"^WRONG +{text}", result.output, re.MULTILINE), result.output
        assert result.output.endswith("\nSomething is wrong, see above.\n")

    def test_no_delay(self):
        self.is_wrong(Flask("plain"), r"app +app 'plain' has no Delay.* call Delay\(app\)")

    def test_no_delay_of_that_name(self, app):
        self.is_wrong(app, r"app +.*--name; there are: delay", "--name", "reports")

    def test_bad_config(self):
        def create_app():
            app = Flask("app")
            app.config["DELAY_MAX_WORKERS"] = 0
            Delay(app)
            return app

        self.is_wrong(create_app, "app +the app cannot be made: DELAY_MAX_WORKERS is 0, but must")

    def test_misspelt_key(self, app):
        app.config["DELAY_MAXWORKERS"] = 3
        self.is_wrong(app, "settings +DELAY_MAXWORKERS is no setting")

    def test_closed_pool(self, app):
        app.extensions["delay"].executor.shutdown()
        self.is_wrong(app, r"pool +it takes no task: .*; was shutdown\(\) called\?")

    def test_context_that_fails(self, app):
        @app.teardown_appcontext
        def teardown(_exc):
            raise OSError("no database")

        self.is_wrong(app, "task +it failed in its app context: OSError: no database")

    def test_worker_that_is_stuck(self, make_app, monkeypatch, deadline):
        import threading

        from flask_delay.commands import checks

        monkeypatch.setattr(checks, "_PATIENCE", 0.05)
        app = make_app(DELAY_MAX_WORKERS=1)
        release = threading.Event()
        app.extensions["delay"].executor.submit(release.wait, deadline)
        self.is_wrong(app, r"task +it is pending after 0\.05 s: .*'running': 1")
        release.set()

    def test_bounds_that_are_set(self, make_app):
        app = make_app(DELAY_QUEUE_SIZE=100)
        app.config["MAX_CONTENT_LENGTH"] = 1_000_000
        result = run(app, "check")
        assert "note" not in result.output

    def test_error_is_shown_without_passwords(self, app):
        @app.teardown_appcontext
        def teardown(_exc):
            raise OSError("no redis://:hunter2@h")

        self.is_wrong(app, r"task +it failed in its app context: OSError: no redis://:\*\*\*@h")

    def test_log_that_a_configuration_has_disabled(self, app, monkeypatch):
        monkeypatch.setattr(logging.getLogger("flask_delay"), "disabled", True)
        result = run(app, "check")
        assert result.exit_code == 0, result.output
        text = "note   log        logging's configuration has disabled the logger 'flask_delay'"
        assert text in result.output

    def test_log_that_is_switched_off(self, make_app):
        result = run(make_app(DELAY_LOG_FAILURES=False), "check")
        assert "note   log        DELAY_LOG_FAILURES is False" in result.output

    def test_log_that_nobody_hears(self, app, monkeypatch):
        # Without pytest's own, which are there from the start of the test.
        logger, handlers = logging.getLogger("flask_delay"), [logging.NullHandler()]
        monkeypatch.setattr(logger, "propagate", False)
        monkeypatch.setattr(logger, "handlers", handlers)
        self.is_wrong(app, "log +failures are not logged: no handler of the logger")
        handlers.append(logging.StreamHandler())
        assert run(app, "check").exit_code == 0
        monkeypatch.setattr(logging.root.manager, "disable", logging.ERROR)
        self.is_wrong(app, "log +failures are not logged: .* begins at")

    def test_folder_of_jobs_that_cannot_be_written(self, make_app, tmp_path, monkeypatch):
        # Root may write anywhere.
        monkeypatch.setattr("flask_delay.commands.checks.os.access", lambda *_: False)
        app = make_app()
        # Its instance folder is not there yet.
        app.extensions["delay"].jobs.folder = tmp_path / "instance" / "delay"
        result = run(app, "check")
        assert result.exit_code == 0
        assert re.search(r"^note +jobs +'.*/instance/delay' cannot be", result.output, re.MULTILINE)
        app.extensions["delay"].jobs.active = False
        app.extensions["delay"].owner.using(every=60).delay(int)
        self.is_wrong(app, r"jobs +'.*/instance/delay' cannot be written by this user")

    def test_processes_without_an_app(self, make_app):
        self.is_wrong(
            make_app(DELAY_BACKEND="processes"), "processes +ValueError: DELAY_APP is None"
        )

    @pytest.mark.skipif(os.name != "posix", reason="worker processes need POSIX")
    def test_processes(self, make_app, tmp_path):
        code = (
            "from flask import Flask\nfrom flask_delay import Delay\n"
            "def make(name): app = Flask(name); Delay(app); return app\n"
        )
        (tmp_path / "shop.py").write_text(code)
        there = f"{tmp_path / 'shop.py'}:make"
        app = make_app("shop", DELAY_BACKEND="processes", DELAY_APP=f"{there}('shop')")
        result = run(app, "check")
        assert result.exit_code == 0, result.output
        assert "ok     processes  a task ran in a worker process, after" in result.output
        app = make_app("shop", DELAY_BACKEND="processes", DELAY_APP=f"{there}('other')")
        self.is_wrong(app, "processes +a worker process has loaded the app 'other': set DELAY_APP")
        app = make_app("shop", DELAY_BACKEND="processes", DELAY_APP="nowhere:app")
        self.is_wrong(app, "processes +.*nowhere")

    @pytest.mark.parametrize("patched", [True, False])
    def test_gevent_is_noted(self, app, monkeypatch, patched):
        monkey = types.ModuleType("gevent.monkey")
        monkey.is_module_patched = lambda name: patched and name == "threading"
        monkeypatch.setitem(sys.modules, "gevent.monkey", monkey)
        result = run(app, "check")
        assert result.exit_code == 0, result.output
        assert ("note   process    gevent has patched threads." in result.output) is patched

    def test_eventlet(self, app, monkeypatch):
        patcher = types.ModuleType("eventlet.patcher")
        patcher.is_monkey_patched = lambda name: name == "thread"
        monkeypatch.setitem(sys.modules, "eventlet.patcher", patcher)
        self.is_wrong(app, "process +eventlet has patched Python's threads")

    def test_uwsgi(self, app, monkeypatch):
        uwsgi = types.ModuleType("uwsgi")
        uwsgi.opt = {"http": b":0"}
        monkeypatch.setitem(sys.modules, "uwsgi", uwsgi)
        self.is_wrong(app, "process +uWSGI runs without threads.*--enable-threads")
        uwsgi.opt["enable-threads"] = True
        assert run(app, "check").exit_code == 0
        uwsgi.opt["skip-atexit"] = True
        self.is_wrong(app, "process +uWSGI's skip-atexit ends a worker")


class TestBench:
    def test_figures(self, make_app):
        app = make_app("shop", DELAY_MAX_WORKERS=2)
        called, torn = [], []
        app.extensions["delay"].owner.add_default_done_callback(called.append)
        app.teardown_appcontext(torn.append)
        result = run(app, "bench", "--seconds", "0.2")
        assert result.exit_code == 0, result.output
        lines = result.output.splitlines()
        assert lines[0].startswith("Delay 'delay' on app 'shop'; CPython 3.")
        time = r"\d+\.\d (µs|ms|s)"
        assert re.match(rf"submit +{time} +{time}  \S", lines[3])
        assert re.match(rf"round trip +{time} +{time}  \S", lines[4])
        assert re.match(r"tasks +[\d,]+ /s  +\S", lines[5])
        # The contexts are the app's own; its callbacks are spared.
        assert len(torn) > 1000
        assert not called
        # No thread of its own is left, and the app's pool has not been touched.
        assert app.extensions["delay"].executor.stats()["threads"] == 0

    def test_measures_threads_in_every_mode(self, make_app):
        result = run(make_app(DELAY_MODE="manual"), "bench", "--seconds", "0.1")
        assert result.exit_code == 0, result.output

    def test_no_delay(self):
        assert run(Flask("plain"), "bench").exit_code == 1


class TestDashboard:
    def served(self, app):
        return page.made(Target(app, *targeted(app))).test_client()

    def test_it_reads_the_journal_and_has_no_button(self, make_app):
        app = make_app(DELAY_JOURNAL=True)
        client = self.served(app)
        for path in ("/", "/running", "/queue", "/failed", "/jobs", "/live/failed"):
            answer = client.get(path)
            assert answer.status_code == 200
            assert 'method="post"' not in answer.text
        assert client.post("/failed/retry").status_code == 403

    @pytest.mark.parametrize(
        ("host", "status"),
        [
            ("127.0.0.1:5050", 200),
            ("localhost:5050", 200),
            ("localhost", 200),
            ("[::1]:5050", 200),
            ("evil.example", 403),
            ("evil.example:5050", 403),
            ("127.0.0.1.evil.example:5050", 403),
            ("localhost:5050:evil", 403),
            ("", 403),
        ],
    )
    def test_another_host_is_refused(self, make_app, host, status):
        client = self.served(make_app(DELAY_JOURNAL=True))
        answer = client.get("/", environ_overrides={"HTTP_HOST": host})
        assert answer.status_code == status

    def test_without_a_journal_it_says_what_to_do(self, app):
        result = run(app, "dashboard", "--port", "0")
        assert result.exit_code == 1
        assert "set DELAY_JOURNAL" in result.output

    def test_it_makes_no_file_and_says_when_there_will_be_one(
        self, make_app, monkeypatch, tmp_path
    ):
        app = make_app()
        store = app.extensions["delay"].store
        missing = tmp_path / "none" / "journal.db"
        monkeypatch.setattr(type(store), "is_there", True)
        monkeypatch.setattr(store, "path", missing)
        result = run(app, "dashboard", "--port", "0")
        assert result.exit_code == 1
        assert f"{missing} is made when a server with the app starts" in result.output
        assert not missing.parent.exists()

    def test_a_file_that_cannot_be_read_is_said_at_once(self, make_app, tmp_path):
        broken = tmp_path / "broken.db"
        app = make_app()
        store = app.extensions["delay"].store
        broken.write_bytes(b"no journal" * 900)
        store.path = broken
        result = run(app, "dashboard", "--port", "0")
        assert result.exit_code == 1
        assert str(broken) in result.output
        assert "put a backup in its place" in result.output

    def test_a_port_that_is_taken_is_said(self, make_app):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = str(taken.getsockname()[1])
            result = run(make_app(DELAY_JOURNAL=True), "dashboard", "--port", port)
        assert result.exit_code == 1
        assert f"port {port} of 127.0.0.1 cannot be used" in result.output


def targeted(app):
    state = app.extensions["delay"]
    return state.owner, state.config, state.executor, state
