"""What two files of a pair have in common in their names: by a pattern, and in the eyes of a reader."""

import re
import unicodedata
from dataclasses import dataclass
from functools import cached_property

from segdistill.data.image_file import LABEL_SUFFIXES

STAR = "*"
_LOOKALIKES = str.maketrans(
    "АВЕЅІЈКМНОРСТУХасеѕіјорухΑΒΕΖΗΙΚΜΝΟΡΤΥΧο‐‑‒–—−", "ABESIJKMHOPCTYXacesijopyxABEZHIKMNOPTYXo------"
)
"""Cyrillic and Greek letters, and dashes, that are drawn like one of ASCII."""


@dataclass(frozen=True)
class NamePattern:
    """A pattern such as "*_mask": what its stars stand for is what the files of a pair share.

    It is matched with the end of a path, whatever the case of its letters; the folders before it are shared as well. An
    ending of image files belongs to the name only where the pattern has one, too.
    """

    text: str

    @property
    def stars(self) -> int:
        """Number of parts that may be anything."""
        return self.text.count(STAR)

    @cached_property
    def _has_suffix(self) -> bool:
        return split_suffix(self.text)[1] != ""

    @cached_property
    def _expression(self) -> re.Pattern[str]:
        parts = "([^/]*)".join(map(re.escape, self.text.split(STAR)))
        return re.compile(rf"(?:(.*)/)?{parts}", re.IGNORECASE | re.DOTALL)

    def shared_part(self, path: str) -> str | None:
        """Return what a file shares with its partner, such as "cam1/0001"; None where the pattern does not match.

        Args:
            path: the file's, relative to its folder.
        """
        name = path if self._has_suffix else split_suffix(path)[0]
        match = self._expression.fullmatch(name)
        if match is None:
            return None
        return "/".join(part for part in match.groups() if part is not None)


ANY_NAME = NamePattern(STAR)


def split_suffix(path: str) -> tuple[str, str]:
    """Return a path without the ending of an image file, and the ending; an empty one where there is none."""
    stem, dot, ending = path.rpartition(".")
    suffix = dot + ending
    if stem and suffix.lower() in LABEL_SUFFIXES:
        return stem, suffix
    return path, ""


def looks(name: str) -> str:
    """Return the same text for names that look the same: letter case, Unicode's forms, blanks, lookalike letters.

    Two names of which this is equal are one name to whoever reads them: macOS stores "ü" as two characters, Windows
    tells no case apart, and copies of web pages bring blanks of no width.
    """
    text = unicodedata.normalize("NFKC", name)  # also full-width digits, ligatures and blanks of other widths
    text = "".join(character for character in text if unicodedata.category(character) not in ("Cf", "Cc"))
    text = unicodedata.normalize("NFKC", text.translate(_LOOKALIKES).casefold())
    parts = [" ".join(part.split()) for part in text.split("/")]
    return "/".join(parts)
