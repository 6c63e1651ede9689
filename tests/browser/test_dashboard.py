"""The live page in a real browser: nothing to complain of, and nothing lost in an update."""

import pytest
from flask import redirect
from tests.browser.views import VIEWS, address_of, found_by_axe

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

LOOKS = [
    (width, scheme, forced)
    for width in (1280, 320)
    for scheme, forced in (("light", "none"), ("dark", "none"), ("light", "active"))
]


@pytest.mark.parametrize("path", VIEWS)
def test_no_page_has_anything_to_complain_of(full_site, look, path):
    seen = look()
    assert seen.page.goto(address_of(seen, full_site.url, path)).status == 200
    with seen.page.expect_response(lambda it: "/live/" in it.url):
        pass
    for it in seen.page.locator("summary").all():
        it.click()
    for width, scheme, forced in LOOKS:
        seen.page.set_viewport_size({"width": width, "height": 800})
        seen.page.emulate_media(color_scheme=scheme, forced_colors=forced)
        assert found_by_axe(seen.page) == [], (width, scheme, forced)
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    # Of a tablet, and the least at which tables have columns.
    for width in (768, 961):
        seen.page.set_viewport_size({"width": width, "height": 800})
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    assert seen.complaints == []


def test_an_empty_app_and_a_page_of_trouble_have_none_either(site, look):
    for path in ("/", "/running", "/queue", "/failed", "/finished", "/jobs"):
        seen = look()
        seen.page.goto(site.url + path)
        assert found_by_axe(seen.page) == [], path
        assert seen.complaints == []
        seen.page.close()
    for verdict, path, status in (("act", "/tasks/unknown", 404), (False, "/", 403)):
        site.verdict = verdict
        seen = look()
        assert seen.page.goto(site.url + path).status == status
        assert found_by_axe(seen.page) == [], path


def test_what_happens_shows_without_a_reload(site, look):
    seen = look()
    seen.page.goto(f"{site.url}/running")
    seen.page.get_by_text("Nothing runs at the moment").wait_for()
    site.export()
    seen.page.get_by_text("export_orders").wait_for()
    site.go.set()
    seen.page.get_by_text("Nothing runs at the moment").wait_for()
    assert seen.complaints == []


def test_focus_choice_and_open_details_survive_an_update(site, look):
    site.fail()
    seen = look()
    seen.page.goto(f"{site.url}/failed")
    row = seen.page.locator("tbody tr").last
    id = row.get_attribute("id")
    row.get_by_role("checkbox").check()
    row.locator("summary").click()
    row.get_by_role("button", name="Retry").focus()
    # New rows come in above it.
    site.fail(2)
    seen.page.locator("tbody tr").nth(2).wait_for()
    row = seen.page.locator(f'[id="{id}"]')
    assert row.get_by_role("checkbox").is_checked()
    assert row.locator("details").get_attribute("open") is not None
    inside = "it => it.contains(document.activeElement) && document.activeElement.textContent"
    assert row.evaluate(inside) == "Retry"
    assert seen.page.locator("tbody :checked").count() == 1


def test_updates_stop_when_asked_or_hidden(site, look):
    seen = look()
    seen.page.goto(site.url)
    seen.page.get_by_role("button", name="Pause updates").click()
    seen.page.get_by_text("Updates are paused").wait_for()
    site.requests.clear()
    seen.page.wait_for_timeout(2500)
    assert site.requests == []
    with seen.page.expect_response(lambda it: "/live/" in it.url):
        seen.page.get_by_role("button", name="Pause updates").click()
    seen.page.evaluate(
        "Object.defineProperty(document, 'hidden', {get: () => true, configurable: true});"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    seen.page.wait_for_timeout(1500)
    site.requests.clear()
    seen.page.wait_for_timeout(2500)
    assert site.requests == []


def test_an_error_page_is_not_put_in_and_the_page_backs_off(site, look):
    def unavailable(environ, start):
        start("503 Service Unavailable", [("Content-Type", "text/html")])
        return [b"<h1>Proxy</h1>"]

    site.export()
    seen = look()
    seen.page.goto(f"{site.url}/running")
    site.broken = unavailable
    seen.page.get_by_text("No answer, asking again").wait_for()
    site.requests.clear()
    seen.page.wait_for_timeout(4000)
    assert len(site.requests) <= 2
    assert seen.page.get_by_text("export_orders").is_visible()
    assert not seen.page.get_by_text("Proxy").is_visible()


def test_a_login_is_not_put_in_but_gone_to(site, look):
    def login(environ, start):
        start("200 OK", [("Content-Type", "text/html")])
        return [b"<h1>Log in</h1>"]

    site.export()
    seen = look()
    seen.page.goto(f"{site.url}/running")
    site.broken = login
    seen.page.get_by_text("No answer, asking again").wait_for()
    assert seen.page.get_by_text("export_orders").is_visible()
    site.broken = None
    site.verdict = redirect("/login")
    seen.page.get_by_text("please log in").wait_for()


def test_without_a_script_a_failure_runs_again(site, browser):
    site.fail(2)
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{site.url}/failed")
    page.get_by_role("button", name="Retry all that match").click()
    page.get_by_role("heading", name="Run 2 tasks again?").wait_for()
    page.get_by_role("button", name="Run them again").click()
    page.get_by_text("2 tasks run again").wait_for()
    context.close()


def test_the_theme_is_kept(site, look):
    seen = look()
    seen.page.goto(site.url)
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    light = seen.page.evaluate(ground)
    seen.page.get_by_role("button", name="Dark").click()
    assert seen.page.evaluate(ground) != light
    seen.page.reload()
    assert seen.page.evaluate(ground) != light
    assert seen.page.get_by_role("button", name="Light").is_visible()


def test_the_first_page_takes_few_requests(site, look):
    seen = look()
    seen.page.goto(f"{site.url}/", wait_until="networkidle")
    assert len([it for it in site.requests if "/live" not in it]) <= 6
