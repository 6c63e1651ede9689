"""The app of the workers: `celery -A tests.celery.site:celery worker`."""

import json
import logging
import os

from flask import Flask
from tests.celery import work

from flask_delay import Delay, task_failed, task_started, task_succeeded
from flask_delay.backends.celery import celery_app

__all__ = ["app", "celery", "work"]


def settings(url):
    return {
        "CELERY_BROKER_URL": url,
        "CELERY_BROKER_TRANSPORT_OPTIONS": {"visibility_timeout": 1},
        # A message that the worker does not wait for is still in Redis when that is killed.
        "CELERY_WORKER_PREFETCH_MULTIPLIER": 1,
        # Seconds until a process that was killed is missed.
        "CELERY_WORKER_LOST_WAIT": 0.5,
        "CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP": True,
    }


def make(url, **more):
    app = Flask("site", static_folder=None)
    app.config.update(settings(url) | more)
    Delay(app)
    return app


if "SITE_REDIS" in os.environ:
    more = json.loads(os.environ.get("SITE_MORE", "{}"))
    app = make(os.environ["SITE_REDIS"], DELAY_BACKEND="celery", **more)
    celery = celery_app(app)
    log = logging.getLogger("site")

    @app.teardown_appcontext
    def teardown(exception):
        log.warning("teardown %s", type(exception).__name__)

    @task_started.connect_via(app)
    def started(app, future):
        log.warning("started %s", future.id)

    @task_succeeded.connect_via(app)
    def succeeded(app, future):
        log.warning("succeeded %s %s", future.id, app.name)

    @task_failed.connect_via(app)
    def failed(app, future):
        log.warning("failed %s %r", future.id, future.exception())
