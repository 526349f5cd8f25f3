"""Losses with the label: cross entropy, that of hard pixels alone, and the overlap of regions."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from segdistill.losses._functional import _check, _check_label, _in_full_precision, _mean, _resized, _shape
from segdistill.types import IGNORE


@_in_full_precision
def cross_entropy(
    logits: Tensor,
    label: Tensor,
    *,
    align_corners: bool = False,
    class_weights: Tensor | None = None,
    ignore_index: int = IGNORE,
) -> Tensor:
    """Mean over valid pixels of the cross entropy with the label; 0 where no pixel is valid.

    The mean is the sum over max(valid, 1): PyTorch's own is NaN for a crop of nothing but ignored pixels. With weights
    it is the weighted mean, as PyTorch's: the sum of weight * value over the sum of the weights.

    Args:
        logits: (B, C, h, w), resized to the label: bilinear.
        label: (B, H, W) int64 in [0, C) or `ignore_index`.
        align_corners: of that resizing, as the network is going to be used (True in the code of Liu et al. 2019).
        class_weights: (C,) float, weight of a pixel by its class; default all alike.
        ignore_index: label of pixels that do not count.

    Raises:
        ShapeError: if logits and label are not of the same images, or the weights not of the classes.
    """
    loss, valid = _pixel_losses(logits, label, align_corners=align_corners, ignore_index=ignore_index)
    if class_weights is None:
        return _mean(loss, valid)
    return _weighted_mean(loss, _pixel_weights(label, valid, class_weights, logits.shape[1]))


@_in_full_precision
def hard_cross_entropy(
    logits: Tensor,
    label: Tensor,
    *,
    threshold: float = 0.7,
    kept: float = 1 / 16,
    align_corners: bool = False,
    class_weights: Tensor | None = None,
    ignore_index: int = IGNORE,
) -> Tensor:
    """Mean cross entropy over the hard pixels of a batch (online hard example mining); 0 where no pixel is valid.

    A valid pixel is hard where the probability of its class is below the threshold, and the hardest ones are in any
    case. Shrivastava et al. 2016 select regions of a detector; for pixels we follow the code of HRNet and PIDNet
    (`OhemCrossEntropy`), where the threshold is a probability and the least number of pixels is fixed. That number is a
    share of the valid pixels here, so that it holds for any crop (STDC's code takes a sixteenth of all pixels). Their
    mean is over nothing, and not a number, where all pixels are known for sure; ours keeps the hardest then.

    Args:
        logits: (B, C, h, w), resized to the label: bilinear.
        label: (B, H, W) int64 in [0, C) or `ignore_index`.
        threshold: probability, 0..1, below which a pixel is hard.
        kept: share of the valid pixels, 0..1, that are kept at least, rounded up.
        align_corners: of that resizing.
        class_weights: (C,) float, weight of a kept pixel by its class; what is hard does not depend on it.
        ignore_index: label of pixels that do not count.

    Raises:
        ShapeError: as `cross_entropy`.
    """
    loss, valid = _pixel_losses(logits, label, align_corners=align_corners, ignore_index=ignore_index)
    hardness = loss.detach()
    limit = torch.full((), -math.log(max(threshold, 1e-30)), device=loss.device, dtype=loss.dtype)
    count = math.ceil(kept * int(valid.sum()))
    if count > 0:
        # the easiest of the hardest: pixels as hard as that one are kept with it
        limit = torch.minimum(limit, hardness[valid].topk(count).values[-1])
    # what is not a number is below no limit: left out, it would hide behind a finite loss
    is_hard = valid & ~(hardness < limit)
    if class_weights is None:
        return _mean(loss, is_hard)
    return _weighted_mean(loss, _pixel_weights(label, is_hard, class_weights, logits.shape[1]))


@_in_full_precision
def soft_dice(logits: Tensor, label: Tensor, *, align_corners: bool = False, ignore_index: int = IGNORE) -> Tensor:
    """1 - mean over the classes in the labels of 2 sum(p g) / (sum(p^2) + sum(g^2)); 0 where no pixel is valid.

    p is a class's probability at a pixel and g is 1 where that is its label; sums go over the valid pixels of the whole
    batch. Milletari et al. 2016 (V-Net) have two classes and one volume; a class that no label of the batch has is left
    out here, as its overlap is 0 whatever the network says.

    Args:
        logits: (B, C, h, w), resized to the label: bilinear.
        label: (B, H, W) int64 in [0, C) or `ignore_index`.
        align_corners: of that resizing.
        ignore_index: label of pixels that do not count.

    Raises:
        ShapeError: if logits and label are not of the same images.
    """
    _check_label(logits, label)
    is_void = (label == ignore_index).unsqueeze(1)
    full = _resized(logits, label.shape[-2:], align_corners=align_corners)
    probability = full.softmax(1).masked_fill(is_void, 0)
    id_or_zero = label.masked_fill(is_void.squeeze(1), 0)
    truth = F.one_hot(id_or_zero, logits.shape[1]).movedim(-1, 1).to(full.dtype).masked_fill(is_void, 0)
    over_pixels = (0, 2, 3)
    overlap = (probability * truth).sum(over_pixels)
    size = truth.sum(over_pixels)  # of ones and zeros the squares are the same
    is_there = size > 0
    dice = 2 * overlap / (probability.square().sum(over_pixels) + size).clamp(min=1)
    # the mean over the classes that are there; 0, with gradient 0, where there is none
    return (1 - dice).masked_fill(~is_there, 0).sum() / is_there.sum().clamp(min=1)


def _pixel_losses(logits: Tensor, label: Tensor, *, align_corners: bool, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Return the cross entropy of each pixel, (B, H, W) and 0 where it is not valid, and which pixels are."""
    _check_label(logits, label)
    full = _resized(logits, label.shape[-2:], align_corners=align_corners)
    loss = F.cross_entropy(full, label, ignore_index=ignore_index, reduction="none")
    return loss, label != ignore_index


def _pixel_weights(label: Tensor, counted: Tensor, class_weights: Tensor, classes: int) -> Tensor:
    """Return the weight of each pixel, (B, H, W), and 0 where it does not count."""
    _check(
        class_weights.shape == (classes,),
        f"The class weights have shape {_shape(class_weights)}",
        f"({classes},), one for each class",
    )
    weights = class_weights[label.masked_fill(~counted, 0)]
    return weights.masked_fill(~counted, 0)


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean; 0, with gradient 0, where all weights are 0."""
    total = weights.sum()
    return (values * weights).sum() / total.masked_fill(total == 0, 1)
