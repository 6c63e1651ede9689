"""What a process is for: whether it serves, and whether its app is made."""

import pytest


@pytest.fixture
def made(run_script, tmp_path):
    """What `making` says while a module is imported, and afterwards."""

    def run(**files):
        (tmp_path / "package").mkdir()
        (tmp_path / "package/__init__.py").touch()
        for name, text in files.items():
            (tmp_path / f"package/{name}.py").write_text(text)
        done = run_script("import package.app as it\nprint(it.early, it.making())", flags=())
        assert done.rc == 0, done.err
        return done.out.strip()

    return run


EXTENSIONS = """
from flask import Flask
from flask_delay.servers import role

def init(app):
    app.making = role.making()
"""


def test_a_module_that_makes_the_app(made):
    app = """
from flask import Flask
from package.extensions import init

app = Flask(__name__)
init(app)
making, early = app.making, app.making()
"""
    assert made(app=app, extensions=EXTENSIONS) == "True False"


def test_a_factory_that_a_module_calls(made):
    app = """
from flask import Flask
from package.extensions import init

def create_app():
    app = Flask(__name__)
    init(app)
    app.early = app.making()
    return app

app = create_app()
# The module may still register views.
making, early = app.making, (app.early, app.making())
"""
    assert made(app=app, extensions=EXTENSIONS) == "(True, True) False"


def test_a_factory_that_a_server_calls(run_script, tmp_path):
    (tmp_path / "shop.py").write_text(
        EXTENSIONS
        + "def create_app():\n    app = Flask(__name__)\n    init(app)\n"
        + "    app.early = app.making()\n    return app\n"
    )
    done = run_script(
        "import shop\ndef serve():\n    app = shop.create_app()\n"
        "    print(app.early, app.making())\nserve()\n",
        flags=(),
    )
    assert (done.rc, done.out) == (0, "True False\n"), done.err


def test_a_program_has_a_second(run_script):
    done = run_script(
        "import time\n"
        "from flask_delay.servers import role\n"
        "making, end = role.making(), time.monotonic() + 20\n"
        "early = making()\n"
        "while making() and time.monotonic() < end: time.sleep(0.05)\n"
        "print(early, making())\n",
        flags=(),
    )
    assert (done.rc, done.out) == (0, "True False\n"), done.err


def test_a_factory_of_a_program(run_script):
    done = run_script(
        "from flask_delay.servers import role\n"
        "def create_app():\n    making = role.making()\n    return making, making()\n"
        "making, early = create_app()\n"
        "print(early, making())\n",
        flags=(),
    )
    assert (done.rc, done.out) == (0, "True False\n"), done.err


def test_children_of_multiprocessing(run_script):
    done = run_script(
        "import multiprocessing\n"
        "from flask_delay.servers import role\n"
        "def tell(): print(role.is_child(), flush=True)\n"
        "if __name__ == '__main__':\n"
        "    tell()\n"
        "    for method in ('fork', 'spawn'):\n"
        "        child = multiprocessing.get_context(method).Process(target=tell)\n"
        "        child.start()\n"
        "        child.join()\n",
        flags=(),
    )
    assert (done.rc, done.out) == (0, "False\nTrue\nTrue\n"), done.err


def test_workers_of_a_server_are_no_such_children(run_script, tmp_path):
    (tmp_path / "uvicorn").mkdir()
    (tmp_path / "uvicorn/__init__.py").touch()
    (tmp_path / "uvicorn/workers.py").write_text("def run(target):\n    target()\n")
    done = run_script(
        "import multiprocessing\n"
        "from flask_delay.servers import role\n"
        "from uvicorn.workers import run\n"
        "def tell(): print(role.is_child(), flush=True)\n"
        "if __name__ == '__main__':\n"
        "    child = multiprocessing.get_context('spawn').Process(target=run, args=(tell,))\n"
        "    child.start()\n"
        "    child.join()\n",
        flags=(),
    )
    assert (done.rc, done.out) == (0, "False\n"), done.err


@pytest.mark.parametrize(
    ("uid", "expected"), [("os.geteuid() + 1", True), ("os.geteuid()", False), ("None", False)]
)
def test_a_worker_that_has_the_rights_of_its_arbiter(run_script, tmp_path, uid, expected):
    (tmp_path / "gunicorn").mkdir()
    (tmp_path / "gunicorn/__init__.py").touch()
    (tmp_path / "gunicorn/arbiter.py").write_text(
        "class Arbiter:\n"
        "    def __init__(self, cfg):\n        self.cfg = cfg\n"
        "    def spawn_worker(self, call):\n        call()\n"
    )
    done = run_script(
        "import os, types\n"
        "from flask_delay.servers import role\n"
        "from gunicorn.arbiter import Arbiter\n"
        f"arbiter = Arbiter(types.SimpleNamespace(uid={uid}))\n"
        "arbiter.spawn_worker(lambda: print(role.will_change_user()))\n"
        "print(role.will_change_user())\n",
        flags=(),
    )
    assert (done.rc, done.out) == (0, f"{expected}\nFalse\n"), done.err


def test_what_follows_a_fork(run_script):
    done = run_script(
        "import os\n"
        "from flask_delay.servers import role\n"
        "role.after_fork(lambda: print('first', flush=True))\n"
        "role.after_fork(lambda: print('second', flush=True))\n"
        "if os.fork() == 0:\n"
        "    os._exit(0)\n"
        "os.wait()\n",
        flags=(),
    )
    assert (done.rc, done.out) == (0, "first\nsecond\n"), done.err
