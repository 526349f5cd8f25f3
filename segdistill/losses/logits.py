"""Losses that compare the class scores of student and teacher."""

from typing import Literal

from torch import Tensor

from segdistill.losses._functional import (
    NEIGHBORS,
    _check,
    _in_full_precision,
    _kl,
    _mask_at,
    _matched,
    _mean,
    _shape,
    surrounded,
)
from segdistill.losses.relations import _contrast


@_in_full_precision
def pixel_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0, valid: Tensor | None = None) -> Tensor:
    """Mean over valid pixels of KL(teacher || student) between class distributions, times temperature squared.

    Liu et al. 2019, pixel-wise term. The paper prints KL(student || teacher) while its text calls the teacher's output
    the target; the authors' code takes the cross entropy with the teacher's probabilities (the same gradient as
    KL(teacher || student)), sums it over the images of the batch and masks nothing. We follow the code's direction and
    the paper's mean over pixels, averaged over the batch too, so that the weight depends on no size. Neither has a
    temperature; the square keeps the gradient's scale when there is one.

    Args:
        student: logits (B, C, h, w).
        teacher: logits (B, C, any size).
        temperature: divides both logits.
        valid: bool (B, h, w), or larger as the label is: the pixels that count; default all.

    Raises:
        ShapeError: if batch, classes or the mask do not agree.
    """
    teacher = _matched(teacher, student)
    return _mean(_kl(student, teacher, temperature, dim=1), valid)


@_in_full_precision
def pixel_l2(student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean over valid pixels of the squared L2 distance between class probabilities.

    Xie et al. 2018, zero-order term. There is no authors' code, and which distance the paper takes is not confirmed:
    this is our reading of it.

    Args:
        student: logits (B, C, h, w).
        teacher: logits (B, C, any size).
        valid: bool (B, h, w), or larger as the label is: the pixels that count; default all.

    Raises:
        ShapeError: if batch, classes or the mask do not agree.
    """
    teacher = _matched(teacher, student)
    return _mean((student.softmax(1) - teacher.softmax(1)).square().sum(1), valid)


@_in_full_precision
def consistency(
    student: Tensor, teacher: Tensor, neighbors: Literal["mean", "sum"] = "mean", valid: Tensor | None = None
) -> Tensor:
    """Mean squared difference of the two consistency maps: how far each position is from its eight neighbors.

    Xie et al. 2018, first-order term: C(x)_i averages ||x_i - x_j||^2 over the neighbors j of i. There is no authors'
    code; Liu et al. (`CriterionLS`) sum over the neighbors, which makes the loss 64 times larger: that is "sum".
    Positions at the border lack neighbors and are left out, as there: padding would invent edges.

    Args:
        student: maps (B, C, h, w) with h, w >= 3, compared as given: logits, probabilities or features.
        teacher: maps (B, C, any size).
        neighbors: how the eight distances are combined.
        valid: bool (B, h, w), or larger as the label is; a position counts where it and its neighbors are valid (see
            `surrounded`); default all.

    Raises:
        ShapeError: if batch, channels or the mask do not agree, or the maps have no inner position.
    """
    teacher = _matched(teacher, student)
    wanted = "h, w >= 3, which a larger data.crop gives"
    _check(min(student.shape[-2:]) > 2, f"No position of maps {_shape(student)} has eight neighbors", wanted)
    share = {"mean": 1 / len(NEIGHBORS), "sum": 1.0}[neighbors]
    squares = (share * (_contrast(student) - _contrast(teacher))).square()
    if valid is None:
        return squares.mean()
    return _mean(squares, surrounded(_mask_at(valid, student)))
