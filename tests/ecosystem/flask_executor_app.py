"""An app as users of Flask-Executor write it; test_flask_executor.py runs it on both."""

import threading
from concurrent.futures import as_completed, wait

from flask import Blueprint, Flask, current_app, jsonify, request, session
from flask_executor import Executor

bp = Blueprint("app", __name__)
executor = Executor()
mail = Executor(name="mail")
gate = {"begun": threading.Event(), "release": threading.Event()}
called = []
DEADLINE = 20


def look(word, *, times=1):
    return {
        "word": word * times,
        "app": current_app.config["GREETING"],
        "path": request.path,
        "query": request.args.get("q"),
        "agent": request.headers["X-Agent"],
        "user": session.get("user"),
    }


def hold():
    gate["begun"].set()
    assert gate["release"].wait(DEADLINE)
    return "held"


def fail(message):
    raise LookupError(message)


def remember(future):
    called.append(future.exception() is None)


@executor.job
def square(number):
    return number * number


@bp.get("/submit/<word>")
def submit(word):
    session["user"] = word
    future = executor.submit(look, word, times=2)
    return jsonify(future.result(DEADLINE))


@bp.post("/form")
def form():
    future = executor.submit(lambda: [request.form["a"], request.method, request.mimetype])
    return jsonify(future.result(DEADLINE))


@bp.post("/json")
def json():
    return jsonify(executor.submit(lambda: request.get_json()).result(DEADLINE))


@bp.get("/callback")
def callback():
    heard = threading.Event()
    seen = []

    def report(future):
        seen.append([future.result(), request.path, current_app.config["GREETING"]])
        heard.set()

    future = executor.submit(pow, 2, 10)
    future.add_done_callback(report)
    assert heard.wait(DEADLINE)
    return jsonify(seen)


@bp.get("/map")
def map_():
    return jsonify(list(executor.map(lambda a, b: [a + b, request.args["q"]], "abc", "xyz")))


@bp.get("/job/<int:number>")
def job(number):
    stored = square.submit_stored("square", number)
    known = stored in executor.futures
    results = [
        square.submit(number).result(DEADLINE),
        stored.result(DEADLINE),
        list(square.map(range(number))),
    ]
    return jsonify(results, known, executor.futures.pop("square") == stored)


@bp.get("/start/<key>")
def start(key):
    try:
        executor.submit_stored(key, hold)
    except ValueError as error:
        return jsonify(str(error).split(";")[0].replace("'", "")), 409
    assert gate["begun"].wait(DEADLINE)
    return jsonify(len(executor.futures))


@bp.get("/state/<key>")
def state(key):
    futures = executor.futures
    return jsonify(futures.done(key), futures._state(key), futures.running(key))


@bp.get("/release/<key>")
def release(key):
    gate["release"].set()
    result = executor.futures.result(key, timeout=DEADLINE)
    future = executor.futures.pop(key)
    return jsonify(result, future.done(), executor.futures.pop(key), len(executor.futures))


@bp.get("/add")
def add():
    for number in range(4):
        future = executor.submit(abs, -number)
        wait([future], DEADLINE)
        executor.futures.add(number, future)
    kept = [number for number in range(4) if executor.futures.done(number)]
    results = [executor.futures.pop(number).result() for number in kept]
    return jsonify(kept, results, len(executor.futures))


@bp.get("/error")
def error():
    future = executor.submit(fail, "nothing there")
    raised = future.exception(DEADLINE)
    return jsonify(type(raised).__name__, str(raised), future.cancelled(), future.cancel())


@bp.get("/wait")
def wait_():
    futures = [executor.submit(pow, 2, n) for n in range(5)]
    ended, unfinished = wait(futures, DEADLINE)
    among = all(future in ended for future in futures)
    results = sorted(future.result() for future in as_completed(futures, DEADLINE))
    return jsonify(among, len(unfinished), results)


@bp.get("/mail")
def mail_():
    other = current_app.extensions["mailexecutor"]
    assert other is mail
    assert current_app.extensions["executor"] is executor
    return jsonify(other.submit(lambda: request.args["q"]).result(DEADLINE))


def create_app():
    app = Flask(__name__)
    app.secret_key = "secret"
    app.config.update(
        GREETING="hello",
        EXECUTOR_TYPE="thread",
        EXECUTOR_MAX_WORKERS="3",
        EXECUTOR_FUTURES_MAX_LENGTH=2,
        EXECUTOR_PROPAGATE_EXCEPTIONS=True,
        MAIL_EXECUTOR_MAX_WORKERS=1,
    )
    executor.init_app(app)
    mail.init_app(app)
    app.register_blueprint(bp)
    executor.add_default_done_callback(remember)
    return app
