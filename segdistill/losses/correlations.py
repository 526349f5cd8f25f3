"""Losses that ask for correlation with the teacher, not for equal numbers."""

import math

from torch import Tensor

from segdistill.losses._functional import _in_full_precision, _mask_at, _matched, _mean, vector_norm

CONSTANT = 1e-6
"""Standard deviation below which probabilities are constant: what is left of it is rounding, which has no direction."""


@_in_full_precision
def dist(  # noqa: PLR0917  # the formula has these six
    student: Tensor,
    teacher: Tensor,
    temperature: float = 1.0,
    beta: float = 1.0,
    gamma: float = 1.0,
    valid: Tensor | None = None,
) -> Tensor:
    """Return beta (1 - correlation over the classes) + gamma (1 - correlation over the positions), 0 to 2 each.

    Huang et al. 2022 (DIST), on class probabilities. The first part is Pearson's correlation of student and teacher
    over the classes of a position, averaged over the positions; the second that over the positions for one class,
    averaged over the classes. The authors' code for segmentation (`segmentation/losses/dist_kd.py` of hunto/DIST_KD at
    commit 6d93ca0) has no temperature, takes beta = gamma = 1, correlates over all positions of the images that one
    GPU has (2 of 16), not image by image, and masks nothing. We follow it, but leave out positions that are not valid.
    For classification its authors multiply by the temperature squared. We do not: a correlation has no scale, so the
    gradient does not shrink as a temperature grows.

    A constant correlates with nothing: where probabilities of one network vary by less than `CONSTANT` it is 0, without
    gradient. Of two classes, one probability says the other, and the first part is 0 or 2 without gradient; the paper's
    appendix calls the method less effective there, as it is quoted in issue 2 of that repository.

    Args:
        student: logits (B, C, h, w).
        teacher: logits (B, C, any size).
        temperature: divides both logits.
        beta: weight of the correlation over the classes.
        gamma: weight of the correlation over the positions.
        valid: bool (B, h, w), or larger as the label is: the positions that count; default all.

    Raises:
        ShapeError: if batch, classes or the mask do not agree.
    """
    teacher = _matched(teacher, student)
    own, target = ((logits / temperature).softmax(1) for logits in (student, teacher))
    mask = None if valid is None else _mask_at(valid, student)
    over_classes = _mean(_dissimilarity(own, target, dim=1), mask)
    own, target = (x.transpose(0, 1).flatten(1) for x in (own, target))  # (C, B * h * w)
    over_positions = _dissimilarity(own, target, dim=1, valid=None if mask is None else mask.flatten()).mean()
    return beta * over_classes + gamma * over_positions


def _dissimilarity(x: Tensor, y: Tensor, dim: int, valid: Tensor | None = None) -> Tensor:
    """Return 1 - Pearson's correlation along a dimension, which is dropped; 0 where nothing is valid.

    With z the standardized values, 1 - mean(z_x z_y) is mean((z_x - z_y)^2) / 2. Of equal values that is 0 to the last
    bit, and so is its gradient.
    """
    z_x, has_x = _standardized(x, dim, valid)
    z_y, has_y = _standardized(y, dim, valid)
    difference = (z_x - z_y).square()
    count = x.shape[dim] if valid is None else valid.sum().clamp(min=1)
    # The identity needs a mean of z^2 of 1 in both. A constant's is 0: that makes up for it, so that 1 comes out.
    missing = 2 - has_x - has_y
    result = (difference.sum(dim) / count + missing) / 2
    return result if valid is None else result * valid.any()


def _standardized(x: Tensor, dim: int, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return (x - mean) / standard deviation along a dimension, and 1 where x varies along it, else 0.

    Where x is constant, or not valid, the first is 0.
    """
    count: Tensor | int
    if valid is None:
        count = x.shape[dim]
        centered = x - x.mean(dim, keepdim=True)
    else:
        count = valid.sum().clamp(min=1)
        mean = x.masked_fill(~valid, 0).sum(dim, keepdim=True) / count
        centered = (x - mean).masked_fill(~valid, 0)
    deviation = vector_norm(centered, dim=dim, keepdim=True) / count**0.5
    is_constant = deviation < CONSTANT
    has_direction = (~is_constant).squeeze(dim).to(x.dtype)
    return centered / deviation.masked_fill(is_constant, math.inf), has_direction
