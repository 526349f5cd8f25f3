"""The README and the pages of docs/, and what stands in them: commands, blocks of code, links, headings."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
GENERATED = sorted((ROOT / "docs/reference").glob("*.md"))
PAGES = sorted((ROOT / "docs").glob("*.md"))
"""Those that are written by hand."""
HOW_TO = sorted((ROOT / "docs/how-to").glob("add-*.md"))
"""Those that are followed step by step in a copy of the repository."""
GUIDES = sorted(set((ROOT / "docs/how-to").glob("*.md")) - set(HOW_TO))
"""Those that are followed by who uses the commands."""
SMALLER = "--steps 2 --workers 0 --set data.size=[32,48] --set data.crop=[32,48] --set data.batch_size=2"
"""What makes a training that a page shows a matter of seconds."""
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    """Return the blocks of code of a language."""
    return [text for kind, text in BLOCK.findall(page.read_text(encoding="utf-8")) if kind == language]


def snippet(page: Path, name: str) -> str:
    """Return the block of code that begins with a comment on a file of this name."""
    text = page.read_text(encoding="utf-8")
    (found,) = (block for _, block in BLOCK.findall(text) if re.match(rf"(#|//) {re.escape(name)}[ ;,:]", block))
    return str(found)


def shown(page: Path) -> list[str]:
    """Return the commands in the blocks of shell code, continued lines joined."""
    lines = [line for block in blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines()]
    return [line.strip() for line in lines if line.strip()]


def prose(page: Path) -> str:
    """Return a page without its blocks of code."""
    return BLOCK.sub("", page.read_text(encoding="utf-8"))


def inline_code(page: Path) -> list[str]:
    """Return what stands between backticks in the prose."""
    return [str(code) for code in re.findall(r"`([^`\n]+)`", prose(page))]


def links(page: Path) -> list[str]:
    """Return the targets of links and pictures."""
    return [str(target) for target in re.findall(r"\]\(([^)\s]+)\)", prose(page))]


def headings(page: Path) -> list[str]:
    """Return the texts of the headings, without marks."""
    found = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    return [re.sub(r"[`*]", "", str(heading)) for heading in found]
