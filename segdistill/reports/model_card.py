"""The model card, the README of a run's folder: what the model is, what was measured, how to use it."""

from collections.abc import Sequence
from typing import NamedTuple

from segdistill.checkpoints.model_file import ModelInfo
from segdistill.config.registry import BUILT_IN, data_example
from segdistill.evaluation.metrics import Scores
from segdistill.reports.markdown import verbatim
from segdistill.reports.scores import ABSENT, AGREES, OPTIMISTIC, SEES_LABELS, WEIGHTS
from segdistill.reports.terms_of_use import data_terms, weights_terms
from segdistill.wording import counted


class CardRow(NamedTuple):
    """A network in the card's table of results."""

    name: str
    """Name of the row, such as the network's role."""
    network: str
    scores: Scores | None
    """Scores on the validation split; None of a network that sees the labels."""
    parameters: int | None
    """Number of parameters; None of a graph, which has none of PyTorch's."""


class Origins(NamedTuple):
    """Weights and teacher that a model was made from, as the run's folder records them."""

    backbone: str = ""
    """Weights that backbones started from: "none", "imagenet" or a file's sha256; empty where nothing says so."""
    student: str = ""
    """Model that the student started from, likewise without "imagenet"."""
    teacher: str = ""
    """Name of the teacher's network; empty where there was no teacher."""
    teacher_sha256: str = ""
    """Digest of the teacher's weights; empty where nothing says so."""


def model_card(
    info: ModelInfo,
    rows: Sequence[CardRow],
    scores: Scores,
    *,
    warning: str | None = None,
    remarks: Sequence[str] = (),
    origins: Origins | None = None,
) -> str:
    """Return the text of a card, in Markdown with the front matter of Hugging Face's hub.

    Args:
        info: the model's header.
        rows: what was evaluated.
        scores: the model's own scores.
        warning: what a reader should know before the scores, in sentences.
        remarks: what else is to be said, in sentences: of the gain, of steps that were left out.
        origins: what the model was made from; default unknown.
    """
    origins = origins or Origins()
    paragraphs = [SEES_LABELS] if info.label_assisted else []
    if info.scored_by_teacher:
        paragraphs.append(AGREES)
    if scores.coverage and not info.label_assisted:
        paragraphs.append(ABSENT)
    if info.weights == "best":
        paragraphs.append(OPTIMISTIC)
    notes = "\n\n".join([*paragraphs, *remarks])
    first = f"**{warning}**\n\n" if warning else ""
    return f"""---
library_name: segdistill
license: unknown
pipeline_tag: image-segmentation
tags: [{", ".join(_tags(info))}]
---

# {info.network.network}, {info.role}

{first}{_origin(info)}

## Measured

{_what_was_measured(info, scores)}

| | network | parameters | {_score_names(info)} |
|---|---|---:|---:|---:|
{_result_rows(rows)}

{notes}

| class | {"agreement, IoU" if info.scored_by_teacher else "IoU"} |
|---|---:|
{_class_rows(info, scores)}

## Use

{_commands(info)}

`config.toml` repeats the run as a preset; `metrics.jsonl` and `curves.png` show how it went.

## Limits

{_limits(info)}

## License

| made from | terms |
|---|---|
{_license_rows(info, origins)}

License of these weights: not stated by the author of this run. What they were made from may bind it: check the terms
before you ship the model.
"""


def _tags(info: ModelInfo) -> list[str]:
    tags = ["semantic-segmentation"]
    if info.terms:
        tags += ["knowledge-distillation", info.preset]
    return tags


def _origin(info: ModelInfo) -> str:
    """Return how the model was made, and how images enter it."""
    training = f"Distilled ({', '.join(info.terms)})" if info.terms else "Trained without distillation"
    size = "their own size" if info.size is None else f"{info.size[0]}x{info.size[1]}"
    version = info.versions.get("segdistill", "")
    return (
        f"{training} by segdistill {version} with the preset `{info.preset}` on {verbatim(info.data)},\n"
        f"{counted(info.steps, 'step')}. Images enter as RGB in 0..255 at {size}; normalization is part of the model."
    )


def _what_was_measured(info: ModelInfo, scores: Scores) -> str:
    images = counted(scores.images, "image")
    weights = WEIGHTS[info.weights]
    if info.scored_by_teacher:
        return (
            f"Agreement with the teacher's answers in percent, on {images} that were held back: mean IoU over the "
            "classes,\nand share of the pixels, over one confusion matrix at the images' own size; pixels where the "
            f"teacher is not\nfollowed are left out, {weights}, float32."
        )
    return (
        f"mIoU and pixel accuracy in percent on the validation split ({images}), over one confusion\nmatrix at the "
        f"labels' own size, ignored pixels left out, {weights}, float32."
    )


def _score_names(info: ModelInfo) -> str:
    if info.scored_by_teacher:
        return "agreement, mIoU | agreement, pixels"
    return "mIoU | pixel accuracy"


def _limits(info: ModelInfo) -> str:
    if info.scored_by_teacher:
        return (
            "Nobody has measured by labels how good this model is: it repeats its teacher, mistakes included, on "
            "images\nlike those that it was trained on."
        )
    return "The scores hold for images like those of the validation split."


def _result_rows(rows: Sequence[CardRow]) -> str:
    lines = []
    for row in rows:
        parameters = "-" if row.parameters is None else f"{row.parameters / 1e6:.2f} M"
        lines.append(f"| {row.name} | {verbatim(row.network)} | {parameters} | {_score_cells(row.scores)} |")
    return "\n".join(lines)


def _score_cells(scores: Scores | None) -> str:
    if scores is None:
        return "- | -"
    return f"{100 * scores.miou:.2f}{scores.coverage} | {100 * scores.pixel_accuracy:.2f}"


def _class_rows(info: ModelInfo, scores: Scores) -> str:
    lines = []
    for name, iou in zip(info.classes, scores.iou, strict=True):
        cell = "-"
        if iou is not None and not info.label_assisted:
            cell = f"{100 * iou:.2f}"
        lines.append(f"| {verbatim(name)} | {cell} |")
    return "\n".join(lines)


def _license_rows(info: ModelInfo, origins: Origins) -> str:
    """Return a row for each thing that the model was made from, with the terms that are known of it."""
    lines = [f"| data {verbatim(info.data)} | {data_terms(info.data)} |"]
    network = info.network.network
    has_start = origins.student not in ("", "none")
    if has_start:
        lines.append(f"| the student's start | {weights_terms(origins.student, network)} |")
    # A network that starts from another model as a whole has no backbone that starts at random.
    if not has_start or origins.backbone != "none":
        lines.append(f"| the backbone's start | {weights_terms(origins.backbone, network)} |")
    if origins.teacher:
        weights = weights_terms(origins.teacher_sha256, origins.teacher)
        lines.append(f"| teacher {verbatim(origins.teacher)} | {weights} |")
    return "\n".join(lines)


def _commands(info: ModelInfo) -> str:
    """Return the commands that this model is good for, as an indented block of code."""
    data = "" if info.data == BUILT_IN else f" --data {data_example(info.data)}"
    if info.scored_by_teacher:
        return "\n".join(
            f"    segdistill {command}"
            for command in (
                "evaluate RUN --images DIR --teacher TEACHER",
                "export RUN --images DIR",
                "infer RUN IMAGES --out DIR",
            )
        )
    if info.label_assisted:
        # It cannot segment an image whose labels nobody knows: all it can do is teach.
        commands = [f"distill --preset {info.preset} --teacher RUN --student {info.network.network}{data}"]
    else:
        commands = [f"evaluate RUN{data}", f"export RUN{data}", "infer RUN IMAGES --out DIR"]
    return "\n".join(f"    segdistill {command}" for command in commands)
