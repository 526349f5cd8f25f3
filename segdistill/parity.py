"""What proves an exported graph equal to its network and fast enough, and the report that says so."""

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
"""The difference is a fraction of the largest logit."""
CHECKED_SHAPES = ((1, 67, 101), (3, 101, 67))
"""Batch, height and width beside those of the data: whatever the trace took for a constant shows here."""


@dataclass(frozen=True)
class Check:
    """How far an exported graph is from the network it was made from."""

    max_abs_diff: float
    """Between logits, over all images and `CHECKED_SHAPES`."""
    largest_logit: float
    """By magnitude."""
    label_agreement: float
    """Share of the pixels, at the labels' size, to which both give the same class."""
    miou_torch: float
    miou_onnx: float
    images: int
    classes_scored: int | None = None
    """Number of classes that both are means over, the smaller one where they differ."""
    classes_declared: int | None = None

    def failures(self) -> list[str]:
        """Say which limits it breaks; nothing to say means passed. What is not a number breaks them."""
        limit, change = MAX_DIFFERENCE * self.largest_logit, abs(self.miou_torch - self.miou_onnx)
        over = coverage(self.classes_scored, self.classes_declared)
        rules = {
            f"the logits differ by up to {self.max_abs_diff:.3g}, which is more than {limit:.3g}, "
            f"{MAX_DIFFERENCE:g} of the largest": self.max_abs_diff <= limit,
            f"only {100 * self.label_agreement:.3f} % of the pixels get the same class, "
            f"less than {100 * MIN_AGREEMENT:g} %": self.label_agreement >= MIN_AGREEMENT,
            f"the mIoU{over} goes from {self.miou_torch:.4f} to {self.miou_onnx:.4f}, "
            f"by more than {MAX_MIOU_CHANGE:g}": change <= MAX_MIOU_CHANGE,
        }
        return [sentence for sentence, kept in rules.items() if not kept]


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
    largest: list[Tensor] = []
    differences: list[Tensor] = []
    equal = pixels = 0
    for batch in batches:
        images = [batch.image] if pixels else [batch.image, *_at_checked_shapes(batch.image)]
        pairs = [_both(predict, exported, image) for image in images]
        largest += [ours.abs().max() for ours, _ in pairs]
        differences += [(ours - theirs).abs().max() for ours, theirs in pairs]
        labels = [predict_labels(lambda logits: logits, logits, batch.label.shape[-2:]) for logits in pairs[0]]
        scores = [sofar + Scores.of(own, batch.label, num_classes) for sofar, own in zip(scores, labels, strict=True)]
        equal += int((labels[0] == labels[1]).sum())
        pixels += labels[0].numel()
        if on_batch is not None:
            on_batch(len(batch.image))
    if not pixels:
        raise DataError("There are no images to compare the exported graph on.", "Choose another split or data set.")
    return Check(
        max_abs_diff=float(torch.stack(differences).max()),
        largest_logit=float(torch.stack(largest).max()),
        label_agreement=equal / pixels,
        miou_torch=scores[0].miou,
        miou_onnx=scores[1].miou,
        images=scores[0].images,
        classes_scored=min(one.classes_scored for one in scores),
        classes_declared=num_classes,
    )


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
    path: Path, size: tuple[int, int], check: Check, latencies: dict[str, Latency], gate: Gate | None
) -> dict[str, Any]:
    """Return what `export --json` prints.

    Args:
        path: the exported file, under the name it has now.
        size: (height, width) of the image in the measurement.
        check: of the graph against the network.
        latencies: of "student" and "onnxruntime", and of "teacher" where there is one.
        gate: the limit that was asked for.
    """
    comparison = asdict(check)
    del comparison["largest_logit"]
    return {
        "file": str(path),
        "sha256": sha256_of(path),
        "opset": OPSET,
        "size": list(size),
        "check": comparison,
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
