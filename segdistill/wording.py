"""How messages count things and list names."""

from collections.abc import Sequence

MAX_LISTED = 10
"""Names, files or mistakes in one message: enough to see a pattern, few enough for a terminal."""


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: "1 image", "2 images"; `plural` is for nouns that do not just add s."""
    if count == 1:
        return f"1 {noun}"
    return f"{count} {plural or noun + 's'}"


def listed(names: Sequence[str], limit: int = MAX_LISTED) -> str:
    """Return the first names of a list, and how many more there are: "a, b and 7 more"."""
    text = ", ".join(names[:limit])
    if len(names) > limit:
        text += f" and {len(names) - limit} more"
    return text
