"""What is said of a network's scores, for programs and in the sentences that several outputs share."""

from collections.abc import Sequence

from segdistill.evaluation.metrics import Scores
from segdistill.wording import counted

SEES_LABELS = "This network sees the labels beside the images: how well it reads them is no accuracy."
AGREES = (
    "There were no labels: the scores are agreement with the teacher on images that were held back, and no accuracy."
)
ABSENT = "A class marked - is neither in the ground truth nor predicted, and left out of the mean."
WEIGHTS = {
    "last": "weights of the last step",
    "ema": "averaged weights",
    "best": "weights of the best validation",
}
"""Names of the weights that a training can ship."""
OPTIMISTIC = (
    "The best validation was chosen by the images that score it here: its score is optimistic, alike for the baseline. "
    "An unbiased one is that of images it was not chosen by, such as a test split."
)


def skipped_steps(count: int, total: int | None = None) -> str:
    """Return in words how many steps of a training were left out, of all its steps where `total` is given."""
    steps = counted(count, "step") if total is None else f"{count} of {total} steps"
    return f"{steps} skipped, because the gradient was not finite"


def scores_table(
    scores: Scores, classes: Sequence[str], *, label_assisted: bool = False, by_teacher: bool = False
) -> dict[str, object]:
    """Return scores as the JSON of `evaluate` has them.

    Args:
        scores: of all images.
        classes: names, in the order of the scores' classes.
        label_assisted: the network sees the labels, so none of its scores counts as accuracy.
        by_teacher: a teacher's answers stood for labels, likewise.
    """
    if label_assisted:
        return {
            "images": scores.images,
            "miou": None,
            "pixel_accuracy": None,
            "iou": dict.fromkeys(classes),
            "note": SEES_LABELS,
            "agreement_with_seen_labels": scores.pixel_accuracy,
        }
    if by_teacher:
        return {
            "images": scores.images,
            "miou": None,
            "pixel_accuracy": None,
            "iou": dict.fromkeys(classes),
            "note": AGREES,
            **_agreement(scores, classes),
        }
    return {
        "images": scores.images,
        "miou": scores.miou,
        "classes_scored": scores.classes_scored,
        "classes_declared": scores.classes_declared,
        "pixel_accuracy": scores.pixel_accuracy,
        "iou": dict(zip(classes, scores.iou, strict=True)),
        "class_precision": dict(zip(classes, scores.precision, strict=True)),
        "class_recall": dict(zip(classes, scores.recall, strict=True)),
        "class_dice": dict(zip(classes, scores.dice, strict=True)),
        "confusion_matrix": {
            "classes": list(classes),
            "rows": "ground truth",
            "pixels": scores.confusion.tolist(),
            "predicted_none": list(scores.predicted_none),
        },
        "ignored_pixels": scores.ignored_pixels,
    }


def _agreement(scores: Scores, classes: Sequence[str]) -> dict[str, object]:
    """Return how far two networks agree; nothing is known of it where no image was compared, as of a teacher itself."""
    if scores.images == 0:
        return {"agreement_miou": None, "agreement_pixels": None}
    return {
        "agreement_miou": scores.miou,
        "agreement_pixels": scores.pixel_accuracy,
        "agreement_iou": dict(zip(classes, scores.iou, strict=True)),
        "classes_scored": scores.classes_scored,
        "classes_declared": scores.classes_declared,
        "ignored_pixels": scores.ignored_pixels,
    }
