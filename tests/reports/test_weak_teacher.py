"""A teacher below the networks that it was to help is the first thing that a reader is told."""

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.commands import UNTRAINED, segdistill
from segdistill.reports.weak_teacher import weak_teacher

pytestmark = pytest.mark.usefixtures("elsewhere")


def entries(**mious: float | None) -> dict[str, dict[str, Any]]:
    return {name.replace("_", ", "): {"miou": miou} for name, miou in mious.items()}


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        (entries(teacher=0.35, baseline=0.3, distilled=0.34), None),
        (entries(teacher=0.35, baseline=0.35, distilled=0.35), None),
        (
            entries(teacher=0.35, distilled=0.4),
            "The teacher (mIoU 35.00 %) scores below the distilled student (40.00 %).",
        ),
        (
            entries(teacher=0.35, baseline=0.36, distilled=0.4),
            "The teacher (mIoU 35.00 %) scores below the baseline (36.00 %) and the distilled student (40.00 %).",
        ),
        ({"teacher": {"miou": 0.35}, "distilled": {"miou": 0.3}, "distilled, seed 1": {"miou": 0.41}}, "(35.50 %)."),
        ({"teacher": {"miou": 0.35}, "distilled": {"miou": 0.3}, "distilled, seed 1": {"miou": 0.39}}, None),
        (entries(teacher=None, distilled=0.4), None),
        (entries(distilled=0.4), None),
        (entries(teacher=0.4), None),
        ({"teacher": {"miou": 0.4}, "distilled": {"miou": None, "agreement_miou": 0.9}}, None),
    ],
)
def test_teacher_below_others_is_named_with_both_scores(scores: dict[str, dict[str, Any]], said: str | None) -> None:
    found = weak_teacher(scores)
    if said is None:
        assert found is None
    else:
        assert found is not None
        assert said in found
        assert "--set teacher.steps=N" in found


def test_teacher_is_compared_over_the_classes_that_it_knows() -> None:
    iou = {"road": 0.9, "sky": 0.7, "pole": 0.0, "sign": None}
    teacher = {"miou": 1.6 / 3, "iou": iou, "missing_classes": ["pole"]}
    weaker = {"miou": 0.65, "iou": {"road": 0.8, "sky": 0.75, "pole": 0.4, "sign": None}}
    stronger = {"miou": 0.6, "iou": {"road": 0.9, "sky": 0.75, "pole": 0.15, "sign": None}}
    # of three classes the baseline has 65.00 and the teacher 53.33; of the two that it knows, 77.50 and 80.00
    assert weak_teacher({"teacher": teacher, "baseline": weaker}) is None
    said = weak_teacher({"teacher": teacher, "baseline": weaker, "distilled": stronger})
    assert said is not None
    assert said.startswith(
        "The teacher (mIoU 80.00 % over the 3 classes that it knows) scores below the distilled student (82.50 %). "
    )
    assert "teacher.steps" not in said
    assert "--set teacher.scale=1.5" in said


def test_weak_teacher_stands_under_the_table_and_atop_the_card() -> None:
    line = (
        "distill --preset canonical --teacher pspnet18 --student resnet18-half --data streets "
        f"{UNTRAINED} --set teacher.steps=1 --set teacher.lr=1e-9 --set optim.lr=0.01 --steps 12 --out run"
    )
    result = segdistill(line)
    scores = json.loads(Path("run/scores.json").read_text())
    expected = weak_teacher(scores)
    assert expected is not None, scores
    shown = " ".join(result.out.split())
    assert expected in shown
    card = Path("run/README.md").read_text()
    assert card.index(f"**{expected}**") < card.index("## Measured")
    assert json.loads(segdistill(f"{line} --resume --json").out)["weak_teacher"] == expected
