"""A page that shows a long answer while it is made. Reload it, and it goes on.

Run it with `flask --app examples/chat/app run`.
"""

import time
from collections.abc import Iterator

from flask import Flask, redirect, render_template_string, request, url_for
from werkzeug.wrappers import Response

from flask_delay import Delay, current_task, delay

PAGE = """<!doctype html>
<html lang="en">
<title>Chat</title>
<link rel="icon" href="data:,">
<form method="post" action="{{ url_for('ask') }}">
  <input name="question" aria-label="Your question" placeholder="Ask something" required autofocus>
  <button>Ask</button>
</form>
{% if id %}
<h1>{{ question }}</h1>
<p id="answer" aria-live="polite" data-stream="{{ url_for('delay_stream.events', id=id) }}"></p>
<p id="state">answering</p>
<form method="post" action="{{ url_for('stop', id=id, question=question) }}">
  <button>Stop</button>
</form>
<script src="{{ url_for('delay_stream.script') }}"></script>
<script src="{{ url_for('static', filename='chat.js') }}"></script>
{% endif %}
</html>
"""

app = Flask(__name__)
app.config.from_mapping(SECONDS_PER_WORD=0.2)
app.config.from_prefixed_env()
executor = Delay(app)
# The id of an answer is random, and nobody else learns it.
app.register_blueprint(executor.stream_blueprint(authorize=None), url_prefix="/streams")


def answer(question: str, seconds: float) -> Iterator[str]:
    """Make up an answer, a word at a time, as a language model would."""
    words = f"You ask: {question} That is a good question, and the answer is long."
    for word in [*words.split(), *(f"({number})" for number in range(1, 40)), "The end."]:
        # Ends here if it was stopped.
        current_task.check()
        time.sleep(seconds)
        yield f"{word} "


@app.get("/")
def index() -> str:
    """Show the form."""
    return render_template_string(PAGE, id=None)


@app.post("/questions")
def ask() -> Response:
    """Start the answer, and show its page at once."""
    question = request.form["question"]
    future = delay(answer, question, app.config["SECONDS_PER_WORD"])
    return redirect(url_for("show", id=future.id, question=question), 303)


@app.get("/answers/<id>")
def show(id: str) -> str:
    """Show the page that follows an answer."""
    return render_template_string(PAGE, id=id, question=request.args.get("question", ""))


@app.post("/answers/<id>/stop")
def stop(id: str) -> Response:
    """Stop an answer."""
    future = executor.get(id)
    if future is not None:
        future.stop()
    return redirect(url_for("show", id=id, question=request.args.get("question", "")), 303)
