"""Losses with the label: by hand, against PyTorch's or a slow version, and where nothing is labeled."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from segdistill import losses
from segdistill.errors import ShapeError
from segdistill.types import IGNORE


def case(rng: torch.Generator, void: float = 0.2) -> tuple[Tensor, Tensor]:
    """Return logits (2, 4, 5, 6) of four classes, and labels of twice that size with some void."""
    label = torch.randint(4, (2, 10, 12), generator=rng)
    is_void = torch.rand(label.shape, generator=rng) < void
    return 2 * torch.randn(2, 4, 5, 6, generator=rng), label.masked_fill(is_void, IGNORE)


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(5)


WEIGHTS = torch.tensor([0.5, 3.0, 1.0, 0.0])


# Class weights


def test_weighted_cross_entropy_by_hand() -> None:
    # probabilities of the right class 1/4, 3/4 and 1/2; weights 2, 1 and 1
    logits = torch.tensor([[[[0.0, 0.0, 0.0]], [[-math.log(3), math.log(3), 0.0]]]])
    label = torch.tensor([[[1, 1, 0]]])
    expected = (1 * math.log(4) + 1 * math.log(4 / 3) + 2 * math.log(2)) / 4
    weights = torch.tensor([2.0, 1.0])
    assert losses.cross_entropy(logits, label, class_weights=weights).item() == pytest.approx(expected)
    assert losses.CrossEntropy(class_weights=[2, 1])(logits, label).item() == pytest.approx(expected)


def test_weighted_cross_entropy_is_pytorchs(rng: torch.Generator) -> None:
    logits, label = case(rng)
    full = F.interpolate(logits, label.shape[-2:], mode="bilinear")
    expected = F.cross_entropy(full, label, WEIGHTS, ignore_index=IGNORE)
    torch.testing.assert_close(losses.cross_entropy(logits, label, class_weights=WEIGHTS), expected)


def test_weights_that_are_all_one_change_nothing(rng: torch.Generator) -> None:
    logits, label = case(rng)
    torch.testing.assert_close(
        losses.cross_entropy(logits, label, class_weights=torch.ones(4)), losses.cross_entropy(logits, label)
    )


def test_weights_of_other_classes_are_refused(rng: torch.Generator) -> None:
    logits, label = case(rng)
    with pytest.raises(ShapeError, match=r"\(3,\)"):
        losses.cross_entropy(logits, label, class_weights=torch.ones(3))


# Hard pixels


def slow_hard_mean(logits: Tensor, label: Tensor, threshold: float, kept: float) -> float:
    """Sort all valid pixels by the probability of their class, and average over the hard ones, one by one."""
    full = F.interpolate(logits, label.shape[-2:], mode="bilinear").softmax(1)
    found = []
    for image, rows in zip(full, label, strict=True):
        for y, row in enumerate(rows.tolist()):
            found += [image[value, y, x].item() for x, value in enumerate(row) if value != IGNORE]
    found.sort()
    least = math.ceil(kept * len(found))
    hard = [p for position, p in enumerate(found) if p <= threshold or position < least]
    return sum(-math.log(p) for p in hard) / len(hard)


@pytest.mark.parametrize(("threshold", "kept"), [(0.7, 1 / 16), (0.05, 0.3), (0.0, 0.1), (0.3, 0.0), (1.0, 0.0)])
def test_hard_cross_entropy_is_that_of_a_slow_loop(threshold: float, kept: float, rng: torch.Generator) -> None:
    logits, label = case(rng)
    value = losses.hard_cross_entropy(logits, label, threshold=threshold, kept=kept)
    assert value.item() == pytest.approx(slow_hard_mean(logits, label, threshold, kept), rel=1e-4)
    module = losses.HardCrossEntropy(threshold=threshold, kept=kept)
    assert torch.equal(module(logits, label), value)


def test_all_pixels_are_hard_below_a_threshold_of_one(rng: torch.Generator) -> None:
    logits, label = case(rng)
    everything = losses.hard_cross_entropy(logits, label, threshold=1.0)
    torch.testing.assert_close(everything, losses.cross_entropy(logits, label))
    weighted = losses.hard_cross_entropy(logits, label, threshold=1.0, class_weights=WEIGHTS)
    torch.testing.assert_close(weighted, losses.cross_entropy(logits, label, class_weights=WEIGHTS))


def test_hardest_pixels_are_kept_where_all_are_known() -> None:
    # two pixels of four: probabilities 0.9, 0.95, 0.99, 0.99
    logits = torch.tensor([0.9, 0.95, 0.99, 0.99]).logit().reshape(1, 1, 1, 4)
    logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
    label = torch.ones(1, 1, 4, dtype=torch.int64)
    value = losses.hard_cross_entropy(logits, label, threshold=0.5, kept=0.5)
    assert value.item() == pytest.approx((-math.log(0.9) - math.log(0.95)) / 2, rel=1e-4)


@pytest.mark.parametrize("kept", [0, 0.01, 0.5])
def test_a_pixel_that_is_no_number_is_hard(kept: float, rng: torch.Generator) -> None:
    logits, label = case(rng, void=0.0)
    logits[0, :, 0, 0] = float("nan")
    assert losses.hard_cross_entropy(logits, label, threshold=0.5, kept=kept).isnan()


def test_only_hard_pixels_have_a_gradient(rng: torch.Generator) -> None:
    logits = torch.randn(1, 4, 6, 6, generator=rng).mul(3).requires_grad_()
    label = torch.randint(4, (1, 6, 6), generator=rng)
    losses.hard_cross_entropy(logits, label, threshold=0.4, kept=0).backward()
    assert logits.grad is not None
    probability = logits.detach().softmax(1).gather(1, label[:, None]).squeeze(1)
    assert torch.equal(logits.grad.abs().sum(1) > 0, probability < 0.4)


# Overlap


def test_soft_dice_by_hand() -> None:
    # class 1: p = 3/4, 1/2, void; its label at the first pixel alone. Class 0 at the second.
    logits = torch.tensor([[[[0.0, 0.0, 5.0]], [[math.log(3), 0.0, 0.0]]]])
    label = torch.tensor([[[1, 0, IGNORE]]])
    one = 2 * 0.75 / (0.75**2 + 0.5**2 + 1)
    zero = 2 * 0.5 / (0.25**2 + 0.5**2 + 1)
    assert losses.soft_dice(logits, label).item() == pytest.approx(1 - (one + zero) / 2)
    assert losses.SoftDice()(logits, label).item() == pytest.approx(1 - (one + zero) / 2)


def slow_dice(logits: Tensor, label: Tensor) -> float:
    full = F.interpolate(logits, label.shape[-2:], mode="bilinear").softmax(1)
    values = []
    for class_id in range(logits.shape[1]):
        if not (label == class_id).any():
            continue
        overlap, squares = 0.0, 0.0
        for image, pixels in zip(full[:, class_id], label, strict=True):
            for p, value in zip(image.flatten().tolist(), pixels.flatten().tolist(), strict=True):
                if value != IGNORE:
                    overlap += p * (value == class_id)
                    squares += p**2 + (value == class_id)
        values.append(1 - 2 * overlap / squares)
    return sum(values) / len(values)


@pytest.mark.parametrize("absent", [None, 2])
def test_soft_dice_is_that_of_a_slow_loop(absent: int | None, rng: torch.Generator) -> None:
    logits, label = case(rng)
    if absent is not None:
        label = label.masked_fill(label == absent, 0)
    assert losses.soft_dice(logits, label).item() == pytest.approx(slow_dice(logits, label), rel=1e-4)


def test_soft_dice_is_zero_for_the_labels_themselves(rng: torch.Generator) -> None:
    _, label = case(rng)
    right = F.one_hot(label.masked_fill(label == IGNORE, 0), 4).movedim(-1, 1) * 200.0
    assert losses.soft_dice(right, label).item() == pytest.approx(0, abs=1e-6)
    wrong = right.roll(1, dims=1)
    assert losses.soft_dice(wrong, label).item() == pytest.approx(1, abs=1e-6)


# Nothing labeled, and half precision


@pytest.mark.parametrize("loss", [losses.hard_cross_entropy, losses.soft_dice])
def test_void_alone_is_zero_with_no_gradient(loss: object, rng: torch.Generator) -> None:
    assert callable(loss)
    logits, label = case(rng, void=1.0)
    logits.requires_grad_()
    value = loss(logits, label)
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_weighted_void_alone_is_zero_with_no_gradient(rng: torch.Generator) -> None:
    logits, label = case(rng, void=1.0)
    value = losses.cross_entropy(logits.requires_grad_(), label, class_weights=WEIGHTS)
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("loss", [losses.cross_entropy, losses.hard_cross_entropy, losses.soft_dice])
def test_half_precision_computes_in_float32(loss: object, rng: torch.Generator) -> None:
    assert callable(loss)
    logits, label = case(rng)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(logits.bfloat16(), label)
    assert value.dtype == torch.float32
    assert torch.equal(value, loss(logits.bfloat16().float(), label))
