"""Is the teacher worth following? What a few validation images say, before days are spent.

A teacher whose classes are exchanged, or that sees its images otherwise than in its own training, still gives a loss
that falls.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from scipy.optimize import linear_sum_assignment

from segdistill.checkpoint import ModelInfo
from segdistill.class_map import Mapped
from segdistill.comparison import compare
from segdistill.config import DataConfig, InputConfig
from segdistill.data import DataSource, Part, evaluation_batches
from segdistill.engine import Precision, evaluate
from segdistill.label_codes import with_labels
from segdistill.metrics import Scores, class_counts, class_iou, coverage
from segdistill.networks import SegNetwork
from segdistill.prediction import predictor
from segdistill.talk import Rows

SECONDS = 30.0
"""After which nothing more is tried; half of it is for the teacher as it is."""
FEW, MOST = 4, 32
"""Validation images of a pass: to choose among other ways to prepare them, and at the most."""
FLOOR = 0.2
"""mIoU of a teacher that comes from elsewhere: below, following it has never been seen to help."""
TRAINED = 0.1
"""mIoU from which a teacher knows enough for its mistakes to be told from chance; below, neither its classes nor its
images' preparation are doubted."""
GAIN = 0.02
"""How much better a teacher must do on images that are prepared otherwise: more than chance."""
EXCHANGED, ALONE = 0.1, 0.3
"""How much the IoU of a class must rise under another name: of several that all do better, and of one alone, which may
just be taken for another, as cyclists are for pedestrians."""
CHANCE = 0.02
"""How much of an IoU may be chance."""


@dataclass(frozen=True)
class TeacherCheck:
    """What was found."""

    scores: Scores
    recorded: float | None
    """What the teacher's file names for this data: mIoU, or agreement where it sees the labels."""
    problems: tuple[str, ...]
    """Why it should not be followed, in sentences."""
    untried: tuple[str, ...]
    """Other ways to prepare images for which there was no time."""
    tensors: int
    """All of its file's, each loaded."""
    label_assisted: bool

    @property
    def value(self) -> float:
        """What was measured of that: a mean over the classes that the sample has.

        Whole validation sets have all classes; with a few images, each class that they lack and that is answered
        somewhere would add a 0.
        """
        if self.label_assisted:
            return self.scores.pixel_accuracy
        counts = class_counts(self.scores.pixels)
        return class_iou(counts)[counts[:, 1] > 0].mean().nan_to_num().item()

    @property
    def coverage(self) -> str:
        """Words to print after `value`: over how many classes it is a mean."""
        there = class_counts(self.scores.pixels)[:, 1] > 0
        return "" if self.label_assisted else coverage(int(there.sum()), len(there))

    @property
    def what(self) -> str:
        """How that is called."""
        return "agreement with the labels it sees" if self.label_assisted else "mIoU"

    def below(self) -> Iterator[str]:
        """Yield a sentence where the teacher is far from what it should be."""
        own = f"Its {self.what} is {100 * self.value:.2f} %{self.coverage} on {self.scores.images} validation images"
        if self.recorded is None and self.value < FLOOR:
            yield f"{own}, below {100 * FLOOR:.0f} %."
        if self.recorded is not None and self.recorded >= TRAINED and self.value < self.recorded / 2:
            yield f"{own}, less than half of the {100 * self.recorded:.2f} % that its file names for this data."

    def rows(self) -> Rows:
        """Return what to show, names and values."""
        said = "" if self.recorded is None else f"; its file says {100 * self.recorded:.2f} % of all"
        sane = "nothing found" if not self.problems else f"{len(self.problems)} problem(s)"
        if self.untried:
            sane += "; no time was left for images " + "; ".join(self.untried)
        return [
            ("weights", f"{self.tensors} tensors, all loaded" if self.tensors else "in its graph"),
            (self.what, f"{100 * self.value:.2f} %{self.coverage} on {self.scores.images} validation images{said}"),
            ("classes, inputs", sane),
        ]


def other_sizes(network: SegNetwork, info: ModelInfo, data: DataConfig) -> Iterator[str]:
    """Yield a sentence for each way in which a teacher sees its images larger or smaller while it teaches.

    Args:
        network: the teacher.
        info: the header of its file: it is scored at that size.
        data: what training makes of images.
    """
    inner = network.network if isinstance(network, Mapped) else network
    if inner.only_size not in (None, data.crop):
        yield f"It takes images of {_size(inner.only_size)} alone: crops of {_size(data.crop)} are stretched to that."
    elif info.size != data.size:
        yield f"It is scored on images at {_size(info.size)}, and teaches on crops of images at {_size(data.size)}."


def _size(size: tuple[int, int] | None) -> str:
    return "their own size" if size is None else f"{size[0]}x{size[1]}"


def check_teacher(network: SegNetwork, info: ModelInfo, data: DataSource, precision: Precision) -> TeacherCheck:
    """Score a teacher on evenly spread validation images, and look for what would make it better.

    Args:
        network: stays as it is.
        info: the header of its file.
        data: with a val split.
        precision: device and autocast type.
    """
    val, measure = data.split("val"), "agreement_with_seen_labels" if info.label_assisted else "miou"
    recorded = info.metrics.get(measure) if info.data == data.name else None

    def score(images: int) -> Scores:
        spread = torch.linspace(0, len(val.names) - 1, min(images, len(val.names))).round().int().unique().tolist()
        batches = evaluation_batches(Part(val, tuple(spread), labels=True), info.size)
        batches = with_labels(batches, info.label_codes, len(data.classes))
        if isinstance(network, Mapped):
            batches = map(network.of_known_classes, batches)
        return evaluate(predictor(network, precision), batches, len(data.classes))

    begin = time.perf_counter()
    score(1)
    if (once := time.perf_counter() - begin) < SECONDS / 10:  # part of it may be what is set up but once
        begin = time.perf_counter()
        score(1)
        once = time.perf_counter() - begin
    count = max(1, min(MOST, int(SECONDS / 2 / once)))
    own, untried = score(count), []
    trained = recorded is None or recorded >= TRAINED
    problems = [*exchanged_classes(own, data.classes)] if trained else []
    inner = network.network if isinstance(network, Mapped) else network  # what sees the images
    images, best = inner.images, None
    ways = dict(other_ways(images)) if trained else {}
    try:
        for way, other in ways.items():
            if time.perf_counter() - begin > SECONDS:
                untried.append(way)
                continue
            inner.expect(other, align_corners=inner.align_corners)
            found = score(min(count, FEW))
            if best is None or found.miou > best[1].miou:
                best = way, found
        if best is not None and best[1].images < own.images:
            inner.expect(ways[best[0]], align_corners=inner.align_corners)
            best = best[0], score(count)
    finally:
        inner.expect(images, align_corners=inner.align_corners)
    if best is not None and best[1].miou >= TRAINED and compare([own], [best[1]], "").low > GAIN:
        problems.append(
            f"It does better on images {best[0]} than on images as its file asks for them: mIoU "
            f"{100 * best[1].miou:.2f}{best[1].coverage} instead of {100 * own.miou:.2f} %{own.coverage} on "
            f"{own.images} validation images."
        )
    checked = TeacherCheck(own, recorded, (), tuple(untried), len(network.state_dict()), info.label_assisted)
    return replace(checked, problems=(*checked.below(), *problems))


def other_ways(images: InputConfig) -> Iterator[tuple[str, InputConfig]]:
    """Yield other ways to prepare the same images, in words that follow "images", which checkpoints are known for."""
    turned = "bgr" if images.order == "rgb" else "rgb"
    yield "whose red and blue are exchanged", images.model_copy(update={"order": turned})
    zero, one, half = (0.0,) * 3, (1.0,) * 3, (127.5,) * 3
    for order, exchanged in ((images.order, ""), (turned, ", red and blue exchanged")):
        ways = {
            "normalised as ImageNet's": InputConfig(order=order),
            "normalised to -1..1": InputConfig(mean=half, std=half, order=order),
            "in 0..1, not normalised": InputConfig(mean=zero, std=one, divide=255, order=order),
            "in 0..255, not normalised": InputConfig(mean=zero, std=one, order=order),
            "less ImageNet's mean": InputConfig(std=one, order=order),
        }
        own = images.model_copy(update={"order": order})
        yield from ((way + exchanged, other) for way, other in ways.items() if other != own)


def exchanged_classes(scores: Scores, classes: tuple[str, ...]) -> Iterator[str]:
    """Yield a sentence per ring of classes that the teacher calls by each other's names.

    The answers are assigned to the classes so that the sum of their IoUs is largest; a ring counts where one of its
    classes gains by that, more than by calling everything so, and none loses: a class that the teacher hardly finds has
    nothing to gain, and then the others must gain more.
    """
    counts = class_counts(scores.pixels).double()
    overlap = scores.confusion.double()
    iou = (overlap / (counts[:, 1, None] + counts[None, :, 2] - overlap)).nan_to_num()
    share = counts[:, 1] / counts[:, 1].sum()  # the IoU of a class that is the answer everywhere
    _, answer = linear_sum_assignment(iou.numpy(), maximize=True)
    seen: set[int] = set()
    for first in range(len(classes)):
        ring = [first]
        while (after := int(answer[ring[-1]])) not in ring:
            ring.append(after)
        other, own = iou[ring, answer[ring]], iou[ring, ring]
        least = EXCHANGED if (other > own + CHANCE).all() else ALONE
        clear = (other > own + least) & (other > share[ring] + CHANCE)
        if seen.isdisjoint(ring) and clear.any() and (other >= own - CHANCE).all():
            named = "; ".join(
                f"{classes[i]} is answered as {classes[answer[i]]} (IoU {100 * iou[i, answer[i]]:.0f} %, "
                f"as itself {100 * iou[i, i]:.0f} %)"
                for i in ring
            )
            yield f"Classes look exchanged: {named}."
        seen.update(ring)
