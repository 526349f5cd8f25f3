"""Losses of a critic and of what it judges."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from segdistill.losses._functional import _check, _in_full_precision, _shape, vector_norm


@_in_full_precision
def wasserstein_critic(real: Tensor, fake: Tensor) -> Tensor:
    """Loss of a Wasserstein critic: its mean score of the student's maps minus that of the teacher's.

    Liu et al. 2019, holistic term; the student minimizes -mean(fake).

    Args:
        real: scores of the teacher's maps, one or more per image.
        fake: scores of the student's maps.
    """
    return fake.mean() - real.mean()


@_in_full_precision
def hinge_critic(real: Tensor, fake: Tensor) -> Tensor:
    """Loss of a hinge critic: scores above 1 (teacher) and below -1 (student) have nothing left to gain.

    CIRKD's choice for the holistic term of Liu et al. 2019, whose own is `wasserstein_critic`.

    Args:
        real: scores of the teacher's maps, one or more per image.
        fake: scores of the student's maps.
    """
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


@_in_full_precision
def gradient_penalty(
    critic: Callable[[Tensor], Tensor],
    real: Tensor,
    fake: Tensor,
    generator: torch.Generator | None = None,
    *,
    alpha: Tensor | None = None,
) -> Tensor:
    """Mean over samples of (||gradient of the critic||_2 - 1)^2 at a point between the two maps.

    Liu et al. 2019, holistic term with gradient penalty, as in the authors' code: one alpha ~ U(0, 1) per sample, and
    the norm over all channels and positions of a sample. The gradient itself is differentiable; a critic with batch
    statistics couples the samples and has no such gradient.

    Args:
        critic: maps (B, ...) to scores.
        real: the teacher's maps (B, C, h, w); no gradient flows into either map.
        fake: the student's maps of the same shape.
        generator: draws alpha; default: PyTorch's own.
        alpha: (B,), the real map's share, where the caller draws it (from `Batch.seeds`, say).

    Raises:
        ShapeError: if the two maps differ in shape.
    """
    _check(real.shape == fake.shape, f"The critic's maps have shapes {_shape(real)} and {_shape(fake)}", "the same")
    if alpha is None:
        alpha = torch.rand(len(real), generator=generator, device=generator.device if generator else None)
    share = alpha.to(real).reshape(len(real), *[1] * (real.dim() - 1))
    point = torch.lerp(fake.detach(), real.detach(), share).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(point).sum(), point, create_graph=True)
    return (vector_norm(gradient.flatten(1), dim=1) - 1).square().mean()
