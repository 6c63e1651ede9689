import sys
from contextlib import ExitStack

import pytest
from tests.servers.harness import serving


def pytest_collection_modifyitems(items):
    for item in items:
        if sys.platform == "win32" and "tests/servers" in item.nodeid:
            item.add_marker(pytest.mark.skip(reason="servers are ended by POSIX signals"))


@pytest.fixture
def serve(tmp_path_factory):
    """`serve(command, env=None)`: a server that answers, gone when the test ends."""
    with ExitStack() as servers:

        def serve(command, env=None):
            folder = tmp_path_factory.mktemp("server")
            return servers.enter_context(serving(folder, command, env))

        yield serve
