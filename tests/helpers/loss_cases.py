"""Every loss under its name, with inputs, masks and labels for it."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from segdistill import losses
from segdistill.types import IGNORE

Loss = Callable[[Tensor, Tensor], Tensor]

LABEL = (torch.arange(2 * 10 * 14) * 5 % 23 % 4).reshape(2, 10, 14)
LABEL[LABEL == 3] = IGNORE
STRIPES = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2]).expand(2, 10, 14)
"""A label with more inside its classes than on their edges."""


def residual(student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
    """Compare how the attention of all channels differs from that of the first alone."""
    return losses.residual_attention(student, student[:, :1], teacher, teacher[:, :1], valid)


MASKABLE: dict[str, Callable[..., Tensor]] = {
    "pixel_kl": losses.pixel_kl,
    "pixel_l2": losses.pixel_l2,
    "consistency": losses.consistency,
    "channel_kl": losses.channel_kl,
    "feature_l2": losses.feature_l2,
    "adaptation": losses.adaptation,
    "attention_transfer": losses.attention_transfer,
    "residual_attention": residual,
    "dist": losses.dist,
    "normalized_feature": losses.normalized_feature,
}


def masked(valid: Tensor) -> dict[str, Loss]:
    return {f"{name}, masked": partial(loss, valid=valid) for name, loss in MASKABLE.items()}


def labeled(label: Tensor) -> dict[str, Loss]:
    """Return the losses that compare maps of 5 x 7 where this label counts."""
    valid = losses.resize_mask(label != IGNORE, (5, 7))
    return masked(valid) | {
        "intra_class_variation": partial(losses.intra_class_variation, label=label, num_classes=3),
        "boundary": partial(losses.boundary, label=STRIPES.where(label != IGNORE, IGNORE), width=3),
    }


SAME_CHANNELS: dict[str, Loss] = {
    "pixel_kl": losses.pixel_kl,
    "pixel_kl at T = 4": partial(losses.pixel_kl, temperature=4.0),
    "pixel_l2": losses.pixel_l2,
    "consistency": losses.consistency,
    "consistency, summed": partial(losses.consistency, neighbors="sum"),
    "adaptation": losses.adaptation,
    "adaptation, p = 1, per element": partial(losses.adaptation, p=1, per_element=True),
    "adaptation, q = 1": partial(losses.adaptation, q=1),
    "channel_kl": losses.channel_kl,
    "channel_correlation": losses.channel_correlation,
    "feature_l2": losses.feature_l2,
    "normalized_feature": losses.normalized_feature,
}
OVER_THE_BATCH: dict[str, Loss] = {
    "dist": losses.dist,
    "dist at T = 3": partial(losses.dist, temperature=3.0, beta=0.5, gamma=2.0),
}
"""Losses of equal channels that compare the positions of all images with one another."""
SAME_CHANNELS |= OVER_THE_BATCH
RELATIONS: dict[str, Loss] = {
    "pairwise": losses.pairwise,
    "pairwise of maxima": partial(losses.pairwise, pool=2),
    "pairwise of averages": partial(losses.pairwise, pool=(2, 3), kind="avg"),
    "affinity": losses.affinity,
    "attention_transfer": losses.attention_transfer,
    "residual_attention": residual,
}
UNLABELED = SAME_CHANNELS | RELATIONS
ALL = UNLABELED | labeled(LABEL)


def det(shape: tuple[int, ...], a: int, b: int, m: int) -> Tensor:
    """Return the deterministic tensor behind the values that were computed with published code."""
    n = torch.arange(math.prod(shape), dtype=torch.float64)
    return ((n * a + b) % m / m * 4 - 2).reshape(shape)


FS, FT = det((2, 4, 4, 4), 7, 3, 11), det((2, 6, 4, 4), 5, 1, 13)  # features


def maps(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def pair(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Return maps of odd size: a student that wants a gradient, and a teacher."""
    return maps(1, 2, 3, 5, 7, dtype=dtype).requires_grad_(), maps(2, 2, 3, 5, 7, dtype=dtype)


def gradient(value: Tensor, of: Tensor) -> Tensor:
    (result,) = torch.autograd.grad(value, of)
    return result


def pixels(*vectors: tuple[float, ...]) -> Tensor:
    """Return one image, one row high, whose pixels are these vectors: (1, D, 1, N)."""
    return torch.tensor(vectors, dtype=torch.float64).T[None, :, None]
