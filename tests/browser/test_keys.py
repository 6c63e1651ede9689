"""Keys, dialogs and the pace of updates, in a real browser."""

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


def place(seen, site):
    return seen.page.evaluate("location.pathname").removeprefix("/tasks")


def test_keys_go_to_pages_pause_and_help(full_site, look):
    seen = look()
    seen.page.goto(f"{full_site.url}/")
    for key, path in (("r", "running"), ("q", "queue"), ("f", "failed"), ("j", "jobs"), ("o", "")):
        seen.page.keyboard.press("g")
        seen.page.keyboard.press(key)
        seen.page.wait_for_url(f"{full_site.url}/{path}")
    # Of their own they are nothing.
    seen.page.keyboard.press("r")
    seen.page.keyboard.press("p")
    seen.page.get_by_text("Updates are paused").wait_for()
    assert place(seen, full_site) == "/"
    seen.page.keyboard.press("p")
    seen.page.get_by_text("Updates are paused").wait_for(state="hidden")
    seen.page.keyboard.press("?")
    seen.page.get_by_role("dialog").get_by_text("This help").wait_for()
    seen.page.keyboard.press("Escape")
    seen.page.get_by_role("dialog").wait_for(state="hidden")
    assert seen.complaints == []


def test_keys_are_text_while_somebody_types(full_site, look):
    seen = look()
    seen.page.goto(f"{full_site.url}/failed")
    seen.page.keyboard.press("/")
    assert seen.page.evaluate("document.activeElement.id") == "q"
    seen.page.keyboard.type("p/?gr")
    assert seen.page.get_by_label("Function").input_value() == "p/?gr"
    assert place(seen, full_site) == "/failed"
    assert seen.page.get_by_text("Updates are paused").count() == 0
    assert seen.page.get_by_role("dialog").count() == 0


def test_keys_can_be_turned_off_and_the_choice_is_kept(full_site, look):
    seen = look()
    seen.page.goto(f"{full_site.url}/")
    seen.page.get_by_role("button", name="Keys and updates").click()
    seen.page.get_by_label("Keys are on").uncheck()
    seen.page.reload()
    seen.page.keyboard.press("p")
    seen.page.keyboard.press("?")
    assert seen.page.get_by_text("Updates are paused").count() == 0
    seen.page.get_by_role("button", name="Keys and updates").click()
    assert not seen.page.get_by_label("Keys are on").is_checked()
    seen.page.get_by_label("Keys are on").check()
    seen.page.get_by_role("button", name="Close").click()
    seen.page.keyboard.press("p")
    seen.page.get_by_text("Updates are paused").wait_for()


# Remembers for how long the page waits. htmx waits, too, but for a moment or a minute.
WAITS = """
    const wait = window.setTimeout;
    window.waits = [];
    window.setTimeout = (act, time) => {
        if (time > 50 && time < 60000) waits.push(time);
        return wait(act, time);
    };
"""


def test_a_slower_pace_can_be_chosen_and_is_kept(full_site, look):
    seen = look()
    seen.page.add_init_script(WAITS)
    seen.page.goto(f"{full_site.url}/running")
    seen.page.get_by_role("button", name="Keys and updates").click()
    pace = seen.page.get_by_label("Updates", exact=True)
    said = pace.locator("option").all_inner_texts()
    assert said == ["every 1 s", "every 5 s", "every 10 s", "every 30 s", "off"]
    with seen.page.expect_response(lambda it: "/live/" in it.url):
        pace.select_option("10")
    seen.page.reload()
    assert pace.input_value() == "10"
    assert seen.page.evaluate("waits") == [10_000]
    seen.page.get_by_role("button", name="Keys and updates").click()
    pace.select_option("off")
    seen.page.get_by_text("Updates are paused").wait_for()
    # It is the same as the button.
    seen.page.keyboard.press("Escape")
    seen.page.get_by_role("button", name="Pause updates").click()
    assert pace.input_value() == "10"


def test_no_page_asks_more_often_than_the_app_has_it(full_site, look):
    seen = look()
    seen.page.add_init_script(WAITS)
    seen.page.goto(f"{full_site.url}/running")
    for kept in ("0", "0.01", "-5", "NaN", "fast", ""):
        seen.page.evaluate("it => { localStorage['delay-pace'] = it; }", kept)
        seen.page.reload()
        assert min(seen.page.evaluate("waits")) >= 1_000, kept


def test_a_dialog_tells_how_many_run_again(site, look):
    site.fail(3)
    seen = look()
    seen.page.goto(f"{site.url}/failed")
    seen.page.get_by_role("button", name="Retry all that match").click()
    dialog = seen.page.get_by_role("dialog")
    dialog.get_by_role("heading", name="Run 3 tasks again?").wait_for()
    assert place(seen, site) == "/failed"
    dialog.get_by_role("button", name="Back").click()
    dialog.wait_for(state="hidden")
    seen.page.get_by_role("checkbox", name="Select").first.check()
    seen.page.get_by_role("button", name="Retry selected").click()
    dialog.get_by_role("heading", name="Run 1 task again?").wait_for()
    dialog.get_by_role("button", name="Run it again").click()
    seen.page.get_by_text("The task runs again").wait_for()
    assert seen.complaints == []
