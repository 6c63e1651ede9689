"""The files of the page: their names carry a hash, so that browsers may keep them."""

import gzip
import hashlib
import re
from importlib import resources
from typing import NamedTuple

_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}

VENDORED = (
    "vendor/htmx.min.js",
    "vendor/hx-ptag.min.js",
    "vendor/uPlot.iife.min.js",
    "vendor/uPlot.min.css",
)
"""What others have written; `vendor.toml` beside it says who."""

# What is served under a name: few files are few requests. All scripts but the first run when the
# page is there.
_SERVED = {
    "page.css": ("vendor/uPlot.min.css", "page.css"),
    "theme.js": ("theme.js",),
    "page.js": (
        "vendor/uPlot.iife.min.js",
        "plots.js",
        "page.js",
        "vendor/htmx.min.js",
        "vendor/hx-ptag.min.js",
    ),
    "icon.svg": ("icon.svg",),
}
_FOLDER = resources.files(__package__) / "static"
# Spaces that need not be served. A colon or comma of a selector has none that matters behind it.
_IN_STYLES = re.compile(r" ?([{:;,>+]) | (?=})")
# Strings and templates stay as they are. No statement of ours ends without a semicolon or a brace,
# and before a brace it needs none.
_IN_SCRIPTS = re.compile(r"""("[^"\n]*"|`[^`]*`)|[;,](?=\s*})|\s*([][{}();,:=<>?&|+*!-])\s*""")
# The brackets around the only parameter of a function.
_AROUND_ONE = re.compile(r"\((\w+)\)(?==>)")
# Characters of a hash.
_LENGTH = 12


class Asset(NamedTuple):
    """A file as it is served."""

    name: str
    mimetype: str
    content: bytes
    compressed: bytes


class Assets:
    """All files of one page, by the names under which they are served. Immutable."""

    def __init__(self, style: str = "") -> None:
        """Read them. `style` is added to the style sheet."""
        self._names: dict[str, str] = {}
        self._served: dict[str, Asset] = {}
        for name, paths in _SERVED.items():
            content = "\n".join(map(source, paths))
            self._add(name, (content + style if name == "page.css" else content).encode())

    def _add(self, name: str, content: bytes) -> None:
        stem, _, ending = name.rpartition(".")
        served = f"{stem}.{hashlib.sha256(content).hexdigest()[:_LENGTH]}.{ending}"
        self._names[name] = served
        self._served[served] = Asset(
            served, _TYPES[ending], content, gzip.compress(content, mtime=0)
        )

    def served(self, name: str) -> str:
        """The name under which a file is served."""
        return self._names[name]

    def find(self, served: str) -> Asset | None:
        """The file of this name, with its hash."""
        return self._served.get(served)

    def all(self) -> list[Asset]:
        """All files."""
        return list(self._served.values())


def source(path: str) -> str:
    """The text of a file as it is served: our own without comments and what a browser can spare."""
    text = (_FOLDER / path).read_text("utf-8")
    if path in VENDORED:
        return text
    lines = (line.strip() for line in text.splitlines())
    kept = [line for line in lines if line and not line.startswith(("//", "/* "))]
    if path.endswith(".css"):
        return _IN_STYLES.sub(r"\1", "".join(kept))
    return _AROUND_ONE.sub(r"\1", _IN_SCRIPTS.sub(r"\1\2", "\n".join(kept)))
