"""Flask-Login's current user in a task with a copy of the request."""

import pytest

pytest.importorskip("flask_login")

from flask import Flask, session
from flask_login import LoginManager, UserMixin, current_user, login_user

from flask_delay import Delay, using

DEADLINE = 20.0


class User(UserMixin):
    def __init__(self, id):
        self.id = id


@pytest.fixture
def app():
    app = Flask("login", static_folder=None)
    app.config["SECRET_KEY"] = "secret"
    Delay(app)
    manager = LoginManager(app)
    manager.user_loader(User)
    app.futures = []

    @app.post("/login")
    def login():
        login_user(User("ann"), remember=True)
        return "ok"

    @app.get("/whoami")
    def whoami():
        app.futures.append(using(request=True).delay(lambda: (current_user.id, dict(session))))
        return "ok"

    yield app
    app.extensions["delay"].shutdown(wait=True, cancel_futures=False)


def test_current_user_of_a_visitor_with_a_session(app):
    client = app.test_client()
    client.post("/login")
    client.get("/whoami")
    name, _ = app.futures[0].result(DEADLINE)
    assert name == "ann"


def test_current_user_of_a_visitor_with_a_remember_me_cookie_alone(app, caplog):
    client = app.test_client()
    client.post("/login")
    client.delete_cookie("session")
    response = client.get("/whoami")
    name, kept = app.futures[0].result(DEADLINE)
    # Flask-Login has noted it in the session, which here is the task's own.
    assert (name, kept["_user_id"]) == ("ann", "ann")
    assert caplog.records == []
    assert client.get_cookie("session") is None
    assert "Set-Cookie" not in response.headers
