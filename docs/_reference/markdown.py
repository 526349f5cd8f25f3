"""What the pages are written with: tables, blocks of code, links, and docstrings as prose."""

import re
import textwrap
from collections.abc import Iterable


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table of Markdown; a bar inside a cell is escaped."""
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *([cell.replace("|", r"\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def fenced(text: str, language: str = "text") -> str:
    """Return a block of code."""
    return f"```{language}\n{text}\n```"


def slug(text: str) -> str:
    """Return the anchor of a heading, as code hosts and MkDocs make it."""
    return re.sub(r"[^\w -]", "", text.lower()).strip().replace(" ", "-")


def listed(names: Iterable[str]) -> str:
    """Return names as code, with commas."""
    return ", ".join(f"`{name}`" for name in names)


def alternatives(values: list[str]) -> str:
    """Return values with an "or" before the last."""
    return " or ".join([", ".join(values[:-1]), values[-1]]) if len(values) > 1 else values[0]


def sentence(text: str) -> str:
    """Return a text in one line that ends as a sentence does."""
    line = " ".join(text.split())
    return line if not line or line[-1] in ".:" else f"{line}."


def paragraph(text: str) -> str:
    """Return the first paragraph of a docstring in one line."""
    return sentence(text.partition("\n\n")[0])


def prose(text: str) -> str:
    """Return a docstring as Markdown: its indented parts are blocks of code."""
    parts: list[str] = []
    block: list[str] = []

    def close() -> None:
        if block:
            parts.append(fenced(textwrap.dedent("\n".join(block)).strip("\n")))
            block.clear()

    for lines in text.strip().split("\n\n"):
        indented = [line.startswith("    ") for line in lines.splitlines()]
        head = indented.index(True) if True in indented else len(indented)
        if head:
            close()
            parts.append(" ".join(lines.splitlines()[:head]))
        if head < len(indented):
            block += [*([""] if block else []), *lines.splitlines()[head:]]
    close()
    return "\n\n".join(parts)
