"""The gradient penalty and the critic's losses."""

import math

import pytest
import torch
from torch import Tensor

from helpers.loss_cases import gradient, maps, pixels
from segdistill import losses


@pytest.mark.parametrize("k", [0.5, 1.0, 3.0])
def test_gradient_penalty_of_a_linear_critic_matches_hand_value(k: float) -> None:
    weight = maps(1, 3, 5, 7)
    weight *= k / weight.norm()
    penalty = losses.gradient_penalty(lambda x: (x * weight).sum((1, 2, 3)), maps(2, 4, 3, 5, 7), maps(3, 4, 3, 5, 7))
    assert penalty.item() == pytest.approx((k - 1) ** 2, abs=1e-12)


def test_the_penalty_looks_between_the_two_maps_once_per_sample() -> None:
    real, fake = pixels((1.0,), (0.0,)).repeat(2, 1, 1, 1), pixels((0.0,), (2.0,)).repeat(2, 1, 1, 1)

    def critic(x: Tensor) -> Tensor:
        return x.square().sum((1, 2, 3)) / 2  # its gradient is the point itself

    # alpha 1 looks at the real map, of length 1; alpha 1/2 at (1/2, 1)
    penalty = losses.gradient_penalty(critic, real, fake, alpha=torch.tensor([1.0, 0.5]))
    assert penalty.item() == pytest.approx((0 + (math.sqrt(5 / 4) - 1) ** 2) / 2, rel=1e-12)


def test_gradient_penalty_repeats_and_draws_per_sample() -> None:
    seen: list[Tensor] = []

    def critic(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return x.sum((1, 2, 3))

    real, fake = torch.ones(3, 2, 4, 4), torch.zeros(3, 2, 4, 4)
    for _ in range(2):
        losses.gradient_penalty(critic, real, fake, torch.Generator().manual_seed(7))
    assert torch.equal(seen[0], seen[1])
    shares = seen[0].flatten(1)
    assert torch.equal(shares, shares[:, :1].expand_as(shares))  # one alpha for all of a sample
    assert len(set(shares[:, 0].tolist())) == 3
    assert ((shares >= 0) & (shares < 1)).all()


def test_the_penalty_trains_the_critic_and_neither_map() -> None:
    weight = maps(1, 2).requires_grad_()
    real, fake = maps(2, 3, 2, 4, 4).requires_grad_(), maps(3, 3, 2, 4, 4).requires_grad_()

    def penalty(w: Tensor) -> Tensor:
        return losses.gradient_penalty(
            lambda x: (w.view(1, 2, 1, 1) * x.square()).sum((1, 2, 3)), real, fake, alpha=torch.tensor([0.1, 0.5, 0.9])
        )

    assert torch.autograd.gradcheck(penalty, weight)
    of_maps = torch.autograd.grad(penalty(weight), [real, fake], allow_unused=True)
    assert all(given is None for given in of_maps)


def test_a_critic_without_slope_has_a_finite_gradient() -> None:
    weight = torch.zeros(2, requires_grad=True)
    value = losses.gradient_penalty(
        lambda x: (weight.view(1, 2, 1, 1) * x).sum((1, 2, 3)), torch.ones(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)
    )
    assert value.item() == 1
    assert gradient(value, weight).isfinite().all()


def test_the_critics_losses_compute_in_float32() -> None:
    convolution = torch.nn.Conv2d(2, 1, 3)
    real, fake = maps(1, 2, 2, 5, 5, dtype=torch.bfloat16), maps(2, 2, 2, 5, 5, dtype=torch.bfloat16)
    alpha = torch.tensor([0.3, 0.6])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        penalty = losses.gradient_penalty(convolution, real, fake, alpha=alpha)
        scores = losses.wasserstein_critic(real, fake), losses.hinge_critic(real, fake)
    assert torch.equal(penalty, losses.gradient_penalty(convolution, real.float(), fake.float(), alpha=alpha))
    assert torch.equal(scores[0], losses.wasserstein_critic(real.float(), fake.float()))
    assert torch.equal(scores[1], losses.hinge_critic(real.float(), fake.float()))
