"""`make screenshots` makes the same pictures again: if one changes, its page has changed."""

from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("playwright.sync_api")
pytest.importorskip("PIL")

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

NAMES = {"overview", "failed"}


def test_two_runs_make_the_same_pictures(tmp_path):
    from tests.browser import screenshots

    if not screenshots.CHROMIUM.exists():
        pytest.skip(f"NOT RUN: there is no {screenshots.CHROMIUM}")
    runs = []
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        # Another Playwright drives the browser of the other tests on this thread.
        with ThreadPoolExecutor(1) as thread:
            made = thread.submit(screenshots.make, folder, NAMES).result()
        runs.append({path.name: path.read_bytes() for path in made})
    first, second = runs
    assert len(first) == 2 * len(NAMES)
    assert [name for name in first if first[name] != second[name]] == []


def test_each_picture_is_there_and_small():
    """Light and dark, but for forced colours."""
    from tests.browser import screenshots

    wanted = {
        f"dashboard-{shot.name}{dark}.png"
        for shot in screenshots.SHOTS
        for dark in (("", "-dark") if shot.forced == "none" else ("",))
    }
    there = {path.name: path.stat().st_size for path in screenshots.IMAGES.glob("dashboard-*.png")}
    assert there.keys() == wanted
    assert max(there.values()) < 120_000
