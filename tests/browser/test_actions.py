"""What a button says in a browser, on a page that stays as it is."""

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


def note(page):
    return page.locator("#said p")


def test_a_stop_is_told_on_the_page_and_shows_at_once(site, look):
    site.export()
    seen = look()
    seen.page.goto(f"{site.url}/running")
    loads = []
    seen.page.on("framenavigated", lambda frame: loads.append(frame.url))
    button = seen.page.locator("tbody button.danger")
    button.click()
    note(seen.page).wait_for()
    assert "asked to stop" in note(seen.page).inner_text()
    assert seen.page.locator("#said").get_attribute("role") == "status"
    site.go.set()
    seen.page.get_by_text("Nothing runs at the moment").wait_for()
    # The note is not part of what is updated.
    assert note(seen.page).count() == 1
    assert (loads, seen.complaints) == ([], [])


def test_what_is_refused_says_why(site, look):
    site.export()
    seen = look()
    seen.page.goto(f"{site.url}/running")
    button = seen.page.locator("tbody button.danger")
    button.wait_for()
    site.verdict = {"cancel"}
    # The button is still there, as the page has not asked since.
    button.click()
    note(seen.page).wait_for()
    assert "but not stop tasks" in note(seen.page).inner_text()
    assert "bad" in note(seen.page).get_attribute("class")


def test_updates_go_on_after_an_action(site, look):
    site.fail()
    seen = look()
    seen.page.goto(f"{site.url}/failed")
    seen.page.get_by_role("button", name="Retry charge").first.click()
    note(seen.page).wait_for()
    assert note(seen.page).inner_text() == "The task runs again."
    site.requests.clear()
    seen.page.wait_for_timeout(2500)
    # One a second, as before: the answer to a form is no trouble of an update.
    assert sum("/live/failed" in path for path in site.requests) >= 2
    assert seen.page.locator("#updates").inner_text() == ""
