"""What each test of all views needs: which there are, and what axe says of one."""

from typing import Any

import pytest

axe_api = pytest.importorskip("axe_playwright_python.sync_playwright")

VIEWS = (
    "/",
    "/running",
    "/queue",
    "/failed",
    "/failed?class=ConnectionError",
    "/finished",
    "/jobs",
    "/names",
    "/names/int",
    "/processes",
    # The first task of a list.
    "/tasks/@running",
    "/tasks/@failed",
)
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]


def address_of(seen: Any, url: str, path: str) -> str:
    """The address of a view, in which "@running" is the id of the first task that runs."""
    kind, _, listed = path.partition("@")
    if not listed:
        return url + path
    answer = seen.page.request.get(f"{url}/{listed}", headers={"Accept": "application/json"})
    return f"{url}{kind}{answer.json()['tasks'][0]['id']}"


def found_by_axe(page: Any) -> list[Any]:
    """What axe finds on a page, and where."""
    options = {"runOnly": {"type": "tag", "values": RULES}, "resultTypes": ["violations"]}
    # A page that has it already need not read it again.
    axe = axe_api.Axe("0") if page.evaluate("'axe' in window") else axe_api.Axe()
    found = axe.run(page, options=options).response["violations"]
    return [(it["id"], [node["html"][:200] for node in it["nodes"]]) for it in found]
