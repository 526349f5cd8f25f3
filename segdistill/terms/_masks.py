"""Which positions of a batch a term's mean is over, and how much of the step's mean that is."""

from torch import Tensor

from segdistill import losses
from segdistill.runtime.distributed import global_mean_weight
from segdistill.types import IGNORE, Batch


def valid_mask_at(batch: Batch, size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return which positions of a grid are compared, bool (B, h, w), and the weight of this batch's mean over them.

    The weight makes of the mean its share of the mean over the whole step, on all processes: the valid positions are
    not spread evenly over micro-batches.
    """
    weight = global_mean_weight(batch, lambda part: losses.resize_mask(part.valid_mask(), size).sum())
    return losses.resize_mask(batch.valid_mask(), size), weight


def labeled_mask_at(batch: Batch, size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return which positions of a grid have a label, bool (B, h, w), and the weight of this batch's mean over them."""

    def mask(part: Batch) -> Tensor:
        return losses.resize_mask(part.label != IGNORE, size)

    return mask(batch), global_mean_weight(batch, lambda part: mask(part).sum())
