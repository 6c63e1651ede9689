"""The page without a mouse: all of it is reached, seen and used, and focus is not lost."""

from functools import partial

import pytest
from tests.browser.views import VIEWS, address_of

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

# All that can have focus. What is reached is marked.
LEFT = """
    () => [...document.querySelectorAll("a, button, input, select, summary, [tabindex='0']")]
        .filter(it => it.type !== "hidden" && it.checkVisibility() && !it.reached)
        .map(it => it.outerHTML.slice(0, 120))
"""
# How focus is seen, of the element that has it.
SEEN = """
    () => {
        const it = document.activeElement, again = it.reached;
        const { top, bottom, left, right } = it.getBoundingClientRect();
        const { outlineStyle, outlineWidth } = getComputedStyle(it);
        it.reached = true;
        return {
            what: it.outerHTML.slice(0, 120), tag: it.localName, again: Boolean(again),
            ring: outlineStyle !== "none" && parseFloat(outlineWidth) >= 3,
            inside: bottom > 0 && top < innerHeight && right > 0 && left < innerWidth,
        };
    }
"""


def focused(page, what="textContent"):
    """A property of the element that has focus."""
    return str(page.evaluate(f"document.activeElement.{what}")).strip()


def has_focus(page, start):
    return focused(page, "ariaLabel").startswith(start)


def go_to(page, name):
    """Press Tab until a control of this name has focus."""
    for _ in range(200):
        page.keyboard.press("Tab")
        if name in (focused(page), focused(page, "ariaLabel")):
            return
    pytest.fail(f"Tab does not come to {name!r}")


def paused(seen):
    """Have a page that stays as it is."""
    seen.page.add_init_script("localStorage['delay-paused'] = 'true'")
    return seen


@pytest.mark.parametrize("width", [1280, 320])
def test_everything_is_reached_and_seen(full_site, look, width):
    seen = paused(look(width))
    for path in VIEWS:
        seen.page.goto(address_of(seen, full_site.url, path))
        first = True
        while True:
            seen.page.keyboard.press("Tab")
            it = seen.page.evaluate(SEEN)
            if it["tag"] == "body" or it["again"]:
                break
            assert it["ring"], (path, it)
            assert it["inside"], (path, it)
            assert not first or it["what"].startswith('<a class="skip"')
            first = False
            if it["tag"] == "summary":
                seen.page.keyboard.press("Enter")
                assert seen.page.evaluate("document.activeElement.parentElement.open"), it
        assert seen.page.evaluate(LEFT) == [], path
    assert seen.complaints == []


def test_the_first_key_skips_to_the_content(full_site, look):
    seen = paused(look())
    seen.page.goto(f"{full_site.url}/failed")
    seen.page.keyboard.press("Tab")
    seen.page.keyboard.press("Enter")
    assert focused(seen.page, "id") == "main"
    seen.page.keyboard.press("Tab")
    assert seen.page.evaluate("document.activeElement.closest('main, header').localName") == "main"


def test_a_filter_is_typed(full_site, look):
    page = paused(look()).page
    page.goto(f"{full_site.url}/failed")
    page.keyboard.press("/")
    page.keyboard.type("charge")
    page.keyboard.press("Enter")
    page.wait_for_url("**/failed?name=charge")
    go_to(page, "Clear")
    page.keyboard.press("Enter")
    page.wait_for_url("**/failed")
    go_to(page, "ConnectionError 3")
    page.keyboard.press("Enter")
    page.wait_for_url("**/failed?class=ConnectionError")


def test_focus_stays_in_its_place_when_its_row_goes(site, look):
    site.fail(3)
    seen = look()
    seen.page.goto(f"{site.url}/failed")
    rows = seen.page.locator("tbody tr")
    names = [rows.nth(n).locator(".id").inner_text() for n in range(3)]
    go_to(seen.page, f"Retry charge {names[1]}")
    site.executor.pause("charge")
    seen.page.keyboard.press("Enter")
    rows.nth(2).wait_for(state="detached")
    # On the task behind it, where Enter only looks.
    assert focused(seen.page, "closest('tr').id").startswith(f"t-{names[2]}")
    assert focused(seen.page, "localName") == "a"
    go_to(seen.page, f"Retry charge {names[2]}")
    seen.page.keyboard.press("Enter")
    rows.nth(1).wait_for(state="detached")
    # It was the last one.
    assert focused(seen.page, "id") == "main"
    assert seen.complaints == []


def test_buttons_are_pressed(site, look, wait_until):
    site.fill()
    seen = look()
    page = seen.page
    note = page.locator("#said p")
    for path, name, said, again in (
        ("/running", "Stop export_orders", "asked to stop", "Stop"),
        ("/jobs", "Run now", "", "Run now"),
        ("/jobs", "Pause tidy", "", "Resume"),
        ("/names", "Pause charge", "", "Resume"),
        ("/names", "Resume charge", "", "Pause"),
    ):
        page.goto(site.url + path)
        verb, _, what = name.partition(" ")
        button = page.locator(f"button[aria-label^='{verb}'][aria-label*='{what}']").first
        label = button.get_attribute("aria-label")
        go_to(page, label)
        page.keyboard.press("Space")
        note.wait_for()
        assert said in note.inner_text()
        # The button that undoes it is where focus is.
        assert wait_until(partial(has_focus, page, again)), (path, name)
    page.goto(f"{site.url}/queue")
    cancel = page.locator("tbody button").first.get_attribute("aria-label")
    go_to(page, cancel)
    page.keyboard.press("Enter")
    page.locator(f"button[aria-label='{cancel}']").wait_for(state="detached")
    assert focused(page, "localName") != "body"
    assert seen.complaints == []


def test_a_dialog_has_focus_and_gives_it_back(site, look):
    site.fail(2)
    seen = look()
    page = seen.page
    page.goto(f"{site.url}/failed")
    dialog = page.get_by_role("dialog")
    inside = "document.querySelector('#ask').contains(document.activeElement)"
    button = "Retry all that match \N{HORIZONTAL ELLIPSIS}"
    go_to(page, button)
    page.keyboard.press("Enter")
    dialog.wait_for()
    for _ in range(8):
        # Of what is behind it nothing is reached; the browser's own controls are.
        assert page.evaluate(inside) or focused(page, "localName") == "body"
        page.keyboard.press("Tab")
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    assert focused(page) == button
    page.keyboard.press("Enter")
    dialog.wait_for()
    go_to(page, "Back")
    page.keyboard.press("Enter")
    dialog.wait_for(state="hidden")
    assert focused(page) == button
    page.keyboard.press("Enter")
    dialog.wait_for()
    go_to(page, "Run them again")
    page.keyboard.press("Enter")
    page.get_by_text("2 tasks run again").wait_for()
    assert seen.complaints == []


def test_the_help_has_focus_and_gives_it_back(full_site, look):
    page = look().page
    page.goto(f"{full_site.url}/jobs")
    dialog = page.get_by_role("dialog")
    go_to(page, "Processes")
    for way in ("key", "button"):
        if way == "key":
            page.keyboard.press("?")
        else:
            go_to(page, "Keys and updates")
            page.keyboard.press("Enter")
        before = "Processes" if way == "key" else "?"
        dialog.wait_for()
        assert focused(page, "id") == "keys"
        page.keyboard.press("Escape")
        dialog.wait_for(state="hidden")
        assert focused(page) == before
    page.keyboard.press("Enter")
    page.keyboard.press("Space")
    go_to(page, "Close")
    page.keyboard.press("Enter")
    dialog.wait_for(state="hidden")
    assert focused(page) == "?"
    # Keys are off now.
    page.keyboard.press("p")
    assert page.get_by_text("Updates are paused").count() == 0
