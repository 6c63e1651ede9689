"""What is used of C's library is there on macOS too, for which most machines cannot compile."""

import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Left out on macOS: see ffi/mod.rs, and the journal's tests with faults and power cuts.
ELSEWHERE = {"clock_posix.rs", "system.rs"}
# Where the libc crate says what there is: for every Unix, for the BSDs, for Apple's.
PLACES = ("primitives.rs", "unix/mod.rs", "unix/bsd/mod.rs", "unix/bsd/apple", "new/apple")
KINDS = r"\b(?:fn|const|type|struct|static)\s+"


def names():
    for source in sorted((ROOT / "src").rglob("*.rs")):
        if source.name not in ELSEWHERE:
            code = re.sub(r"//.*", "", source.read_text(encoding="utf-8"))
            yield from re.findall(r"\blibc::(\w+)", code)


def said_by(crate):
    texts = []
    for place in PLACES:
        path = crate / "src" / place
        files = [path] if path.is_file() else sorted(path.rglob("*.rs"))
        texts += [file.read_text(encoding="utf-8") for file in files]
    return "\n".join(texts)


def test_every_name_of_libc_is_there_on_macos():
    lock = (ROOT / "Cargo.lock").read_text(encoding="utf-8")
    version = re.search(r'name = "libc"\nversion = "([^"]+)"', lock)[1]
    home = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo"))
    crate = next(home.glob(f"registry/src/*/libc-{version}"), None)
    if crate is None:
        pytest.skip("the sources of the libc crate are not here")
    text, used = said_by(crate), set(names())
    assert "thread_info" in used
    assert [name for name in sorted(used) if not re.search(rf"{KINDS}{name}\b", text)] == []
    # What macOS has not is not found.
    assert not re.search(rf"{KINDS}pthread_getcpuclockid\b", text)
