"""A page costs a worker the same, however many rows the journal has."""

import pytest
from tests.flask import page_costs

# Milliseconds of the processor, at 100,000 rows.
VIEW, QUERY, IDLE = 20, 5, 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("costs")
    page_costs.fill(folder / "journal.db", page_costs.space())
    return folder


@pytest.fixture
def app(folder):
    app = page_costs.make_app(folder)
    yield app
    app.extensions["delay"].shutdown(wait=True, cancel_futures=True)


def test_a_page_costs_tasks_next_to_nothing():
    without, with_one = page_costs.per_task(rounds=9)
    # About 1.02; it was 8 while a page heard Python's signals.
    assert with_one.processor < 1.5 * without.processor


def costs_beyond(measure, most, rounds=4):
    """What costs more than `most(it)` in every one of some measurements, each with its least.

    Tests beside this one take caches away, and that for seconds, so that one may not be enough.
    """
    found, slowness = measure(), page_costs.slowness()
    for _ in range(rounds):
        beyond = {it: took for it, took in found.items() if took > most(it) * slowness}
        if not beyond:
            break
        found = {it: min(took, found[it]) for it, took in measure().items()}
        slowness = max(slowness, page_costs.slowness())
    return beyond


def test_each_query_is_short(app):
    # `stats` asks several, and keeps the answer for a second.
    assert costs_beyond(lambda: page_costs.queries(app), lambda _: QUERY) == {}


def test_each_view_is_short_and_an_idle_poll_is_nothing(app):
    def measure():
        kinds = ("HTML", "JSON", "poll")
        found = page_costs.views(app).items()
        return {
            (path, kind): took
            for path, each in found
            for kind, took in zip(kinds, each, strict=True)
        }

    assert costs_beyond(measure, lambda view: IDLE if view[1] == "poll" else VIEW) == {}
