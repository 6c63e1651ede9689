"""waitress: one process, SIGTERM left to its default, which would kill."""

import sys

from tests.servers.harness import check_drain, check_tasks, check_threads, check_time_is_over

COMMAND = [sys.executable, "-m", "waitress", "--host={host}", "--port={port}", "app:app"]


def test_tasks_run_and_end_first(serve):
    server = serve(COMMAND)
    check_tasks(server)
    check_threads(server)
    # waitress turns the handler's SystemExit into an end of its own, hence 0.
    check_drain(server, codes=(0, 143))


def test_time_is_over(serve):
    check_time_is_over(serve(COMMAND, {"FLASK_DELAY_SHUTDOWN_TIMEOUT": "0.3"}))
