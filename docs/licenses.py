"""Write the table of dependencies in docs/licenses.md from what is installed.

    python docs/licenses.py [--check]

It has the packages that pyproject.toml names, each with the license that its own metadata states. --check writes
nothing and exits with 1 where the table is not that of the installed versions.
"""

import argparse
import re
import sys
import tomllib
from importlib.metadata import PackageMetadata, PackageNotFoundError, metadata
from pathlib import Path

from _reference.markdown import table

PAGE = Path(__file__).parent / "licenses.md"
PROJECT = Path(__file__).parents[1] / "pyproject.toml"
BEGIN, END = "<!-- Written by docs/licenses.py: begin -->", "<!-- end -->"
HEADS = ("package", "for", "version", "license that it states")
OWN_NAME = "segdistill"
MAX_CHARACTERS = 120
"""Characters of a license's name: a longer text is the license itself."""


def wanted() -> dict[str, str]:
    """Return what each package that pyproject.toml names is for: "always", or the extra that has it."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    groups = {"always": project["dependencies"], **project["optional-dependencies"]}
    found: dict[str, str] = {}
    for group, requirements in groups.items():
        for requirement in requirements:
            matched = re.match(r"[\w.-]+", requirement)
            assert matched is not None, requirement
            name = matched[0]
            if name != OWN_NAME:  # one extra names others of ours
                found.setdefault(name, group if group == "always" else f"extra `{group}`")
    return found


def stated_license(package: PackageMetadata) -> str:
    """Return what a package's metadata say of its license: an expression, a name, or a classifier, in this order."""
    fields = [package["License-Expression"], package["License"]]
    names = [field.strip() for field in fields if field and "\n" not in field.strip()]
    classifiers = [line for line in package.get_all("Classifier") or [] if line.startswith("License ::")]
    names += [line.rpartition(" :: ")[2] for line in classifiers]
    return next((name for name in names if 0 < len(name) <= MAX_CHARACTERS), "not stated")


def dependencies() -> list[list[str]]:
    """Return the rows of the table.

    Raises:
        SystemExit: a package is not installed.
    """
    rows = []
    for name, group in wanted().items():
        try:
            package = metadata(name)
        except PackageNotFoundError:
            raise SystemExit(f"Package {name} is not installed. Run: pip install -e '.[dev]'") from None
        rows.append([f"`{name}`", group, package["Version"], stated_license(package)])
    return rows


def written(page: str, rows: list[list[str]]) -> str:
    """Return the page with these rows between its two marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table(HEADS, rows)}\n\n{END}{after}"


def main() -> int:
    """Write the table, or compare it; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if it is out of date")
    check = parser.parse_args().check
    page = PAGE.read_text(encoding="utf-8")
    new = written(page, dependencies())
    if check and new != page:
        print("docs/licenses.md is not what is installed. Run: python docs/licenses.py")
        return 1
    if not check:
        PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
