"""A shop that is never quiet: tasks of every kind, for its live page to show.

`make demo-page` serves it. README.md says what to look at.
"""

import hmac
import logging
import os
import random
import time
from importlib import import_module
from pathlib import Path

from flask import Flask, Response, redirect, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from flask_delay import Delay, Retry, chain, current_task, delay, task, track, using

FOLDER = Path(__file__).parent
# How many tasks of each function there are in a second, on average.
RATES = {"thumbnail": 3.0, "index_product": 1.5, "send_receipt": 0.6, "charge": 0.15}
CITIES = ("Bergen", "Gdynia", "Kotka", "Riga", "Visby")

executor = Delay()


def create_app() -> Flask:
    """Make the app. `SHOP_FOLDER` is where its journal is."""
    app = Flask("shop", instance_path=os.environ.get("SHOP_FOLDER", str(FOLDER / "instance")))
    app.config.from_mapping(
        DELAY_JOURNAL=True,
        DELAY_MAX_WORKERS=4,
        DELAY_LOG_FAILURES=False,
        # One life of a worker is enough for a demo.
        DELAY_SHUTDOWN_TIMEOUT=2.0,
        DASHBOARD_PASSWORD=None,
    )
    app.config.from_prefixed_env()
    app.logger.setLevel(logging.INFO)
    executor.init_app(app)

    def visitor() -> str | Response:
        """Let in those who know the password, and nobody if none is set.

        That a request comes from this machine would be no reason: so do all requests behind a
        proxy on it, and those that a page of somebody else makes in a browser on it.
        """
        password = app.config["DASHBOARD_PASSWORD"]
        given = request.authorization.password if request.authorization else None
        if password and given and hmac.compare_digest(given.encode(), str(password).encode()):
            return "act"
        return Response("The password, please.\n", 401, {"WWW-Authenticate": 'Basic realm="tasks"'})

    app.register_blueprint(
        executor.dashboard_blueprint(
            authorize=visitor,
            actor=lambda: request.authorization and request.authorization.username,
            environment="demo",
            arguments=True,
        ),
        url_prefix="/tasks",
    )

    @app.get("/")
    def index() -> AnyResponse:
        return redirect(url_for("delay_dashboard.overview"))

    with app.app_context():
        shoppers.delay()
        tidy_carts.delay()
        using(cron="30 2 * * *", timezone="Europe/Berlin").delay(close_books)
    app.cli.command("seed")(seed)
    return app


# What customers cause.


@task
def thumbnail(product: int) -> None:  # noqa: ARG001 (shown on the page)
    """Take 20 to 400 ms."""
    time.sleep(random.uniform(0.02, 0.4))  # noqa: S311 (no secret)


@task(durable=True)
def index_product(product: int) -> None:  # noqa: ARG001 (shown on the page)
    """Take a few milliseconds."""
    time.sleep(random.uniform(0.001, 0.02))  # noqa: S311


@task(durable=True, retry=2)
def send_receipt(order: int) -> None:
    """Take about a second. Some addresses are wrong."""
    time.sleep(random.expovariate(1.2))
    if order % 17 == 0:
        raise ValueError(f"order {order}: {order}@ is no address")


@task(durable=True, retry=Retry(3, backoff=20, on=ConnectionError))
def charge(order: int) -> None:
    """Ask the bank, which does not answer every time."""
    time.sleep(random.uniform(0.1, 0.6))  # noqa: S311
    answer = ask_bank(order)
    if answer["status"] != "paid":
        raise PermissionError(f"order {order}: card declined")


def ask_bank(order: int) -> dict[str, str]:
    """Stand in for a payment provider."""
    luck = order % 7
    if luck == 0:
        raise ConnectionError(f"order {order}: the bank did not answer within 5 s")
    return {"status": "declined" if luck == 3 else "paid"}  # noqa: PLR2004


# What takes its time.


@task(durable=True, unique=True)
def export_orders(year: int) -> int:
    """Run for about two minutes, and say how far it is."""
    rows = range(240)
    for _ in track(rows, note=f"orders of {year}"):
        time.sleep(0.5)
    return len(rows)


@task(durable=True)
def send_newsletter(city: str) -> None:
    """Run for half a minute without a total, since it does not know how many readers there are."""
    for sent in range(60):
        current_task.check()
        current_task.progress(10 * sent, None, f"readers in {city}")
        time.sleep(0.5)


# What waits, and why.


@task(durable=True, key="mailbox", limit=1)
def fetch_mail(folder: str) -> None:
    """Take 20 s; the mailbox is read by one at a time."""
    for _ in track(range(40), note=folder):
        time.sleep(0.5)


@task(durable=True, rate="4/m")
def ask_partner(city: str) -> None:  # noqa: ARG001 (shown on the page)
    """Be rare: the partner answers four times a minute."""
    time.sleep(0.2)


@task(durable=True)
def remind(order: int) -> None:
    """Run on the next day."""


@task(durable=True)
def import_prices() -> int:
    """Take a minute and a half; `publish_prices` waits for it."""
    for _ in track(range(180), note="supplier 3 of 7"):
        time.sleep(0.5)
    return 180


@task(durable=True)
def publish_prices(count: int) -> None:
    """Follow `import_prices`."""


@task(durable=True)
def rebuild_search(part: int) -> None:
    """Wait until somebody resumes it: `seed` has paused it."""


# What comes again and again.


@task(every=1)
def shoppers() -> None:
    """Make some tasks, as customers would."""
    for name, rate in RATES.items():
        count = int(rate + random.random())  # noqa: S311
        for _ in range(count):
            delay(globals()[name], random.randrange(1, 10_000))  # noqa: S311
    now = int(time.time())
    if now % 15 == 0:
        delay(ask_partner, CITIES[now // 15 % len(CITIES)])
    if now % 25 == 0:
        delay(fetch_mail, "INBOX")
    if now % 45 == 0:
        delay(send_newsletter, CITIES[now // 45 % len(CITIES)])
    if now % 150 == 0:
        delay(export_orders, 2026)
        chain(import_prices, publish_prices).delay()


@task(every=60, durable=True)
def tidy_carts() -> int:
    """Run once a minute, in whichever process is free."""
    time.sleep(0.3)
    return random.randrange(30)  # noqa: S311


def close_books() -> None:
    """Run at half past two at night."""


def seed() -> None:
    """Leave tasks of the kinds that seldom come by themselves."""
    # A function that the app's processes do not have; after a minute its task is parked.
    import_module("retired").print_catalogue.delay(2025)
    executor.pause("rebuild_search")
    for part in range(3):
        rebuild_search.delay(part)
    for order in (4711, 4712):
        remind.using(countdown=86_400).delay(order)
    for order in (7, 14, 21, 10, 17):
        delay(charge, order)
    for order in (34, 51):
        delay(send_receipt, order)
    for city in CITIES:
        delay(ask_partner, city)
    for folder in ("INBOX", "INBOX", "orders"):
        delay(fetch_mail, folder)
    delay(export_orders, 2026)
    delay(send_newsletter, CITIES[0])
    chain(import_prices, publish_prices).delay()
