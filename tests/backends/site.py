"""The app of the contract, in each process that has one; settings come from the environment."""

from flask import Flask, g
from tests.backends import work

from flask_delay import Delay


def create_app(**config):
    app = Flask("contract", static_folder=None)
    app.config["DELAY_APP"] = f"{__name__}:create_app()"
    app.config.from_prefixed_env()
    app.config.update(config)
    background = Delay(app)
    app.register_blueprint(
        background.status_blueprint(results=True, errors=True), url_prefix="/tasks"
    )

    @app.teardown_appcontext
    def note(error):
        if path := g.pop("path", None):
            work.write.__wrapped__(path, f"{type(error).__name__} ")

    return app
