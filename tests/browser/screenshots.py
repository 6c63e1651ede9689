"""`make screenshots`: the pictures of docs/dashboard.md, into docs/images.

Two runs on one machine make the same pictures, to the last bit; see test_screenshots.py.
"""

import argparse
import io
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from playwright.sync_api import sync_playwright
from tests.browser.pictured import NOW, Shop, frozen

IMAGES = Path(__file__).parents[2] / "docs/images"
CHROMIUM = Path("/usr/bin/chromium")
# The colours of a picture: text has few.
COLOURS = 128


class Shot(NamedTuple):
    """A picture: its name, the page, and what is done there first."""

    name: str
    path: str
    act: str = ""
    width: int = 1280
    height: int = 800
    verdict: Any = "act"
    kind: str = "full"
    forced: str = "none"


# A path that is no path is the label of a task.
SHOTS = (
    Shot("overview", "/", height=1460),
    Shot("running", "/running", height=560),
    Shot("stack", "export", height=900),
    Shot("queue", "/queue", height=1160),
    Shot("failed", "/failed", act="traceback", height=980),
    Shot("retry", "/failed", act="retry", height=800),
    Shot("finished", "/finished", height=700),
    Shot("jobs", "/jobs", height=420),
    Shot("timeline", "failed 4", height=900),
    Shot("function", "/names/charge", height=1000),
    Shot("processes", "/processes", height=680),
    Shot("read-only", "/", verdict="read", height=620),
    Shot("forbidden", "/", verdict=False, height=360),
    Shot("empty", "/", kind="empty", height=700),
    Shot("alone", "/", kind="alone", height=560),
    Shot("narrow", "/queue", width=320, height=800),
    Shot("forced-colours", "/failed", height=700, forced="active"),
)


def make(folder: Path, names: set[str] | None = None) -> list[Path]:
    """Make the pictures with these names, or all; the files."""
    shots = [it for it in SHOTS if names is None or it.name in names]
    made = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-dev-shm-usage", "--font-render-hinting=none"],
        )
        for kind in ("full", "empty", "alone"):
            meant = [it for it in shots if it.kind == kind]
            if not meant:
                continue
            is_full = kind == "full"
            with tempfile.TemporaryDirectory() as instance, frozen(is_full=is_full):
                shop = Shop(Path(instance), journal=kind != "alone")
                if is_full:
                    shop.fill()
                with shop.served() as url:
                    for shot in meant:
                        shop.verdict = shot.verdict
                        for scheme in ("light", "dark") if shot.forced == "none" else ("light",):
                            with page_of(browser, shot, scheme) as page:
                                data = take(page, shop, url, shot)
                                made.append(keep(data, folder, shot, scheme))
        browser.close()
    return made


@contextmanager
def page_of(browser: Any, shot: Shot, scheme: str) -> Iterator[Any]:
    """A page of the browser whose clock stands still, too."""
    context = browser.new_context(
        viewport={"width": shot.width, "height": shot.height},
        color_scheme=scheme,
        forced_colors=shot.forced,
        reduced_motion="reduce",
        timezone_id="UTC",
        locale="en-GB",
    )
    page = context.new_page()
    page.clock.set_fixed_time(NOW)
    yield page
    context.close()


def take(page: Any, shop: Shop, url: str, shot: Shot) -> bytes:
    """Take a picture."""
    page.goto(url + (shot.path if shot.path.startswith("/") else shop.address(shot.path)))
    if shot.act == "traceback":
        # Not by the mouse, which leaves a colour behind.
        page.locator("tbody details").first.evaluate("it => { it.open = true; }")
    if shot.act == "retry":
        page.get_by_role("button", name="Retry all that match").click()
        page.get_by_text("Run 4 tasks again").first.wait_for()
    page.wait_for_load_state("networkidle")
    # What the script draws is there then.
    page.evaluate(
        "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    )
    data: bytes = page.screenshot(animations="disabled", caret="hide")
    return data


def keep(data: bytes, folder: Path, shot: Shot, scheme: str) -> Path:
    """Write a picture with few colours; its file."""
    small = Image.open(io.BytesIO(data)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    path = folder / f"dashboard-{shot.name}{'-dark' if scheme == 'dark' else ''}.png"
    small.save(path, optimize=True)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", help="of pictures; default: all")
    parser.add_argument("--into", type=Path, default=IMAGES)
    options = parser.parse_args()
    if not CHROMIUM.exists():
        sys.exit(f"there is no {CHROMIUM}")
    options.into.mkdir(parents=True, exist_ok=True)
    made = make(options.into, set(options.names) or None)
    for path in made:
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")
    print(f"{len(made)} pictures, {sum(it.stat().st_size for it in made) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
