"""The plots of the overview in a real browser, which axe cannot look into."""

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

# The pixels of a canvas by their colours: opaque ones that are not of the lines of the grid.
COLOURS = """
    (canvas) => {
        const { width, height } = canvas;
        const data = canvas.getContext("2d").getImageData(0, 0, width, height).data;
        const found = {};
        for (let n = 0; n < data.length; n += 4)
            if (data[n + 3] > 200) {
                const key = `${data[n]},${data[n + 1]},${data[n + 2]}`;
                found[key] = (found[key] || 0) + 1;
            }
        return found;
    }
"""
GROUND = """
    (canvas) => getComputedStyle(canvas.closest("figure")).backgroundColor.match(/\\d+/g).join()
"""


def brightness(colour):
    red, green, blue = map(int, colour.split(","))
    return 0.3 * red + 0.6 * green + 0.1 * blue


def drawn(seen):
    """The colours of each plot, and what they are on."""
    canvases = seen.page.locator("figure canvas")
    canvases.nth(2).wait_for()
    # The next frame: they are drawn then.
    seen.page.evaluate("new Promise(requestAnimationFrame)")
    return [
        (canvases.nth(n).evaluate(COLOURS), canvases.nth(n).evaluate(GROUND))
        for n in range(canvases.count())
    ]


@pytest.mark.parametrize("width", [1280, 320])
def test_three_plots_are_drawn_in_colours_that_differ_from_the_ground(full_site, look, width):
    seen = look(width)
    seen.page.goto(f"{full_site.url}/")
    for scheme, forced in (("light", "none"), ("dark", "none"), ("light", "active")):
        seen.page.emulate_media(color_scheme=scheme, forced_colors=forced)
        plots = drawn(seen)
        assert len(plots) == 3
        for colours, ground in plots:
            seen_well = {
                it: count
                for it, count in colours.items()
                if abs(brightness(it) - brightness(ground)) > 80
            }
            # Texts of the axes at least, and the line of what runs.
            assert sum(seen_well.values()) > 100, (scheme, forced)


def test_colours_follow_the_switch(full_site, look):
    seen = look()
    seen.page.goto(f"{full_site.url}/")
    light = [colours for colours, _ in drawn(seen)]
    seen.page.get_by_role("button", name="Dark").click()
    dark = [colours for colours, _ in drawn(seen)]
    for before, after in zip(light, dark, strict=True):
        assert max(before, key=before.get) != max(after, key=after.get)


def test_all_plots_have_one_cursor_and_say_what_is_under_it(full_site, look):
    seen = look()
    seen.page.goto(f"{full_site.url}/")
    running = seen.page.locator(".key", has_text="running").locator("b")
    # The first page may be older than the first sample.
    running.get_by_text("1").wait_for()
    seen.page.get_by_role("button", name="Pause updates").click()
    over = seen.page.locator("figure .u-over")
    over.nth(0).hover(position={"x": 40, "y": 40})
    lines = seen.page.locator("figure .u-cursor-x")
    assert lines.count() == 3
    places = {
        lines.nth(n).evaluate(
            "it => Math.round(it.getBoundingClientRect().x -"
            " it.closest('.u-over').getBoundingClientRect().x)"
        )
        for n in range(2)
    }
    # The first two are of the same width.
    assert places == {40}
    # Nothing was known so long ago.
    seen.page.wait_for_timeout(100)
    assert running.inner_text() == "\N{EN DASH}"


def test_plots_go_on_without_being_made_anew(site, look):
    seen = look()
    seen.page.goto(f"{site.url}/")
    drawn(seen)
    seen.page.evaluate("document.querySelector('canvas').dataset.kept = 'yes'")
    seen.page.get_by_text("As a table").click()
    before = seen.page.locator("[data-points]").get_attribute("data-points")
    site.export()
    seen.page.locator(".key", has_text="running").get_by_text("1").wait_for()
    assert seen.page.locator("[data-points]").get_attribute("data-points") != before
    assert seen.page.locator("canvas[data-kept=yes]").count() == 1
    assert seen.page.locator("details[open]").count() == 1
    assert seen.complaints == []


def test_a_span_is_a_link(full_site, look):
    seen = look()
    seen.page.goto(f"{full_site.url}/")
    seen.page.get_by_role("link", name="7 d").click()
    seen.page.get_by_role("heading", name="Last 7 days", exact=True).wait_for()
    with seen.page.expect_response(lambda it: "/live/?span=7d" in it.url):
        pass
    assert len(drawn(seen)) == 3
    assert seen.complaints == []


def test_without_a_script_the_plots_are_there(full_site, browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{full_site.url}/")
    assert page.locator("figure svg path").count() == 9
    page.get_by_text("As a table").click()
    assert page.get_by_role("table", name="Last 15 minutes").locator("tbody tr").count() == 15
    context.close()
