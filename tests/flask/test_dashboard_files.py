"""The files of the live page: small enough, and those of others as they have published them."""

import base64
import hashlib
import json
import re
import tomllib
from importlib import metadata
from pathlib import Path

from tests.browser.vendor import bill

import flask_delay.dashboard
from flask_delay.dashboard.assets import VENDORED, Assets, source

ROOT = Path(__file__).parents[2]
STATIC = Path(flask_delay.dashboard.__file__).parent / "static"
VENDOR = STATIC / "vendor"
SCRIPTS = ("theme.js", "page.js", "plots.js")


def packages():
    return tomllib.loads((VENDOR / "vendor.toml").read_text())["package"]


def test_sizes_are_within_the_budget():
    by_kind: dict[str, list[int]] = {}
    for asset in Assets().all():
        kind = asset.name.rpartition(".")[2]
        sizes = by_kind.setdefault(kind, [0, 0])
        sizes[0] += len(asset.content)
        sizes[1] += len(asset.compressed)
    assert by_kind["css"][0] <= 12_000
    assert by_kind["css"][1] <= 4_000
    assert by_kind["js"][0] <= 95_000
    assert by_kind["js"][1] <= 38_000
    small = sum(small for _, small in by_kind.values())
    assert small <= 45_000
    page = (ROOT / "docs/dashboard.md").read_text()
    told = re.search(r"files of the page are (\d+) kB, compressed", page)
    assert told is not None
    assert int(told[1]) == round(small / 1_000)


def test_our_own_files_are_small():
    assert len(source("page.css").encode()) <= 10_000
    lines = [line for name in SCRIPTS for line in (STATIC / name).read_text().splitlines()]
    assert len([line for line in lines if line and not line.lstrip().startswith("//")]) <= 150
    assert max(map(len, lines)) <= 170


def test_all_that_is_there_is_served():
    told = " ".join(asset.content.decode() for asset in Assets().all())
    for path in STATIC.rglob("*"):
        if path.suffix in {".css", ".js", ".svg"}:
            assert source(str(path.relative_to(STATIC))) in told


def test_what_others_have_written_is_as_they_have_published_it():
    files = {file["path"]: file for package in packages() for file in package["file"]}
    assert sorted(f"vendor/{name}" for name in files) == sorted(VENDORED)
    for name, file in files.items():
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == file["sha256"]
    for package in packages():
        digest = base64.b64decode(package["integrity"].removeprefix("sha512-"))
        assert len(digest) == hashlib.sha512().digest_size
        assert (VENDOR / package["licence_file"]).read_text().strip()


def test_the_bill_of_materials_names_all_of_it():
    text = (VENDOR / "vendor.cdx.json").read_text()
    # `make vendor` writes it.
    assert text == bill()
    components = json.loads(text)["components"]
    assert sorted(it["purl"] for it in components) == sorted(
        f"pkg:npm/{it['name']}@{it['version']}" for it in packages()
    )
    files = [file for it in components for file in it["components"]]
    for file in files:
        content = (STATIC.parents[2] / file["name"]).read_bytes()
        assert file["hashes"] == [
            {"alg": "SHA-256", "content": hashlib.sha256(content).hexdigest()}
        ]
    assert len(files) == len(VENDORED)


def test_the_package_has_the_licences_and_the_bill():
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())
    licences = {package["licence"] for package in packages()}
    assert licences <= set(told["project"]["license"].split(" AND "))
    there = [str(file) for file in metadata.files("flask-delay") or ()]
    for package in packages():
        assert any(
            ".dist-info/" in it and it.endswith(f"/{package['licence_file']}") for it in there
        )
    (bill_there,) = (it for it in there if it.endswith("/sboms/vendor.cdx.json"))
    content = metadata.distribution("flask-delay").read_text("sboms/vendor.cdx.json")
    assert content == (VENDOR / "vendor.cdx.json").read_text(), bill_there
