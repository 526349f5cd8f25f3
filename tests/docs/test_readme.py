"""The front page: what a newcomer reads, in its order, with commands that run as they stand there."""

import re
import shlex
from pathlib import Path

import pytest

from helpers.commands import segdistill, write_camvid, write_pairs
from helpers.documents import PAGES, README, SMALLER, shown

MOST_LINES = 200
"""Of a front page: what is longer has a page of its own."""


def test_readme_begins_with_the_command_that_runs_everything() -> None:
    assert shown(README)[0] == "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/segdistill quickstart"


def test_readme_has_the_test_command_that_ci_runs() -> None:
    (command,) = re.findall("^python3 -m venv .*pytest.*$", README.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert command == "python3 -m venv .venv && .venv/bin/pip install -e '.[dev]' && .venv/bin/pytest"


def test_readme_is_short_and_keeps_its_order() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES
    sections = ("Quick start", "Your own images", "Tour", "Presets", "What is in it", "Read on")
    parts = ["# segdistill", "![", *(f"## {section}" for section in sections)]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert (README.parent / "docs" / "quickstart.png").stat().st_size > 10_000


def test_readme_links_every_page() -> None:
    text = README.read_text(encoding="utf-8")
    pages = [str(page.relative_to(README.parent)) for page in PAGES if page.name != "index.md"]
    assert [page for page in pages if f"({page})" not in text] == []


@pytest.mark.slow
def test_readme_tour_runs_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_camvid(tmp_path / "PATH/TO/CamVid")
    tour = [shlex.split(line)[1:] for line in shown(README) if line.startswith("segdistill ")]
    write_pairs(tmp_path / "PATH/TO/photos")
    assert [words[0] for words in tour] == [
        *("data", "distill", "train-teacher", "distill", "export", "infer", "evaluate"),
    ]
    for words in tour:
        smaller = shlex.split(SMALLER) if words[0] in ("train-teacher", "distill") else []
        if "photos.toml" in words and smaller:
            smaller.append("--accept-teacher")  # of two steps, on noise
        result = segdistill("", *words, *smaller)
        assert result.code == 0, f"{words}\n{result.err}"
    assert (tmp_path / "runs/camvid-student/model.onnx").exists()
    assert sorted(path.name for path in (tmp_path / "labels").iterdir()) == [
        *("0.png", "0_overlay.png", "1.png", "1_overlay.png"),
    ]
