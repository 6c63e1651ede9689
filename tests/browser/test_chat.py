"""`examples/chat` in a browser: the answer arrives, and goes on after a reload."""

import importlib.util
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from flask import Flask
from werkzeug.serving import make_server

from flask_delay.streams import blueprint as streams

pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.browser

EXAMPLE = Path(__file__).parents[2] / "examples/chat/app.py"
# The numbers at the end of an answer.
WHOLE = " ".join(f"({number})" for number in range(1, 40)) + " The end."
DEADLINE = 20.0


class Chat(NamedTuple):
    url: str
    app: Flask
    page: Any
    # What the browser has complained about.
    complaints: list[str]

    def ask(self) -> None:
        self.page.goto(self.url)
        self.page.get_by_label("Your question").fill("Why?")
        self.page.get_by_role("button", name="Ask").click()

    def answer(self) -> str:
        text: str = self.page.locator("#answer").inner_text()
        return text

    def wait_for(self, text: str) -> None:
        self.page.locator("#answer", has_text=text).wait_for()


@pytest.fixture
def chat(browser, monkeypatch) -> Iterator[Chat]:
    spec = importlib.util.spec_from_file_location("chat_app", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Flask looks there for the folder of its files.
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    module.app.config["SECONDS_PER_WORD"] = 0.03
    server = make_server("127.0.0.1", 0, module.app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(DEADLINE * 1_000)
    complaints: list[str] = []
    page.on("console", lambda it: complaints.append(it.text) if it.type == "error" else None)
    page.on("pageerror", lambda it: complaints.append(str(it)))
    yield Chat(f"http://127.0.0.1:{server.server_port}", module.app, page, complaints)
    context.close()
    server.shutdown()
    thread.join(DEADLINE)
    server.server_close()
    module.executor.shutdown(wait=True)


def test_the_answer_arrives_and_goes_on_after_a_reload(chat: Chat):
    chat.ask()
    chat.wait_for("(3)")
    assert "The end." not in chat.answer()
    chat.page.reload()
    chat.wait_for("The end.")
    assert chat.answer().count("You ask: Why?") == 1
    assert chat.answer().endswith(WHOLE)
    assert chat.page.locator("#state").inner_text() == "finished"
    assert not chat.complaints


def test_the_answer_comes_by_polls_where_events_are_refused(chat: Chat):
    """And by many short answers where no thread may wait."""

    def refuse(route: Any) -> None:
        route.fulfill(status=502, body="no events here")

    chat.page.route("**/events*", refuse)
    chat.ask()
    chat.wait_for("The end.")
    assert chat.answer().endswith(WHOLE)
    assert chat.page.locator("#state").inner_text() == "finished"


def test_the_answer_comes_in_many_connections(chat: Chat, monkeypatch):
    monkeypatch.setattr(streams, "_LONGEST", 0.2)
    monkeypatch.setattr(streams, "_TICK", 0.05)
    chat.ask()
    chat.wait_for("The end.")
    assert chat.answer().endswith(WHOLE)
    assert not chat.complaints


def test_stop_ends_it(chat: Chat):
    chat.ask()
    chat.wait_for("(2)")
    chat.page.get_by_role("button", name="Stop").click()
    chat.page.locator("#state", has_text="cancelled").wait_for()
    assert "The end." not in chat.answer()


def test_a_task_that_is_unknown_is_told(chat: Chat):
    chat.page.goto(f"{chat.url}/answers/no-such-answer?question=Why")
    chat.page.locator("#state", has_text="no task with this id is known").wait_for()


def test_a_reader_that_was_stopped_asks_no_more(chat: Chat):
    """Also if the poll that was under way when it was stopped fails."""
    chat.page.clock.install()
    chat.page.goto(chat.url)
    chat.page.evaluate(
        """async (script) => {
            const source = await (await fetch(script)).text();
            let asked = 0, stop;
            const gone = async () => { asked += 1; stop(); throw new TypeError("no network"); };
            class Refused {
                static CLOSED = 2;
                readyState = 2;
                constructor() { setTimeout(() => this.onerror()); }
                close() {}
                addEventListener() {}
            }
            const made = new Function("EventSource", "fetch", `${source}; return followTask;`);
            stop = made(Refused, gone)("/none", {});
            window.asked = () => asked;
        }""",
        f"{chat.url}/streams/stream.js",
    )
    chat.page.clock.run_for(60_000)
    assert chat.page.evaluate("asked()") == 1
