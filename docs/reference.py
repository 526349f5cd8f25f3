"""Write docs/reference/ from the code: commands, configuration, terms, networks, presets, data files.

    python docs/reference.py [--check]

What stands there is what the code says: help texts, types, bounds, defaults and docstrings. --check writes nothing and
exits with 1 where a page is not up to date.
"""

import argparse
import sys
from pathlib import Path

from _reference import pages

FOLDER = Path(__file__).parent / "reference"


def stale(made: dict[str, str]) -> list[str]:
    """Return the names of the pages that are not, or no longer, what the code says."""
    there = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.md")}
    return sorted(name for name in made.keys() | there.keys() if made.get(name) != there.get(name))


def main() -> int:
    """Write the pages, or compare them; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where a page is out of date")
    check = parser.parse_args().check
    made = pages()
    names = stale(made)
    if check and names:
        print(f"docs/reference/ is not what the code says: {', '.join(names)}. Run: python docs/reference.py")
        return 1
    FOLDER.mkdir(exist_ok=True)
    for name in names:
        if name in made:
            (FOLDER / name).write_text(made[name], encoding="utf-8")
        else:
            (FOLDER / name).unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
