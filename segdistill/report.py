"""What is said of a model's scores: the table for programs, the model card for people."""

import re
from collections.abc import Sequence

from segdistill.checkpoint import ModelInfo
from segdistill.config import BUILT_IN, data_example
from segdistill.metrics import Scores

SEES_LABELS = "This network sees the labels beside the images: how well it reads them is no accuracy."
ABSENT = "A class marked - is neither in the ground truth nor predicted, and left out of the mean."


def skipped_steps(count: int, of: int | None = None) -> str:
    """Say how many steps of a training were left out."""
    steps = f"{count} step{'s' * (count != 1)}" if of is None else f"{count} of {of} steps"
    return f"{steps} skipped, because the gradient was not finite"


def scores_table(scores: Scores, classes: Sequence[str], *, label_assisted: bool = False) -> dict[str, object]:
    """Return scores as the JSON of `evaluate` has them; of a network that sees the labels, none counts as accuracy."""
    if label_assisted:
        own = {"miou": None, "pixel_accuracy": None, "iou": dict.fromkeys(classes), "note": SEES_LABELS}
        return {"images": scores.images, **own, "agreement_with_seen_labels": scores.pixel_accuracy}
    return {
        "images": scores.images,
        "miou": scores.miou,
        "classes_scored": scores.classes_scored,
        "classes_declared": scores.classes_declared,
        "pixel_accuracy": scores.pixel_accuracy,
        "iou": dict(zip(classes, scores.iou, strict=True)),
        "ignored_pixels": scores.ignored_pixels,
    }


def model_card(
    info: ModelInfo,
    rows: Sequence[tuple[str, str, Scores | None, int | None]],
    own: Scores,
    remarks: Sequence[str] = (),
) -> str:
    """Return the README of a run's folder: what the model is, what was measured, how to use it.

    Args:
        info: the model's header.
        rows: name, network, scores and parameters of what was evaluated; no scores where it sees the labels.
        own: the model's own scores.
        remarks: what else is to be said, in sentences: of the gain, of steps that were left out.
    """

    def score(scores: Scores | None) -> str:
        if scores is None:
            return "- | -"
        return f"{100 * scores.miou:.2f}{scores.coverage} | {100 * scores.pixel_accuracy:.2f}"

    table = "\n".join(
        f"| {name} | {_verbatim(network)} | {'-' if count is None else f'{count / 1e6:.2f} M'} | {score(scores)} |"
        for name, network, scores, count in rows
    )
    per_class = "\n".join(
        f"| {_verbatim(name)} | {'-' if value is None or info.label_assisted else f'{100 * value:.2f}'} |"
        for name, value in zip(info.classes, own.iou, strict=True)
    )
    absent = "" if info.label_assisted or not own.coverage else ABSENT
    said = "\n\n".join(text for text in (SEES_LABELS if info.label_assisted else "", absent, *remarks) if text)
    tags = ["semantic-segmentation", *(["knowledge-distillation", info.preset] if info.terms else [])]
    how = f"Distilled ({', '.join(info.terms)})" if info.terms else "Trained without distillation"
    size = "their own size" if info.size is None else f"{info.size[0]}x{info.size[1]}"
    return f"""---
library_name: segdistill
pipeline_tag: image-segmentation
tags: [{", ".join(tags)}]
---

# {info.network.network}, {info.role}

{how} by segdistill {info.versions.get("segdistill", "")} with the preset `{info.preset}` on {_verbatim(info.data)},
{info.steps} steps. Images enter as RGB in 0..255 at {size}; normalisation is part of the model.

## Measured

mIoU and pixel accuracy in percent on the validation split ({own.images} images), over one confusion matrix at the
labels' own size, ignored pixels left out, weights of the last step, float32.

| | network | parameters | mIoU | pixel accuracy |
|---|---|---:|---:|---:|
{table}

{said}

| class | IoU |
|---|---:|
{per_class}

## Use

{_use(info)}

`config.toml` repeats the run as a preset; `metrics.jsonl` and `curves.png` show how it went.

## Limits

The scores hold for images like those of the validation split. Neither the data's licence nor that of pretrained
weights is known to segdistill: check both before you ship the model.
"""


def _use(info: ModelInfo) -> str:
    """Return the commands that this model is good for."""
    data = "" if info.data == BUILT_IN else f" --data {data_example(info.data)}"
    commands = [f"evaluate RUN{data}", f"export RUN{data}", "infer RUN IMAGES --out DIR"]
    if info.label_assisted:
        commands = [f"distill --preset {info.preset} --teacher RUN --student {info.network.network}{data}"]
    return "\n".join(f"    segdistill {command}" for command in commands)


def _verbatim(text: str) -> str:
    """Return a name from the user's data or files as code, where neither Markdown nor GitHub knows any markup.

    GitHub looks for mentions, issues, emoji and formulas once entities are resolved, but not in code. A pipe ends a
    table's cell even there, so it stands between two pieces of code. What cannot be printed is shown by its escape.
    """
    line = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
    return "&#124;".join(_code(piece) for piece in line.split("|"))


def _code(text: str) -> str:
    """Return a code span, within more backticks than the text has in a row; nothing of nothing."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    apart = " " if text.strip(" ") and (text[0] in "` " or text[-1] in "` ") else ""  # one at each end is not shown
    return f"{fence}{apart}{text}{apart}{fence}" if text else ""
