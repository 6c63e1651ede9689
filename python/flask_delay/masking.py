"""Masks passwords in URLs, settings and error messages before they are shown."""

import re

_NAMES = (
    r"(?:pass(?:word|wd|phrase|(?==))|pwd|secret|token(?!s)|credential"
    r"|(?:api|access|private|account)[_-]?key)[\w.-]{0,20}"
)
_LITERAL = r"b?'(?:\\.|[^'\\])*'|b?\"(?:\\.|[^\"\\])*\"|[^\s,'\"{}\[\]()]+"
# Each pattern begins with a few fixed characters and looks no further than one URL or one value:
# the text may be long, and come from an untrusted source. Before each, what every match has: most
# texts have it not, and to look for it costs far less.
_PATTERNS = tuple(
    (re.compile(needed).search, re.compile(pattern, re.IGNORECASE), replacement)
    for needed, pattern, replacement in (
        # ://user:password@, up to the last "@" of this URL: a password may contain "@" and "/".
        ("://", r"(://[^\s/?#:]*:)(?:(?!://)\S)*@", r"\1***@"),
        # https://token@
        ("://", r"(?<=http)(s?://)[^\s/?#:@]+@", r"\1***@"),
        # ?password=..., and the same outside of URLs: "host=db password=..."
        ("=", rf"({_NAMES}=)(?:'[^']*'|\"[^\"]*\"|[^\s&;,'\"]+)", r"\1***"),
        # The repr of a dict, or JSON: 'password': '...'
        (r"['\"]\s?:", rf"({_NAMES}['\"]\s?:\s?)(?:{_LITERAL})", r"\1'***'"),
    )
)


def masked(text: str) -> str:
    """The text, with "***" for each password that its place or its name gives away."""
    for has_sign, pattern, replacement in _PATTERNS:
        if has_sign(text):
            text = pattern.sub(replacement, text)
    return text
