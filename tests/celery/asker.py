"""Another process of the same app: evaluates the expressions that it reads, one a line."""

import asyncio
import json
import os
import sys
import traceback
from concurrent.futures import as_completed, wait
from types import SimpleNamespace

from tests.celery import site, work

from flask_delay import Delay, task_cancelled, task_failed, task_started, task_succeeded


def main(url: str) -> None:
    app = site.make(url, **json.loads(os.environ.get("ASKER", "{}")))
    found: Delay = app.extensions["delay"].owner
    app.register_blueprint(found.status_blueprint(url_prefix="/tasks", results=True))
    client = app.test_client()
    # What a found future must not cause.
    told: list[object] = []
    found.add_default_done_callback(lambda future: told.append("default"))
    for signal in (task_started, task_succeeded, task_failed, task_cancelled):
        signal.connect(lambda app, future: told.append("signal"), weak=False)

    async def awaited(future):
        return await future

    def page(id):
        answer = client.get(f"/tasks/{id}")
        return [answer.status_code, answer.get_json()]

    names = {
        "as_completed": as_completed,
        "asyncio": asyncio,
        "awaited": awaited,
        "delay": found,
        "get": found.get,
        "kept": SimpleNamespace(),
        "os": os,
        "page": page,
        "told": told,
        "wait": wait,
        "work": work,
    }
    print("null", flush=True)
    with app.app_context():
        for line in sys.stdin:
            try:
                print(json.dumps(eval(line, names), default=repr), flush=True)
            except BaseException as error:
                traceback.print_exc()
                print(json.dumps({"raised": type(error).__name__}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
