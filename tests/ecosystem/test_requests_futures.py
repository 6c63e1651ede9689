import concurrent.futures
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytest.importorskip("requests_futures")

from requests_futures.sessions import FuturesSession


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = self.path.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args): ...


@pytest.fixture
def url():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join(20)
    server.server_close()


@pytest.fixture
def session(executor):
    with FuturesSession(executor=executor) as session:
        # A proxy of the machine has no business here.
        session.trust_env = False
        yield session


def test_requests(session, url, where, is_ours):
    names = []
    note = {"response": lambda *_, **__: names.append(where())}
    futures = [session.get(f"{url}/{n}", hooks=note, timeout=20) for n in range(20)]
    done = concurrent.futures.as_completed(futures, 20)
    assert {future.result().text for future in done} == {f"/{n}" for n in range(20)}
    assert len(names) == 20
    assert all(map(is_ours, names))


def test_failure(session, url):
    future = session.get("unheard-of://nowhere")
    with pytest.raises(Exception, match="unheard-of"):
        future.result(20)
