"""Losses on how positions, regions and images relate."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from segdistill.losses._functional import (
    MASKED_LOGIT,
    NEIGHBORS,
    POOLING,
    _check,
    _check_label,
    _cosines,
    _in_full_precision,
    _kl,
    _mask_at,
    _matched,
    _mean,
    _nearest,
    _shape,
    _unit,
    vector_norm,
)
from segdistill.types import IGNORE


@_in_full_precision
def pairwise(
    student: Tensor,
    teacher: Tensor,
    pool: int | tuple[int, int] | None = None,
    kind: Literal["max", "avg"] = "max",
) -> Tensor:
    """Mean squared difference of the cosines between all pairs of nodes, where a node is a pooled patch of features.

    Liu et al. 2019, pair-wise term. The journal version's text pools by the average, the authors' code by the maximum.
    That code adds 1e-8 to the norm and detaches it, which leaves a gradient along the feature where a cosine has none;
    we follow the paper's cosine with its full gradient. Takes memory for h * w / pool^2 nodes squared.

    Args:
        student: features (B, D, h, w).
        teacher: features (B, any channels, any size), resized before they are pooled.
        pool: kernel and stride in positions of the student; windows that reach over the border keep what is inside.
        kind: how a window is pooled.

    Raises:
        ShapeError: if the batches do not agree.
    """
    teacher = _matched(teacher, student, any_channels=True)
    if pool is not None:
        student, teacher = (POOLING[kind](x, pool, stride=pool, ceil_mode=True) for x in (student, teacher))
    return F.mse_loss(_cosines(student), _cosines(teacher))


@_in_full_precision
def affinity(student: Tensor, latent: Tensor) -> Tensor:
    """Difference of the two affinity matrices: L2 norms of its rows, summed; mean over the batch.

    He et al. 2019, affinity term: A_ij = cosine(x_i, x_j) / (h * w) over all positions i, j. The paper's notation
    leaves the norm open; we read sum_i ||row_i||_2. There is no authors' code; torchdistill normalizes each channel
    over space, which is not the paper's cosine.

    Args:
        student: adapted features (B, D, h, w).
        latent: the teacher's latent features (B, any channels, any size).

    Raises:
        ShapeError: if the batches do not agree.
    """
    latent = _matched(latent, student, any_channels=True)
    difference = _cosines(student).sub_(_cosines(latent))  # in place: (B, N, N) is large, and no gradient needs it
    return vector_norm(difference, dim=2).sum(1).mean() / difference.shape[1]


@_in_full_precision
def intra_class_variation(
    student: Tensor, teacher: Tensor, label: Tensor, num_classes: int, *, ignore_index: int = IGNORE
) -> Tensor:
    """Mean over valid pixels of the squared difference in cosine between a pixel and the mean of its class.

    Wang et al. 2020 (IFVD): the mean is over the pixels of one class in one image, and the label assigns the teacher's
    pixels too. CIRKD's code averages over ignored pixels as well; we average over valid ones.

    Args:
        student: features (B, D, h, w).
        teacher: features (B, any channels, any size).
        label: (B, H, W) int64, brought to the features' size by its nearest pixels.
        num_classes: labels outside [0, num_classes) count nowhere.
        ignore_index: label that counts nowhere either, where it is among the classes.

    Raises:
        ShapeError: if the three are not of the same images.
    """
    teacher = _matched(teacher, student, any_channels=True)
    _check_label(student, label)
    ids = _nearest(label, student.shape[-2:]).flatten(1)
    class_ids = torch.arange(num_classes, device=ids.device)
    is_member = (ids.unsqueeze(2) == class_ids) & (class_ids != ignore_index)
    member = is_member.to(student.dtype)  # (B, N, C)

    def similarity(features: Tensor) -> Tensor:
        x = features.flatten(2)
        centers = _unit(x @ member)  # (B, D, C); a sum has the direction of its mean
        return (_unit(x).mT @ centers * member).sum(2)  # (B, N); the cosine with the pixel's own class

    return (similarity(student) - similarity(teacher)).square().sum() / member.sum().clamp(min=1)


@_in_full_precision
def cross_image(student: Tensor, teacher: Tensor, temperature: float = 0.1, valid: Tensor | None = None) -> Tensor:
    """Mean over valid positions of KL(teacher || student) between their similarities to the positions of each image.

    Yang et al. 2022 (CIRKD), pixel-to-pixel term of the mini-batch: for each ordered pair of images, an image with
    itself included, the cosines of every position of one with all positions of the other, divided by the temperature,
    are the logits of a distribution; the divergence is averaged over rows, then over pairs. Nothing is multiplied by
    the temperature squared and nothing is projected, as in the authors' code (`losses/cirkd_mini_batch.py` of
    winycg/CIRKD at commit 91735ef). That code masks nothing; we leave out positions that are not valid, as rows and as
    columns.

    Args:
        student: features (B, D, h, w).
        teacher: features (B, any channels, any size).
        temperature: divides the cosines.
        valid: bool (B, h, w), or larger as the label is: the positions that count; default all.

    Raises:
        ShapeError: if batch or mask do not agree.
    """
    teacher = _matched(teacher, student, any_channels=True)
    if valid is None:
        valid = student.new_ones(student[:, 0].shape, dtype=torch.bool)
    valid = _mask_at(valid, student)
    own, target = (_unit(x).flatten(2).mT for x in (student, teacher))  # (B, N, D)
    kl = _similarity_kl(own, target, (own, target), temperature, ~valid.flatten(1))  # (B, N, B); 0 for an empty image
    images = valid.flatten(1).any(1).sum().clamp(min=1)
    return _mean(kl.sum(2).view(student[:, 0].shape) / images, valid)


@_in_full_precision
def key_similarity(
    student: Tensor, teacher: Tensor, keys: Tensor, temperature: float = 0.1, valid: Tensor | None = None
) -> Tensor:
    """Mean over valid positions of KL(teacher || student) between their similarities to the same keys.

    Yang et al. 2022 (CIRKD), pixel-to-pixel and pixel-to-region terms of the memory: the keys are embeddings that the
    teacher had for pixels or regions of earlier images, and the cosines with them, divided by the temperature, are the
    logits of a distribution. Nothing is multiplied by that temperature squared; the authors' code has a second one,
    which is 1 (`losses/cirkd_memory.py` of winycg/CIRKD at commit 91735ef).

    Args:
        student: features (B, D, h, w), projected to the teacher's channels.
        teacher: features (B, D, any size).
        keys: unit vectors (M, D).
        temperature: divides the cosines.
        valid: bool (B, h, w), or larger as the label is: the positions that count; default all.

    Raises:
        ShapeError: if batch, channels or the mask do not agree.
    """
    teacher = _matched(teacher, student)
    _check(keys.dim() == 2 and keys.shape[1] == student.shape[1], f"The keys have shape {_shape(keys)}", "(M, D)")
    own, target = (_unit(x).flatten(2).mT for x in (student, teacher))
    group = keys.detach().to(student.dtype).unsqueeze(0)
    return _mean(_similarity_kl(own, target, (group, group), temperature).view(student[:, 0].shape), valid)


def _similarity_kl(
    student: Tensor,
    teacher: Tensor,
    keys: tuple[Tensor, Tensor],
    temperature: float,
    hidden: Tensor | None = None,
) -> Tensor:
    """Return KL(teacher || student) of the softmax over the similarities to each of G groups of M keys: (B, N, G).

    One image at a time, and computed again in the backward pass: an image's N * G * M numbers are all that is held.

    Args:
        student: unit vectors (B, N, D).
        teacher: unit vectors (B, N, any channels).
        keys: what either is compared with, (G, M, D) and (G, M, the teacher's channels).
        temperature: divides the cosines.
        hidden: bool (G, M), the keys that do not count; a group without any other counts as equal.
    """

    def logits(x: Tensor, groups: Tensor) -> Tensor:
        scaled = torch.einsum("nd,gmd->ngm", x, groups) / temperature
        return scaled if hidden is None else scaled.masked_fill(hidden, MASKED_LOGIT)

    def of_image(own: Tensor, target: Tensor) -> Tensor:
        return _kl(logits(own, keys[0]), logits(target, keys[1]), temperature=1, dim=2)

    pairs = zip(student, teacher, strict=True)
    return torch.stack([checkpoint(of_image, *pair, use_reentrant=False) for pair in pairs])


def _contrast(x: Tensor) -> Tensor:
    """Return the squared distances of inner positions to their eight neighbors, summed: (B, h - 2, w - 2)."""
    h, w = x.shape[-2:]
    inner = x[..., 1:-1, 1:-1]
    shifted = (x[..., 1 + dy : h - 1 + dy, 1 + dx : w - 1 + dx] for dy, dx in NEIGHBORS)
    return torch.stack([(inner - other).square().sum(1) for other in shifted]).sum(0)
