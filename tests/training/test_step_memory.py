"""The memory that a step takes: what is kept for the backward pass grows with the pixels, and decides on what fits."""

import pytest
import torch
from torch import nn

from helpers.tiny import CPU, optim, plain, tiny
from segdistill.training import step_memory
from segdistill.training.step_memory import fits, kept_bytes
from segdistill.types import Batch, Objective, Stage, Step


class Squares(Objective):
    """The mean of the squares of a weighted image."""

    def forward(self, model: nn.Module, batch: Batch) -> Step:
        return Step({"squares": model(batch.image).square().mean()}, None, None)


class Weighted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 1, 1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image * self.weight


def test_bytes_that_a_pass_keeps_are_counted_by_hand() -> None:
    # The product keeps the image for the weight's gradient, the square its own argument; the weight is not counted.
    images = 5 * 3 * 8 * 10 * 4
    assert kept_bytes(Stage("s", Weighted(), Squares(), optim(1)), (8, 10), 3, CPU, 5) == 2 * images


def test_bytes_that_are_kept_grow_with_the_crop() -> None:
    student = tiny(0)
    stage = Stage("student", student, plain(student), optim(1))
    small, large = (kept_bytes(stage, crop, 3, CPU, 4) for crop in ((24, 32), (48, 64)))
    assert large == pytest.approx(4 * small, rel=0.05)
    assert kept_bytes(stage, (48, 64), 3, CPU, 8) == pytest.approx(2 * large, rel=0.05)


def test_what_fits_is_decided_by_half_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage("s", Weighted(), Squares(), optim(1))
    per_image, weights = 2 * 3 * 8 * 10 * 4, 4 * 3 * 4  # weights, gradients, two averages
    for images in (2, 6):
        needed = images * per_image + weights
        monkeypatch.setattr(step_memory, "usable_memory", lambda needed=needed: 2 * needed)
        assert fits(stage, (8, 10), 3, images, CPU)
        monkeypatch.setattr(step_memory, "usable_memory", lambda needed=needed: 2 * needed - 2)
        assert not fits(stage, (8, 10), 3, images, CPU)
    monkeypatch.setattr(step_memory, "usable_memory", lambda: None)
    assert fits(stage, (8, 10), 3, 10**9, CPU), "a system that does not tell stops nobody"
