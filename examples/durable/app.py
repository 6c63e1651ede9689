"""An order form. The receipt is sent although the worker that sends it is killed.

Run it with `gunicorn --workers 2 --threads 4 --chdir examples/durable 'app:create_app()'`.
"""

import logging
import os
import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flask import Blueprint, Flask, Response, current_app, render_template_string, request, url_for

from flask_delay import Delay, JournalUnavailable, current_task, task, track

FORM = """<!doctype html>
<title>Orders</title>
<form method="post" action="{{ url_for('shop.place_order') }}">
  <input type="hidden" name="key" value="{{ key }}">
  <input name="item" placeholder="What" required>
  <input name="email" type="email" placeholder="Your address" required>
  <button>Order</button>
</form>
<ul>{% for order in orders %}
  <li>{{ order["item"] }} for {{ order["email"] }}</li>
{% endfor %}</ul>
"""
# Of a receipt. Each is a step that takes its time.
LINES = ("Thank you", "Your order: {item}", "The invoice is attached", "See you soon")

executor = Delay()
bp = Blueprint("shop", __name__)


def create_app() -> Flask:
    """Make the app. `SHOP_FOLDER` is where its data are, the journal too."""
    app = Flask(__name__, instance_path=os.environ.get("SHOP_FOLDER"))
    app.config.from_mapping(DELAY_JOURNAL=True, SECONDS_PER_LINE=1.0)
    app.config.from_prefixed_env()
    app.logger.setLevel(logging.INFO)
    Path(app.instance_path, "outbox").mkdir(parents=True, exist_ok=True)
    executor.init_app(app)
    app.register_blueprint(bp)
    app.register_blueprint(executor.status_blueprint(url_prefix="/tasks"))
    return app


# The task. It may run again from its first line, in another process.


@task(durable=True, retry=3)
def send_receipt(key: str) -> None:
    """Write the receipt of an order, slowly, and send it."""
    with database() as connection:
        order = connection.execute("SELECT * FROM customer_order WHERE key = ?", (key,)).fetchone()
    text = ""
    for line in track(LINES, note=f"in worker {os.getpid()}"):
        time.sleep(current_app.config["SECONDS_PER_LINE"])
        text += line.format(item=order["item"]) + "\n"
    send(f"To: {order['email']}\n\n{text}", current_task.id)
    current_app.logger.info("worker %d sent the receipt of order %s", os.getpid(), key)


def send(message: str, key: str) -> None:
    """Stand in for a mail provider: a second message with the same key is the same message."""
    path = Path(current_app.instance_path, "outbox", f"{key}.txt")
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_text(message)
    draft.replace(path)


# The views.


@bp.get("/")
def show_form() -> str:
    """Show the form. It has a key, so that sending it twice makes one order."""
    with database() as connection:
        orders = connection.execute("SELECT * FROM customer_order ORDER BY number").fetchall()
    return render_template_string(FORM, orders=orders, key=uuid.uuid4())


@bp.post("/orders")
def place_order() -> tuple[dict[str, Any], int]:
    """Store the order and accept the task that sends its receipt."""
    key, item, email = (request.form[name] for name in ("key", "item", "email"))
    with database() as connection:
        connection.execute(
            "INSERT INTO customer_order (key, item, email) VALUES (?, ?, ?)"
            " ON CONFLICT (key) DO NOTHING",
            (key, item, email),
        )
    # If the process dies here, the customer has no answer, and sends the form again.
    future = send_receipt.using(once=f"receipt {key}").delay(key)
    return {"order": key, "status": url_for("delay_status.task", id=future.id)}, 202


@bp.app_errorhandler(JournalUnavailable)
def not_accepted(error: Exception) -> Response:
    """Say that the order was not accepted, so that it is sent again."""
    current_app.logger.error("%s", error)
    return Response("Please send it again.\n", 503, {"Retry-After": "5"})


@bp.after_app_request
def name_worker(response: Response) -> Response:
    """Say which worker has answered."""
    response.headers["X-Worker"] = str(os.getpid())
    return response


@contextmanager
def database() -> Iterator[sqlite3.Connection]:
    """Open the shop's own database; commit at the end."""
    connection = sqlite3.connect(Path(current_app.instance_path, "shop.db"))
    connection.row_factory = sqlite3.Row
    try:
        with connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS customer_order"
                " (number INTEGER PRIMARY KEY, key TEXT UNIQUE, item TEXT, email TEXT)"
            )
            yield connection
    finally:
        connection.close()
