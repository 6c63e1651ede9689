"""What the plots of the live page draw, made of steps; the table beside them; sparklines."""

import html
import json
import re
import time

import pytest

from flask_delay import Delay, delay
from flask_delay.dashboard import plots
from flask_delay.dashboard.samples import Plots

NOW = 1_800_000_003.5
NOTHING = (None,) * 9


def measured(*rows, step=1):
    """Rows of a time and nine values, as columns."""
    return Plots(step, *(list(column) for column in zip(*rows, strict=True)))


def points_of(*rows, key="15m", now=NOW):
    return plots.points_of(measured(*rows, step=plots.SPANS[key].step), key, now)


def test_what_ended_is_a_rate_and_steps_that_are_left_out_are_idle():
    at = 1_799_999_990
    points = points_of(
        (at - 100, *NOTHING),
        (at, 15, 1, 7, 1, 2, 0.123456, 0.9, 0, 0.5),
        (at + 5, 0, 0, 0, 1, 1, None, None, None, None),
    )
    place = (at - points.begin) // 5
    there = [[column[place + n] for column in points.columns] for n in range(-1, 3)]
    # Before anything was measured nothing is known; afterwards nothing ended, and levels stay.
    assert there[0] == [None] * 9
    assert there[1] == [3, 0.2, 7, 1, 2, 0.123, 0.9, 1e-6, 0.5]
    assert there[2:] == [[0, 0, 0, 1, 1, None, None, None, None]] * (len(there) - 2)
    assert len(points.columns[0]) == place + 3


def test_a_step_that_goes_on_counts_the_seconds_that_have_passed():
    points = points_of((1_800_000_000, 7, 0, 0, 0, 0, *[None] * 4))
    assert points.columns[0][-1] == 2


@pytest.mark.parametrize("key", plots.SPANS)
def test_the_last_point_is_the_one_of_now(key):
    points = points_of((NOW - 1e6, *NOTHING), key=key)
    span = plots.SPANS[key]
    assert len(points.columns[0]) == span.length // span.step <= 180
    assert points.begin + span.length > NOW >= points.begin + span.length - span.step


def test_time_alone_is_no_news():
    row = (1_799_999_990, 10, 0, 3, 1, 2, 0.1, 0.2, 0.01, 0.02)
    first = points_of(row).news
    assert points_of(row, now=NOW + 300).news == first
    assert points_of(row, (1_800_000_000, 1, 0, 3, 1, 2, *[None] * 4)).news != first
    old = (1_799_990_000, 10, 0, 3, 1, 2, 0.1, 0.2, 0.01, 0.02)
    assert points_of(old).news == points_of(old, now=NOW + 300).news == ""
    # The step that goes on is no news while nothing else ends in it.
    for key, span in plots.SPANS.items():
        now = (int(NOW) // span.step * span.step, *row[1:])
        assert points_of(now, key=key).news == points_of(now, key=key, now=NOW + 1).news != ""


def test_the_table_has_all_in_few_rows():
    idle = (1_799_990_000, 0, 0, 0, 0, 0, *[None] * 4)
    table = points_of(idle, (1_799_999_990, 10, 2, 3, 1, 2, 0.1, 0.2, 0.01, 0.02)).table()
    assert len(table) == 15
    assert [moment for moment, _ in table] == sorted((it for it, _ in table), reverse=True)
    ended = sum(row[0] or 0 for _, row in table)
    assert ended * 60 == pytest.approx(10, rel=0.1)


def test_a_sparkline_has_a_bar_for_each_minute_with_an_end():
    path = plots.spark([0, 5, 10])
    assert path == "M30 20v-9h29.25V20zM60 20v-18h29.25V20z"
    assert plots.spark([]) == plots.spark([0]) == ""


@pytest.fixture
def visitor(make_app):
    extension = Delay()
    app = make_app(extension=extension)
    app.register_blueprint(extension.dashboard_blueprint(authorize=None), url_prefix="/t")
    return app


def test_a_plot_without_data_says_why():
    nothing = points_of((NOW - 1e6, *NOTHING))
    assert nothing.are_empty
    waits = points_of((1_800_000_000, 0, 0, 0, 1, 0, *[None] * 4))
    ended, levels, times = plots.PLOTS
    assert not waits.are_empty
    assert [waits.lack(*it) for it in ((0, ended), (2, levels), (5, times))] == [True, False, True]


def test_the_overview_has_them_as_paths_numbers_and_data(visitor, wait_until):
    client = visitor.test_client()
    empty = "No task has waited, run or ended in the last 15 minutes, in this process."
    assert empty in client.get("/t/").text
    with visitor.app_context():
        for _ in range(20):
            delay(int).result(20)

    def data():
        return client.get("/t/", headers={"Accept": "application/json"}).get_json()

    assert wait_until(lambda: any(data()["points"]["done"]))
    told = data()
    assert told["points"]["step"] == 5
    assert len(told["points"]["wait_p95"]) == 180
    assert sum(told["sparklines"]["int"]) == 20
    text = client.get("/t/").text
    assert empty not in text
    points = json.loads(html.unescape(re.search(r'data-points="([^"]*)"', text)[1]))
    assert [len(row) for row in points["rows"]] == [180] * 9
    assert abs(points["from"] + points["span"] - time.time()) < 20
    assert 'class="good" d="M' in text
    assert "20 ended in 30 minutes" in text
    assert "Last 7 days" in client.get("/t/?span=7d").text
    assert "Last 15 minutes" in client.get("/t/?span=other").text
    # What is drawn already is not sent again.
    live = client.get("/t/live/?span=6h").text
    assert "data-points" in live
    assert "<path class" not in live
    assert "/t/live/?span=6h" in client.get("/t/?span=6h").text
