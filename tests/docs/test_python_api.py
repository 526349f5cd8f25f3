"""The page on the Python API: each snippet prints what it says, and each public name is on it."""

import doctest
import re
from pathlib import Path

import pytest

import segdistill
from helpers.documents import ROOT, blocks, inline_code

PAGE = ROOT / "docs/python-api.md"


def test_every_snippet_prints_what_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SEGDISTILL_DATA", raising=False)
    # One after the other, as a reader types them.
    session = doctest.DocTestParser().get_doctest("\n".join(blocks(PAGE, "pycon")), {}, PAGE.name, str(PAGE), 0)
    told: list[str] = []
    results = doctest.DocTestRunner().run(session, out=told.append)
    assert results.failed == 0, "".join(told)
    assert results.attempted > 40


def test_no_snippet_is_left_out() -> None:
    assert blocks(PAGE, "python") == blocks(PAGE, "py") == []
    assert all(line.startswith((">>> ", "... ")) for block in blocks(PAGE, "pycon") for line in block.splitlines()[:1])


def test_the_page_names_what_is_public() -> None:
    code = [*inline_code(PAGE), *blocks(PAGE, "pycon")]
    for name in segdistill.__all__:
        spellings = (name, f"segdistill.{name}")
        assert name == "__version__" or any(
            text in spellings or re.search(rf"\bsd\.{name}\b", text) for text in code
        ), name
