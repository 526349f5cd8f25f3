"""The first thing to know of a run whose teacher scores below the networks that it was to help."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from segdistill.wording import counted

ADVICE = (
    "Train the teacher for longer (--set teacher.steps=N), start it from ImageNet's weights (--pretrained), or take a "
    "teacher that somebody trained."
)
ADVICE_OF_OTHER_CLASSES = (
    "It may find more in larger images (--set teacher.scale=1.5); `segdistill evaluate` scores it and others before a "
    "student is trained."
)
"""The advice on a teacher that lacks classes: it was trained on other data, and elsewhere."""


def weak_teacher(entries: Mapping[str, dict[str, Any]]) -> str | None:
    """Return a sentence on a teacher whose mIoU is below the baseline's or the student's; None where it is not.

    A teacher that lacks some of the classes is compared over those that it knows: it is not followed in the others.

    Args:
        entries: of scores.json, by name; of several seeds the mean counts.
    """
    entry = entries.get("teacher", {})
    missing = entry.get("missing_classes", [])
    teacher = _miou(entry, missing)
    # A teacher that sees the labels has none, and of students without labels there is agreement alone.
    if teacher is None:
        return None
    above = []
    for role in ("baseline", "distilled"):
        mious = [_miou(entry, missing) for name, entry in entries.items() if name.partition(",")[0] == role]
        scored = [miou for miou in mious if miou is not None]
        if scored and statistics.fmean(scored) > teacher:
            name = "distilled student" if role == "distilled" else role
            above.append(f"the {name} ({100 * statistics.fmean(scored):.2f} %)")
    if not above:
        return None
    over, advice = "", ADVICE
    if missing:
        known = counted(len(entry["iou"]) - len(missing), "class", "classes")
        over, advice = f" over the {known} that it knows", ADVICE_OF_OTHER_CLASSES
    return f"The teacher (mIoU {100 * teacher:.2f} %{over}) scores below {' and '.join(above)}. {advice}"


def _miou(entry: Mapping[str, Any], missing: Sequence[str]) -> float | None:
    """Return the mIoU of an entry over all classes but the missing ones; None where it has none."""
    miou: float | None = entry.get("miou")
    if not missing or miou is None:
        return miou
    known = [iou for name, iou in entry["iou"].items() if name not in missing and iou is not None]
    return statistics.fmean(known) if known else None
