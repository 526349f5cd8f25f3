"""TOML files within bounds of time and memory."""

import re
import tomllib
from pathlib import Path
from typing import Any

from segdistill.errors import UsageError
from segdistill.storage.files import open_file

MAX_PRESET_BYTES = 1 << 18
"""Bytes of a preset's file: those that come with the package have some thousands."""
MAX_KEY_PARTS = 32
"""Parts of a key, as nobody writes it: in 60 kB of "a.a.a." tomllib would find 4 GB and half a minute of work."""
MAX_ITEMS = 1 << 17
"""Keys, parts of keys, lists and tables of a TOML file: tomllib takes up to a kilobyte for each. An id is one of them.

With both, a file of n bytes takes at most 30 n + 300 MB of memory, and 1 s + 3 s per MB of time.
"""
MAX_WORD = 1024
"""Characters of a key without quotes, or of a number: tomllib takes over a hundred bytes for each digit."""
MAX_SHOWN_CHARACTERS = 20
"""Characters of such a key or number in a message."""
NAMES_AND_NUMBERS = "It should hold names and numbers, no data."
TOML_TOKEN = re.compile(
    r"""
    (?P<part>
        (?:"{3} (?: [^"\\]++ | \\. | "(?!"") )*+ (?: "{3,5}+ | \\?\Z ) | '{3} .*? (?: '{3,5}+ | \Z ))
        | " (?: [^"\\\n]++ | \\[^\n] )*+ "?
        | ' [^'\n]*+ '?
        | [\w-]++
    )
    | (?P<item>[.=[{])
    | (?P<blank>[ \t]++)
    | \#[^\n]*+
    | [^.=[{\w"'\# \t-]++
    """,
    re.ASCII | re.DOTALL | re.VERBOSE,
)
"""Pieces of TOML's text; no alternative gives back what it took, so that it is read once, whatever it says."""


def read_toml(path: Path, max_bytes: int = MAX_PRESET_BYTES) -> dict[str, Any]:
    """Read a TOML file, with or without a byte order mark: every one that a user gives comes through here.

    Raises:
        UsageError: if it cannot be read, has more than `max_bytes`, or is not valid.
    """
    try:
        with open_file(path) as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None
    if len(content) > max_bytes:
        raise UsageError(f"{path} is larger than {max_bytes} bytes.", NAMES_AND_NUMBERS)
    try:
        text = content.decode("utf-8-sig")
        excess = _find_excess(text)
        if not excess:
            return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # not TOML, no text, or a number of more than 4300 digits
        raise UsageError(f"{path} is not valid TOML: {error}") from None
    raise UsageError(f"{path} cannot be read: {excess}.", NAMES_AND_NUMBERS)


class _KeyCounter:
    """Counts the parts of the key that is read, and the items of the whole file."""

    def __init__(self) -> None:
        self.items = 0
        self.parts = 0
        self.first_part = ""
        self._after_dot = False

    def add(self, token: re.Match[str]) -> None:
        """Count a token; blanks are allowed around a key's dots."""
        kind = token.lastgroup
        if kind == "blank":
            return
        if kind == "item":
            self.items += 1
        elif kind == "part":
            if not self._after_dot:  # another key or value begins
                self.parts = 0
                self.first_part = token[0][:MAX_SHOWN_CHARACTERS]
            self.parts += 1
        self._after_dot = token[0] == "."


def _find_excess(text: str) -> str:
    """Return what in a TOML file would take tomllib long or much memory; nothing where all is well."""
    counter = _KeyCounter()
    for token in TOML_TOKEN.finditer(text):
        counter.add(token)
        if _is_long_word(token):
            shown = token[0][:MAX_SHOWN_CHARACTERS]
            return f"a key or number of more than {MAX_WORD} characters begins with {shown}"
        if counter.parts > MAX_KEY_PARTS:
            return f"a key of more than {MAX_KEY_PARTS} parts begins with {counter.first_part}"
        if counter.items > MAX_ITEMS:
            return f"it has more than {MAX_ITEMS} keys, lists and tables"
    return ""


def _is_long_word(token: re.Match[str]) -> bool:
    """Whether a token is a key or number that is too long; text in quotes may be longer."""
    return token.lastgroup == "part" and len(token[0]) > MAX_WORD and token[0][0] not in "\"'"
