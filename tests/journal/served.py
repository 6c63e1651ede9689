"""The app that the tests of the journal serve and kill. Its tasks note what they do in a file.

Settings are in the environment: FLASK_DELAY_... as those of the app, RECORD for the file.
"""

import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

from flask import Flask, jsonify, request
from tests.journal import record

from flask_delay import Delay, Future, JournalUnavailable, chain, current_task, gather, task

_folder = Path(os.environ["RECORD"]).parent
note = partial(record.note, Path(os.environ["RECORD"]))
# Plain tasks are no part of the record: they are lost with their processes.
note_plain = partial(record.note, _folder / "plain")


@task(durable=True)
def work(number: int) -> int:
    """Take up to 0.1 s."""
    note("start", number)
    time.sleep(number * 7919 % 1000 / 10_000)
    note("end", number)
    return number


@task(durable=True)
def poison(number: int) -> None:
    """Kill the process."""
    note("start", number)
    os.kill(os.getpid(), signal.SIGKILL)


@task(durable=True)
def wait_for_file(number: int) -> int:
    """Run until the file `go` is there."""
    note("start", number)
    while not (_folder / "go").exists():
        time.sleep(0.01)
    note("end", number)
    return number


@task(durable=True)
async def work_async(number: int) -> int:
    """As `work`, on the event loop."""
    return work.__wrapped__(number)


COUNTS = 10


def do(number: int, count: int) -> int:
    """A step that takes its time."""
    time.sleep(number * 7919 % 1000 / 100_000)
    note(f"did={count}", number)
    return count


@task(durable=True)
def go_on(number: int) -> int:
    """Take up to 0.2 s. What was done is not done again."""
    note("start", number)
    begun = current_task.checkpointed or 0
    note(f"from={begun}", number)
    try:
        for count in range(begun, COUNTS):
            time.sleep(number * 7919 % 1000 / 100_000)
            if count % 3 == 2:
                current_task.step(str(count), do, number, count)
                note(f"stepped={count}", number)
            current_task.checkpoint(count + 1)
            note(f"kept={count + 1}", number)
    except BaseException:
        # It is put back.
        note("again", number)
        raise
    note("end", number)
    return number


@task(durable=True)
def go_on_until_file(number: int) -> int:
    """As `wait_for_file`, with checkpoints."""
    note("start", number)
    count = current_task.checkpointed or 0
    note(f"from={count}", number)
    try:
        while not (_folder / "go").exists():
            time.sleep(0.01)
            count += 1
            current_task.checkpoint(count)
            note(f"kept={count}", number)
    except BaseException:
        note("again", number)
        raise
    note("end", number)
    return number


@task(durable=True, limit=record.LIMIT, key="mailbox")
def limited(number: int) -> int:
    """Take up to 0.02 s, `LIMIT` of them at once."""
    note("start", number)
    note("of=limited", number)
    time.sleep(number * 7919 % 1000 / 50_000)
    note("end", number)
    return number


@task(durable=True, rate=f"{record.RATE}/s")
def rated(number: int) -> int:
    """Start `RATE` times in a second."""
    note("start", number)
    note("of=rated", number)
    note("end", number)
    return number


@task(durable=True)
def link(number: int) -> int:
    """A step of a chain: the result is the number of the next one."""
    work.__wrapped__(number)
    return number - record.STEP if number >= record.STEP else number


@task(durable=True)
def branch(number: int) -> int:
    """One of the tasks before `join`: the result is the number of that."""
    work.__wrapped__(number)
    return number % record.STEP


@task(durable=True)
def join(numbers: list[int]) -> int:
    """What follows all branches."""
    (number,) = set(numbers)
    return work.__wrapped__(number)


class Flaw(Exception):
    """What `flawed` fails with."""


@task(durable=True)
def flawed(number: int, *, text: str) -> int:
    """The first of a chain, which fails until somebody has had it run again often enough."""
    note("start", number)
    note("of=flawed", number)
    assert text == f"flawed {number}"
    begun = current_task.checkpointed or 0
    note(f"from={begun}", number)
    time.sleep(number * 7919 % 1000 / 50_000)
    if begun < 1 + number % 2:
        try:
            current_task.checkpoint(begun + 1)
        except BaseException:
            note("again", number)
            raise
        note(f"kept={begun + 1}", number)
        note("fail", number)
        raise Flaw(number)
    note("end", number)
    return number - record.STEP


@task(durable=True)
def tidy_up(number: int) -> None:
    """What follows any end."""
    work.__wrapped__(number)


@task(durable=True)
def pausable(number: int) -> int:
    """As `work`, of a function that is paused now and then."""
    return work.__wrapped__(number)


@task(limit=record.LIMIT, key="plain", scope="machine")
def plain(number: int) -> None:
    """Take up to 0.2 s, `LIMIT` of them at once. It is lost with its process."""
    note_plain("start", number)
    time.sleep(number * 7919 % 1000 / 5_000)
    note_plain("end", number)


@task(rate=f"{record.RATE}/s", scope="machine")
def plain_rated(number: int) -> None:
    """Start `RATE` times in a second."""
    note_plain("rated", number)


FUNCTIONS = {
    it.__name__: it
    for it in (
        work,
        poison,
        wait_for_file,
        work_async,
        go_on,
        go_on_until_file,
        limited,
        rated,
        pausable,
    )
}
# Of tasks that wait for a limit or a rate there are no more than about so many.
BLOCKED = 60
MIXED = ("go_on", "work", "limited", "rated", "chain", "gather", "flawed", "pausable")


def mixed(number: int) -> str:
    """The name of a function, or of what is made of several; each client comes to all of them."""
    name = MIXED[(number + number // 4) % len(MIXED)]
    if name in {"limited", "rated"} and executor.stats()["journal"]["blocked"] > BLOCKED:
        return "work"
    return name


def submitted(name: str, number: int, countdown: float) -> Future[Any]:
    """The future of the task with this number, which may be the last of several."""
    if name == "mixed":
        name = mixed(number)
    if name == "chain":
        return chain(link, link, link).delay(number + 2 * record.STEP)
    if name == "gather":
        branches = (branch.delay(number + it * record.STEP) for it in record.BRANCHES)
        return gather(*branches).then(join)
    if name == "flawed":
        first = number + record.STEP
        future = flawed.delay(first, text=f"flawed {first}")
        future.then(partial(tidy_up, number + record.TIDY * record.STEP), on="end")
        return future.then(link)
    return FUNCTIONS[name].using(countdown=countdown).delay(number)


# And so many plain ones, in each process.
HELD = 10


def submit_plain(number: int) -> None:
    """Submit plain tasks beside the durable one with this number, unless many of them wait."""
    if executor.stats()["held"] < HELD:
        for it in range(4):
            plain.delay(4 * number + it)
            plain_rated.delay(4 * number + it)


app = Flask(__name__, static_folder=None)
app.config.from_prefixed_env("FLASK")
executor = Delay(app)
app.register_blueprint(executor.status_blueprint(url_prefix="/tasks", results=True, errors=True))


@task(every=1, durable=True, missed="run", overlap=True)
def tick() -> None:
    """A task for each second, where somebody asks for it."""


if "TICKS" in os.environ:
    with app.app_context():
        tick.delay()


@app.get("/")
def index():
    return {"pid": os.getpid()}


@app.post("/submit/<int:number>/<name>")
def submit(number: int, name: str):
    countdown = request.args.get("countdown", 0.0, type=float)
    future = submitted(name, number, countdown)
    if "PLAIN" in os.environ:
        submit_plain(number)
    return {"id": future.id, "pid": os.getpid()}


@app.post("/retry/<id>")
def retry(id: str):
    try:
        return {"id": executor.retry(id).id}
    except ValueError as error:
        return {"message": str(error)}, 409


@app.post("/pause/<name>")
def pause(name: str):
    executor.pause(None if name == "all" else name)
    return {}


@app.post("/resume/<name>")
def resume(name: str):
    executor.resume(None if name == "all" else name)
    return {}


@app.errorhandler(JournalUnavailable)
def refused(error: Exception):
    return jsonify(message=str(error)), 503


@app.after_request
def tell_process(response):
    response.headers["X-Process"] = str(os.getpid())
    return response
