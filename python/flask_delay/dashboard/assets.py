"""The files of the page: their names carry a hash, so that browsers may keep them."""

import gzip
import hashlib
from importlib import resources
from typing import NamedTuple

_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
VENDORED = ("vendor/htmx.min.js", "vendor/hx-ptag.min.js")
"""What others have written; `vendor.toml` beside it says who."""

_FOLDER = resources.files(__package__) / "static"
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
        for path in ("page.css", "page.js", "icon.svg", *VENDORED):
            content = (_FOLDER / path).read_bytes()
            self._add(path, content + style.encode() if path == "page.css" else content)

    def _add(self, path: str, content: bytes) -> None:
        name = path.rpartition("/")[2]
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
