"""Our layer for those who come from Flask-RQ, beside the package itself. Needs no Redis."""

import inspect

import pytest

flask_rq = pytest.importorskip("flask_rq")

from flask import Flask  # noqa: E402

from flask_delay.compat.flask_rq import RQ  # noqa: E402

# Of a worker, which is not there.
MISSING = {"make_worker", "make_cron_scheduler"}


def function(a):
    return a


def test_everything_public_is_there():
    apps = Flask("theirs"), Flask("ours")
    theirs, ours = flask_rq.RQ(apps[0]), RQ(apps[1])
    assert [sorted(app.extensions) for app in apps] == [["rq"], ["flask_rq", "rq"]]
    for there, here in ((theirs, ours), (theirs.job(function), ours.job(function))):
        for name, value in inspect.getmembers(type(there)):
            if name.startswith("_") or name in MISSING:
                continue
            assert name in dir(here), name
            if not inspect.isfunction(value):
                continue
            known = list(inspect.signature(getattr(type(here), name)).parameters)
            for place, parameter in enumerate(inspect.signature(value).parameters.values()):
                if parameter.kind is not parameter.VAR_KEYWORD:
                    assert known[place] == parameter.name, name


def test_the_queues_and_their_names():
    apps = Flask("theirs"), Flask("ours")
    for app in apps:
        app.config["RQ_QUEUES"] = ["high", "default"]
    theirs, ours = flask_rq.RQ(apps[0]), RQ(apps[1])
    for rq, app in zip((theirs, ours), apps, strict=True):
        with app.app_context():
            assert list(rq.queues) == ["high", "default"]
            assert (rq.queue.name, rq.get_queue("high").name) == ("default", "high")
            with pytest.raises(KeyError):
                rq.get_queue("mail")
            for name in ("enqueue", "enqueue_at", "enqueue_in", "fetch_job"):
                assert callable(getattr(rq.queue, name))
