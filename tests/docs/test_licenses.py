"""What the model card and docs/licenses.md say of terms: complete, the same, and as the packages state them."""

import re
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest
import torch
from licenses import BEGIN, END, HEADS, stated_license, wanted

from helpers.commands import NETWORK, UNTRAINED, succeeds
from helpers.documents import ROOT
from helpers.tiny import CLASSES, model_info
from segdistill.config.registry import components
from segdistill.evaluation.metrics import Scores
from segdistill.reports.model_card import CardRow, Origins, model_card
from segdistill.reports.terms_of_use import OF_DATA, UNKNOWN

PAGE = (ROOT / "docs/licenses.md").read_text(encoding="utf-8")
DIGEST = "ab" * 32


def rows(text: str) -> list[list[str]]:
    """Return the cells of the tables in a text, without their heads."""
    lines = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| ---")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def card(data: str = "camvid", network: str = NETWORK, **origins: str) -> dict[str, str]:
    """Return the terms in a model card, by what they are of."""
    info = model_info(network, CLASSES).model_copy(update={"data": data})
    scores = Scores.of(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64), len(CLASSES))
    text = model_card(info, [CardRow("distilled", network, scores, 5)], scores, origins=Origins(**origins))
    return terms_in(text)


def terms_in(text: str) -> dict[str, str]:
    """Return the table under "License" of a model card."""
    assert "\nlicense: unknown\n" in text
    assert "License of these weights: not stated by the author of this run." in text
    _, *found = rows(text.partition("## License")[2])
    return dict(found)


# The model card


def test_every_public_data_set_has_its_terms_in_the_card() -> None:
    assert OF_DATA.keys() == set(components("data.datasets"))
    for name, terms in OF_DATA.items():
        assert card(name)[f"data `{name}`"] == terms
    assert card("yard")["data `yard`"] == UNKNOWN


def test_a_card_says_which_weights_a_network_started_from() -> None:
    assert card(backbone="none")["the backbone's start"] == "random weights"
    assert card(backbone="imagenet")["the backbone's start"].startswith("ImageNet weights of torchvision;")
    timm = card(network="pspnet-timm:mobilenetv4_conv_small", backbone="imagenet")
    assert timm["the backbone's start"].startswith("ImageNet weights of timm;")
    assert card(backbone=DIGEST)["the backbone's start"] == f"weights with sha256 `{DIGEST}`; their terms are {UNKNOWN}"
    assert card()["the backbone's start"] == UNKNOWN


def test_a_card_says_which_teacher_taught_and_hides_no_start() -> None:
    started = card(backbone="none", student=DIGEST, teacher="a|b", teacher_sha256="")
    assert started == {
        "data `camvid`": OF_DATA["camvid"],
        "the student's start": f"weights with sha256 `{DIGEST}`; their terms are {UNKNOWN}",
        "teacher `a`&#124;`b`": UNKNOWN,
    }
    assert "the backbone's start" in card(backbone="imagenet", student=DIGEST)


def test_a_run_s_card_has_what_the_run_was_made_from(camvid: Path, elsewhere: None) -> None:
    data = f"--data camvid:{camvid}"
    succeeds(f"train-teacher --teacher {NETWORK} {data} {UNTRAINED.removesuffix('--accept-teacher')} --out teacher")
    taught = terms_in(Path("teacher/README.md").read_text())
    assert taught == {"data `camvid`": OF_DATA["camvid"], "the backbone's start": "random weights"}
    start = "--init-weights teacher/model.safetensors"
    succeeds(f"distill --teacher teacher --student {NETWORK} {start} {data} {UNTRAINED} --out student")
    terms = terms_in(Path("student/README.md").read_text())
    assert terms.keys() == {"data `camvid`", "the student's start", f"teacher `{NETWORK}`"}
    for what in ("the student's start", f"teacher `{NETWORK}`"):
        assert re.search(r"sha256 `[0-9a-f]{64}`", terms[what]), what


# The page


def test_the_licenses_page_has_a_row_for_each_data_set() -> None:
    named = [name for cells in rows(PAGE.partition("## Data\n")[2].partition("\n## ")[0]) for name in cells[:1]]
    assert set(re.findall(r"`([\w-]+)`", " ".join(named))) == set(components("data.datasets"))


def test_the_licenses_page_has_each_direct_dependency() -> None:
    head, *found = rows(PAGE.partition(BEGIN)[2].partition(END)[0])
    assert tuple(head) == HEADS
    assert {name.strip("`"): group for name, group, _, _ in found} == wanted()


@pytest.mark.parametrize("name", wanted())
def test_a_license_on_the_page_is_the_one_that_is_stated(name: str) -> None:
    (row,) = [cells for cells in rows(PAGE.partition(BEGIN)[2]) if cells[0] == f"`{name}`"]
    try:
        package = metadata(name)
    except PackageNotFoundError:
        pytest.skip(f"{name} is not installed")
    if package["Version"] != row[2]:
        pytest.skip(f"the page has the license of {name} {row[2]}, installed is {package['Version']}")
    assert row[3] == stated_license(package)
