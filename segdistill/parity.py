"""What proves an exported graph equal to its network and fast enough, and the report that says so."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from segdistill.engine import predict_labels
from segdistill.errors import CheckError, DataError, ModelError
from segdistill.export import OPSET
from segdistill.graph import OnnxModel
from segdistill.latency import Latency
from segdistill.metrics import Scores, coverage
from segdistill.store import sha256_of
from segdistill.types import Batch

MAX_DIFFERENCE, MIN_AGREEMENT, MAX_MIOU_CHANGE = 1e-4, 0.999, 1e-3
"""The difference is a fraction of the image's own largest logit. The pixels that may differ are those of each image,
rounded up. So no image, however large its logits or itself, sets the limit for the others."""
CHECKED_SHAPES = ((1, 67, 101), (3, 101, 67))
"""Batch, height and width beside those of the data: whatever the trace took for a constant shows here."""


@dataclass(frozen=True)
class Check:
    """How far an exported graph is from the network it was made from."""

    max_abs_diff: float
    """Between logits, over all images and `CHECKED_SHAPES`; not finite where a logit is not."""
    max_relative_diff: float
    """The same as a fraction of the largest logit, by magnitude, of the same image: that of the worst image."""
    label_agreement: float
    """Share of the pixels, at the labels' size, to which both give the same class."""
    min_label_agreement: float
    """The same of the worst image."""
    unlike_images: int
    """Images in which more pixels get another class than `MIN_AGREEMENT` allows."""
    miou_torch: float
    miou_onnx: float
    images: int
    classes_scored: int | None = None
    """Number of classes that both are means over, the smaller one where they differ."""
    classes_declared: int | None = None

    def failures(self) -> list[str]:
        """Say which limits it breaks; nothing to say means passed. What is not a number breaks them."""
        change = abs(self.miou_torch - self.miou_onnx)
        over = coverage(self.classes_scored, self.classes_declared)
        rules = {
            f"the logits of an image differ by {self.max_relative_diff:.3g} of its largest, "
            f"more than {MAX_DIFFERENCE:g}": self.max_relative_diff <= MAX_DIFFERENCE,
            f"only {100 * self.min_label_agreement:.3f} % of the pixels of an image get the same class, "
            f"less than {100 * MIN_AGREEMENT:g} % in {self.unlike_images} of {self.images} images": self.unlike_images
            == 0,
            f"the mIoU{over} goes from {self.miou_torch:.4f} to {self.miou_onnx:.4f}, "
            f"by more than {MAX_MIOU_CHANGE:g}": change <= MAX_MIOU_CHANGE,
        }
        if not math.isfinite(self.max_abs_diff):
            return ["some logits are not finite", *(sentence for sentence, kept in rules.items() if not kept)]
        return [sentence for sentence, kept in rules.items() if not kept]

    def to_json(self) -> dict[str, Any]:
        """Return the check in numbers; None for what is not finite."""
        values = asdict(self)
        return {name: value if value is None or math.isfinite(value) else None for name, value in values.items()}


@torch.no_grad()
def check_parity(
    predict: Callable[[Tensor], Tensor],
    exported: OnnxModel,
    batches: Iterable[Batch],
    on_batch: Callable[[int], None] | None = None,
) -> Check:
    """Compare an exported graph with its network on the images of a data set, at their size and at `CHECKED_SHAPES`.

    Args:
        predict: the network, in float32 without TF32: images (B, 3, h, w) to logits (B, C, h, w).
        exported: the graph.
        batches: what `engine.evaluate` takes.
        on_batch: called with the number of images done.

    Raises:
        DataError: if there are no images.
        CheckError: if the graph fails on images of some shape.
    """
    num_classes = len(exported.info.classes)
    scores = [Scores.empty(num_classes)] * 2
    differences: list[Tensor] = []
    relative: list[Tensor] = []
    unequal: list[Tensor] = []
    sizes: list[int] = []
    for batch in batches:
        images = [batch.image] if sizes else [batch.image, *_at_checked_shapes(batch.image)]
        pairs = [_both(predict, exported, image) for image in images]
        for ours, theirs in pairs:
            difference, share = _differences(ours, theirs)
            differences.append(difference)
            relative.append(share)
        labels = [predict_labels(lambda logits: logits, logits, batch.label.shape[-2:]) for logits in pairs[0]]
        scores = [sofar + Scores.of(own, batch.label, num_classes) for sofar, own in zip(scores, labels, strict=True)]
        unequal.append((labels[0] != labels[1]).flatten(1).sum(1))
        sizes += [labels[0][0].numel()] * len(batch.image)
        if on_batch is not None:
            on_batch(len(batch.image))
    if not sizes:
        raise DataError("There are no images to compare the exported graph on.", "Choose another split or data set.")
    wrong, pixels = torch.cat(unequal), torch.tensor(sizes)
    allowed = ((1 - MIN_AGREEMENT) * pixels).round(decimals=6).ceil()
    return Check(
        max_abs_diff=torch.cat(differences).max().item(),
        max_relative_diff=torch.cat(relative).max().item(),
        label_agreement=int((pixels - wrong).sum()) / int(pixels.sum()),
        min_label_agreement=((pixels - wrong) / pixels).min().item(),
        unlike_images=int((wrong > allowed).sum()),
        miou_torch=scores[0].miou,
        miou_onnx=scores[1].miou,
        images=scores[0].images,
        classes_scored=min(one.classes_scored for one in scores),
        classes_declared=num_classes,
    )


def _differences(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Return each image's largest difference (B,), and the same as a fraction of its own largest logit (B,).

    Where a logit is not finite, both are not a number: no difference says then that the two are equal.
    """
    difference = (ours.double() - theirs.double()).abs().flatten(1).amax(1)
    largest = ours.double().abs().flatten(1).amax(1)
    difference = torch.where((difference + largest).isfinite(), difference, torch.nan)
    # of equal images of zeros, 0 / 0 would not be a number
    return difference, torch.where(difference == 0, difference, difference / largest)


@dataclass(frozen=True)
class Gate:
    """A limit that was asked for, and whether it was kept."""

    limit: str
    passed: bool


def speed_gate(latency: Latency, *, min_fps: float | None, max_ms: float | None) -> Gate | None:
    """Hold the median against `--min-fps` or `--max-ms`; None where neither was asked for."""
    if min_fps is not None:
        return Gate(f"at least {min_fps:g} fps", latency.fps >= min_fps)
    if max_ms is not None:
        return Gate(f"at most {max_ms:g} ms", latency.p50 <= max_ms)
    return None


def export_report(
    path: Path,
    size: tuple[int, int],
    size_from: str,
    check: Check,
    latencies: dict[str, Latency],
    gate: Gate | None,
) -> dict[str, Any]:
    """Return what `export --json` prints.

    Args:
        path: the exported file, under the name it has now.
        size: (height, width) of the image in the measurement.
        size_from: where it comes from, in words.
        check: of the graph against the network.
        latencies: of "student" and "onnxruntime", and of "teacher" where there is one.
        gate: the limit that was asked for.
    """
    return {
        "file": str(path),
        "sha256": sha256_of(path),
        "opset": OPSET,
        "size": list(size),
        "size_from": size_from,
        "check": check.to_json(),
        "latency_ms": {"teacher": None} | {name: asdict(latency) for name, latency in latencies.items()},
        "fps": latencies["onnxruntime"].fps,
        "gate": asdict(gate) if gate else None,
    }


def _at_checked_shapes(image: Tensor) -> Iterator[Tensor]:
    for count, *size in CHECKED_SHAPES:
        yield F.interpolate(image[:1], size=size, mode="bilinear", align_corners=False).repeat(count, 1, 1, 1)


def _both(predict: Callable[[Tensor], Tensor], exported: OnnxModel, image: Tensor) -> tuple[Tensor, Tensor]:
    try:
        return predict(image).float().cpu(), exported(image)
    except ModelError as error:
        raise CheckError(error.what) from None
