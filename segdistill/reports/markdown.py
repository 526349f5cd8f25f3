"""Names from anybody's data and files as Markdown that says what they are, and does nothing else."""

import re


def verbatim(text: str) -> str:
    """Return a name as code, where neither Markdown nor GitHub knows any markup.

    GitHub looks for mentions, issues, emoji and formulas once entities are resolved, but not in code. A pipe ends a
    table's cell even there, so it stands between two pieces of code. What cannot be printed is shown by its escape.
    """
    characters = [char if char.isprintable() else repr(char)[1:-1] for char in text]
    pieces = "".join(characters).split("|")
    return "&#124;".join(_code(piece) for piece in pieces)


def _code(text: str) -> str:
    """Return a code span, within more backticks than the text has in a row; nothing of nothing."""
    if not text:
        return ""
    longest_run = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * (longest_run + 1)
    # One space at each end is not shown. Without it, a backtick would join the fence, and a space of the text's own
    # would be the one that is not shown.
    is_only_spaces = not text.strip(" ")
    begins_or_ends_so = text[0] in "` " or text[-1] in "` "
    padding = " " if begins_or_ends_so and not is_only_spaces else ""
    return f"{fence}{padding}{text}{padding}{fence}"
