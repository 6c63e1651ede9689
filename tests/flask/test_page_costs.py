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


def test_each_query_is_short(app):
    found = page_costs.queries(app)
    slowness = page_costs.slowness()
    # Several queries, whose answer is kept for a second.
    assert found.pop("stats") <= QUERY * slowness
    assert {name: took for name, took in found.items() if took > QUERY * slowness} == {}


def test_each_view_is_short_and_an_idle_poll_is_nothing(app):
    found = page_costs.views(app)
    slowness = page_costs.slowness()
    # With a value in each point of each plot, the overview takes more.
    most = {path: 2 * VIEW if path.startswith("/?") or path == "/" else VIEW for path in found}
    assert {it: took for it, took in found.items() if max(took) > most[it] * slowness} == {}
    assert {path: took for path, took in found.items() if took[2] > IDLE * slowness} == {}
