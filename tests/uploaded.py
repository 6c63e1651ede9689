"""What the tests of uploads share."""

import os
from pathlib import Path


def uploads_in(folder: Path, of: str = "") -> list[Path]:
    """The uploads that are kept below it, in folders whose names begin so.

    Those that a thread removes meanwhile are not among them: `os.walk` passes over what has gone.
    """
    found = [Path(place, name) for place, _, names in os.walk(folder) for name in names]
    found = [it for it in found if it.suffix != ".lock" and it.name != "task"]
    return [it for it in found if it.parents[1].name.startswith(of)]
