"""One view, two imports: Flask-Threads and our layer for those who come from it."""

import pytest
from flask import Flask, current_app, g

flaskthreads = pytest.importorskip("flaskthreads")

from flask_delay.compat import flask_threads  # noqa: E402


@pytest.mark.parametrize("module", [flaskthreads, flask_threads], ids=["theirs", "ours"])
def test_the_same_view_answers_the_same(module):
    app = Flask("app")

    def work(n):
        g.setdefault("seen", []).append((current_app.name, g.user, n))
        return n * 2

    @app.get("/")
    def view():
        g.user = "ann"
        thread = module.AppContextThread(target=work, args=(1,))
        thread.start()
        thread.join(20)
        with module.ThreadPoolWithAppContextExecutor(max_workers=2) as pool:
            doubled = [pool.submit(work, 2).result(20), *pool.map(work, [3])]
        return {"seen": g.seen, "doubled": doubled}

    seen = [["app", "ann", n] for n in (1, 2, 3)]
    assert app.test_client().get("/").get_json() == {"seen": seen, "doubled": [4, 6]}
    for make in (module.AppContextThread, module.ThreadPoolWithAppContextExecutor):
        with pytest.raises(RuntimeError):
            make()
