"""The pages of docs/how-to/ are true: whoever follows one, in a copy of this repository, gets what it promises."""

import os
import re
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from helpers.commands import Result, process
from helpers.documents import BLOCK, HOW_TO, ROOT, blocks, shown

FIRST_LINE = re.compile(r"# (?P<file>[\w./-]+\.\w+)(?:, (?P<place>.+))?\n")
"""First line of a block that is typed: the file that it goes to and, where that is there already, the place in it."""
COPIED = ("segdistill", "presets", "tests", "docs", "benchmarks", "pyproject.toml", "mkdocs.yml", "README.md")
"""What a reader's copy of the repository has of ours; the last ones are read by tests."""
PROMISED = {
    "add-a-loss": ("docs/reference/terms.md", "## hellinger\n"),
    "add-a-network": ("docs/reference/networks.md", "## lraspp\n"),
    "add-a-dataset": ("segdistill/data/datasets/bdd100k.py", "def load("),
    "add-a-preset": ("docs/reference/presets.md", "## edges\n"),
}
"""What stands where in the end."""

each = pytest.mark.parametrize("page", HOW_TO, ids=lambda page: page.stem)


@dataclass(frozen=True)
class Step:
    """A block of code that the reader types."""

    file: str
    place: str
    """Empty where the block is the whole file."""
    code: str


def steps(page: Path) -> list[Step]:
    """Return the blocks of a page that are typed, in their order; commands are none."""
    found = []
    for language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language in ("sh", "text"):
            continue
        first_line = FIRST_LINE.match(text)
        assert first_line is not None, f"{page.name}: a block does not say where it goes:\n{text}"
        found.append(Step(first_line["file"], first_line["place"] or "", text[first_line.end() :]))
    return found


def follow(page: Path, folder: Path) -> None:
    """Type what a page says into a copy of the repository."""
    for step in steps(page):
        path = folder / step.file
        if not step.place:
            assert not path.exists(), f"{step.file} is there already"
            path.write_text(step.code, encoding="utf-8")
            continue
        text = path.read_text(encoding="utf-8")
        for place in step.place.split(" and "):
            text = inserted(text, place, step.code)
        path.write_text(text, encoding="utf-8")


def inserted(text: str, place: str, code: str) -> str:
    """Return a file's text with code at a place: "at the end", "before NAME" or "in NAME", which is a collection."""
    if place == "at the end":
        return text + code
    relation, name = place.split()
    opening = r".*?= [(\[{]" if relation == "in" else ""
    (found,) = re.finditer(rf"^{re.escape(name)}\b{opening}", text, flags=re.MULTILINE)
    if relation == "in":
        rest = text[found.end() :].removeprefix("\n")
        return f"{text[: found.end()]}\n{code}{rest}"
    assert relation == "before", place
    return text[: found.start()] + code + text[found.start() :]


def run(words: list[str], folder: Path) -> Result:
    """Run a command of a page in the copy, by the interpreter that runs this test."""
    words = words[1:] if words[0] == "python" else ["-m", *words]
    environment = {"PYTHONPATH": str(folder), "PYTEST_ADDOPTS": "-n 0 -p no:cacheprovider", "SEGDISTILL_DATA": ""}
    return process(sys.executable, *words, cwd=folder, timeout=900, **environment)


@pytest.fixture(scope="module")
def mypy_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache that the pages share, with what there is already: seconds in place of minutes."""
    folder = tmp_path_factory.mktemp("mypy") / "cache"
    if (ROOT / ".mypy_cache").is_dir():
        shutil.copytree(ROOT / ".mypy_cache", folder)
    return folder


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of the repository."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.xz", "*.gz"))
        else:
            shutil.copy(ROOT / name, folder)
    return folder


@each
def test_what_is_typed_is_as_lint_and_format_want_it(page: Path, copy: Path) -> None:
    new_files = [step.file for step in steps(page) if not step.place and step.file.endswith(".py")]
    follow(page, copy)
    before = {name: (copy / name).read_text(encoding="utf-8") for name in new_files}
    for words in (["ruff", "check", "--fix", "."], ["ruff", "format", "."]):
        ran = run(words, copy)
        assert ran.code == 0, ran.out
    assert {name: (copy / name).read_text(encoding="utf-8") for name in new_files} == before


@each
def test_pages_have_every_step_in_a_hundred_and_fifty_lines(page: Path) -> None:
    assert len(page.read_text(encoding="utf-8").splitlines()) <= 150
    programs = {shlex.split(line)[0] for line in shown(page)}
    assert {"ruff", "mypy", "pytest", "segdistill"} <= programs


@pytest.mark.slow
@each
def test_a_page_that_is_followed_gives_what_it_promises(
    page: Path, copy: Path, mypy_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("PYTEST_XDIST")]:
        monkeypatch.delenv(name)  # it is a test run of its own
    monkeypatch.setenv("MYPY_CACHE_DIR", str(mypy_cache))
    follow(page, copy)
    for line in shown(page):
        for command in line.split(" && "):
            ran = run(shlex.split(command), copy)
            assert ran.code == 0, f"{command}\n{ran.out}\n{ran.err}"
    for command in blocks(page, "text"):  # whose message has what the reader has to copy
        ran = run(shlex.split(command), copy)
        assert ran.code == 1, f"{command}\n{ran.out}\n{ran.err}"
        assert re.search(r"assert '([0-9a-f]{8} ){5}[0-9a-f]{8}' == None", ran.out), ran.out
    file, text = PROMISED[page.stem]
    assert text in (copy / file).read_text(encoding="utf-8")
