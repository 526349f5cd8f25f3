"""Classes that a teacher calls by each other's names, as it does where the outputs of its head are in another order."""

from collections.abc import Iterator

from torch import Tensor

from segdistill.evaluation.metrics import Scores, class_counts

MIN_IOU_RISE = 0.1
"""Rise in IoU, 0..1, of a class under another name, where all classes of a ring do better by that."""
MIN_IOU_RISE_ALONE = 0.3
"""Rise in IoU of a class that does better alone: it may just be taken for another, as cyclists are for
pedestrians."""
IOU_NOISE = 0.02
"""Share of an IoU that may be chance."""


def exchanged_classes(scores: Scores, classes: tuple[str, ...]) -> Iterator[str]:
    """Yield a sentence per ring of classes that the teacher calls by each other's names.

    The answers are assigned to the classes so that the sum of their IoUs is largest; a ring counts where one of its
    classes gains by that, more than by calling everything so, and none loses: a class that the teacher hardly finds has
    nothing to gain, and then the others must gain more.

    Args:
        scores: of the teacher on some images.
        classes: C names.
    """
    from scipy.optimize import linear_sum_assignment  # late: scipy takes a second to import

    iou, share = _iou_of_answers(scores)
    # one answer for each class: without that, an answer given everywhere would be the best for several
    _, assigned = linear_sum_assignment(iou.numpy(), maximize=True)
    answers = [int(answer) for answer in assigned]
    for ring in _rings(answers):
        if _is_exchanged(ring, answers, iou, share):
            pairs = "; ".join(
                f"{classes[index]} is answered as {classes[answers[index]]} "
                f"(IoU {100 * iou[index, answers[index]]:.0f} %, as itself {100 * iou[index, index]:.0f} %)"
                for index in ring
            )
            yield f"Classes look exchanged: {pairs}."


def _iou_of_answers(scores: Scores) -> tuple[Tensor, Tensor]:
    """Return the IoU of each class (row) with each answer (column), (C, C), and each class's share of pixels, (C,)."""
    counts = class_counts(scores.pixels).double()
    labeled, answered = counts[:, 1], counts[:, 2]
    intersection = scores.confusion.double()
    union = labeled[:, None] + answered[None, :] - intersection
    # 0 / 0 is that of a class that the sample lacks with an answer that is never given
    return (intersection / union).nan_to_num(), labeled / labeled.sum()


def _rings(answers: list[int]) -> Iterator[list[int]]:
    """Yield the cycles of a permutation: 0 -> 1 -> 0 is the ring [0, 1], and a class that keeps its name a ring of one.

    Rings of one have nothing to gain, so nothing comes of them.
    """
    seen: set[int] = set()
    for first in range(len(answers)):
        if first in seen:
            continue
        ring = [first]
        while answers[ring[-1]] != first:
            ring.append(answers[ring[-1]])
        seen.update(ring)
        yield ring


def _is_exchanged(ring: list[int], answers: list[int], iou: Tensor, share: Tensor) -> bool:
    """Whether the classes of a ring are exchanged, and not just taken for one another here and there."""
    iou_as_answered = iou[ring, [answers[index] for index in ring]]
    iou_as_itself = iou[ring, ring]
    all_rise = bool((iou_as_answered > iou_as_itself + IOU_NOISE).all())
    none_falls = bool((iou_as_answered >= iou_as_itself - IOU_NOISE).all())
    min_rise = MIN_IOU_RISE if all_rise else MIN_IOU_RISE_ALONE
    # a class's share of the pixels is its IoU with an answer that is given everywhere
    clear = (iou_as_answered > iou_as_itself + min_rise) & (iou_as_answered > share[ring] + IOU_NOISE)
    return none_falls and bool(clear.any())
