"""Losses as a library has them: masks of the label's size, labels to ignore, and a module for each function."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segdistill import losses
from segdistill.errors import ShapeError

LABEL = (torch.arange(2 * 10 * 14) * 5 % 23 % 4).reshape(2, 10, 14)
"""Of 4 classes, twice as large as the maps."""
IGNORED = 3
KEYS = nn.functional.normalize(torch.arange(12.0).reshape(4, 3).sin(), dim=1)


def maps(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape or (2, 3, 5, 7), generator=torch.Generator().manual_seed(seed))


STUDENT, TEACHER = maps(1), maps(2)
DEEPER, TEACHER_DEEPER = maps(3), maps(4)
MASKED: dict[str, tuple[nn.Module, Callable[..., Tensor], tuple[Tensor, ...]]] = {
    "pixel_kl": (losses.PixelKL(3, ignore_index=IGNORED), partial(losses.pixel_kl, temperature=3), ()),
    "pixel_l2": (losses.PixelL2(ignore_index=IGNORED), losses.pixel_l2, ()),
    "consistency": (losses.Consistency("sum", ignore_index=IGNORED), partial(losses.consistency, neighbors="sum"), ()),
    "channel_kl": (losses.ChannelKL(2, ignore_index=IGNORED), partial(losses.channel_kl, temperature=2), ()),
    "feature_l2": (losses.FeatureL2(ignore_index=IGNORED), losses.feature_l2, ()),
    "adaptation": (
        losses.Adaptation(1, 3, per_element=True, ignore_index=IGNORED),
        partial(losses.adaptation, p=1, q=3, per_element=True),
        (),
    ),
    "attention_transfer": (losses.AttentionTransfer(ignore_index=IGNORED), losses.attention_transfer, ()),
    "dist": (
        losses.Dist(2, 0.5, 3, ignore_index=IGNORED),
        partial(losses.dist, temperature=2, beta=0.5, gamma=3),
        (),
    ),
    "normalized_feature": (losses.NormalizedFeature(ignore_index=IGNORED), losses.normalized_feature, ()),
    "cross_image": (losses.CrossImage(0.2, ignore_index=IGNORED), partial(losses.cross_image, temperature=0.2), ()),
    "key_similarity": (
        losses.KeySimilarity(0.3, ignore_index=IGNORED),
        partial(losses.key_similarity, temperature=0.3),
        (KEYS,),
    ),
}
"""Module, function with the same settings, and what both take beside the maps of student and teacher."""
UNMASKED: dict[str, tuple[nn.Module, Callable[..., Tensor]]] = {
    "pairwise": (losses.Pairwise(2, "avg"), partial(losses.pairwise, pool=2, kind="avg")),
    "affinity": (losses.Affinity(), losses.affinity),
    "channel_correlation": (
        losses.ChannelCorrelation(2, 3),
        partial(losses.channel_correlation, temperature=2, pool=3),
    ),
    "wasserstein_critic": (losses.WassersteinCritic(), losses.wasserstein_critic),
    "hinge_critic": (losses.HingeCritic(), losses.hinge_critic),
}
CALLED_ALONE = {
    "boundary",
    "cross_entropy",
    "gradient_penalty",
    "hard_cross_entropy",
    "intra_class_variation",
    "residual_attention",
    "soft_dice",
}
"""Losses with a test of their own below: they take something else."""
each = pytest.mark.parametrize(("module", "function", "more"), MASKED.values(), ids=MASKED.keys())


def module_name(function: str) -> str:
    return "".join(word.capitalize() for word in function.split("_")).replace("Kl", "KL")


def test_every_loss_has_a_module() -> None:
    helpers = {"boundary_regions", "label_edges", "label_at_size", "resize_mask", "surrounded", "vector_norm"}
    functions = {name for name in losses.__all__ if name.islower()} - helpers
    assert functions == MASKED.keys() | UNMASKED.keys() | CALLED_ALONE
    modules = {name for name in losses.__all__ if not name.islower() and not name.isupper()}
    assert modules == {module_name(function) for function in functions}


@each
def test_mask_at_label_size_is_resized_as_in_training(
    module: nn.Module, function: Callable[..., Tensor], more: tuple[Tensor, ...]
) -> None:
    valid = LABEL != IGNORED
    at_size = losses.resize_mask(valid, (5, 7))
    assert 0 < at_size.sum() < at_size.numel()
    expected = function(STUDENT, TEACHER, *more, valid=at_size)
    assert torch.equal(function(STUDENT, TEACHER, *more, valid=valid), expected)
    assert not torch.equal(function(STUDENT, TEACHER, *more), expected)


@each
def test_a_module_leaves_out_what_its_label_ignores(
    module: nn.Module, function: Callable[..., Tensor], more: tuple[Tensor, ...]
) -> None:
    valid = LABEL != IGNORED
    expected = function(STUDENT, TEACHER, *more, valid=valid)
    assert torch.equal(module(STUDENT, TEACHER, *more, LABEL), expected)
    assert torch.equal(module(STUDENT, TEACHER, *more, valid=valid), expected)
    assert torch.equal(module(STUDENT, TEACHER, *more), function(STUDENT, TEACHER, *more))


@each
def test_a_label_and_a_mask_both_leave_out(
    module: nn.Module, function: Callable[..., Tensor], more: tuple[Tensor, ...]
) -> None:
    left = torch.arange(14) < 7
    both = (LABEL != IGNORED) & left
    assert torch.equal(
        module(STUDENT, TEACHER, *more, LABEL, valid=left.expand(2, 10, 14)),
        function(STUDENT, TEACHER, *more, valid=both),
    )
    with pytest.raises(ShapeError, match=r"\(2, 5, 7\) and the label \(2, 10, 14\)"):
        module(STUDENT, TEACHER, *more, LABEL, valid=torch.ones(2, 5, 7, dtype=torch.bool))


@pytest.mark.parametrize(("module", "function"), UNMASKED.values(), ids=UNMASKED.keys())
def test_a_module_without_a_mask_is_its_function(module: nn.Module, function: Callable[..., Tensor]) -> None:
    assert torch.equal(module(STUDENT, TEACHER), function(STUDENT, TEACHER))


def test_residual_attention_takes_two_layers_of_each_network() -> None:
    layers = STUDENT, DEEPER, TEACHER, TEACHER_DEEPER
    expected = losses.residual_attention(*layers, valid=losses.resize_mask(LABEL != IGNORED, (5, 7)))
    assert torch.equal(losses.residual_attention(*layers, valid=LABEL != IGNORED), expected)
    assert torch.equal(losses.ResidualAttention(ignore_index=IGNORED)(*layers, LABEL), expected)


def test_boundary_takes_the_label_that_has_the_edges() -> None:
    blocks = torch.arange(14).div(5, rounding_mode="floor").expand(2, 10, 14).where(LABEL != IGNORED, IGNORED)
    function = partial(losses.boundary, width=3, edge=2, body=5, edge_temperature=3, body_temperature=2)
    module = losses.Boundary(width=3, edge=2, body=5, edge_temperature=3, body_temperature=2, ignore_index=IGNORED)
    expected = function(STUDENT, TEACHER, blocks, ignore_index=IGNORED)
    assert torch.equal(module(STUDENT, TEACHER, blocks), expected)
    assert not torch.equal(function(STUDENT, TEACHER, blocks), expected)


def test_a_gradient_penalty_is_that_of_the_critic_it_is_given() -> None:
    alpha = torch.tensor([0.2, 0.7])
    expected = losses.gradient_penalty(torch.sin, TEACHER, STUDENT, alpha=alpha)
    assert torch.equal(losses.GradientPenalty()(torch.sin, TEACHER, STUDENT, alpha=alpha), expected)


def test_cross_entropy_ignores_the_label_it_is_told_to() -> None:
    # Probabilities 1/4, 3/4 and 1/2 of class 1; the last pixel's label is ignored.
    logits = torch.tensor([[[[0.0, 0.0, 0.0]], [[-math.log(3), math.log(3), 0.0]]]])
    label = torch.tensor([[[1, 1, -100]]])
    expected = (math.log(4) + math.log(4 / 3)) / 2
    assert losses.cross_entropy(logits, label, ignore_index=-100).item() == pytest.approx(expected)
    assert losses.CrossEntropy(ignore_index=-100)(logits, label).item() == pytest.approx(expected)


@pytest.mark.parametrize("ignored", [1, 9, -100, 255])
def test_an_ignored_label_may_be_one_of_the_classes(ignored: int) -> None:
    label = LABEL.masked_fill(LABEL == 1, ignored)
    expected = losses.intra_class_variation(STUDENT, TEACHER, LABEL.masked_fill(LABEL == 1, 255), num_classes=4)
    value = losses.intra_class_variation(STUDENT, TEACHER, label, num_classes=4, ignore_index=ignored)
    assert torch.equal(value, expected)
    assert torch.equal(losses.IntraClassVariation(4, ignore_index=ignored)(STUDENT, TEACHER, label), expected)
    assert not torch.equal(losses.intra_class_variation(STUDENT, TEACHER, LABEL, num_classes=4), expected)


def refused(function: Callable[..., Tensor], more: tuple[Tensor, ...], valid: Tensor) -> Any:
    with pytest.raises(ShapeError) as raised:
        function(STUDENT, TEACHER, *more, valid=valid)
    return str(raised.value)


@each
def test_a_mask_that_cannot_be_meant_is_refused(
    module: nn.Module, function: Callable[..., Tensor], more: tuple[Tensor, ...]
) -> None:
    assert "shape (2, 4, 7)" in refused(function, more, torch.ones(2, 4, 7, dtype=torch.bool))
    assert "shape (2, 1, 10, 14)" in refused(function, more, torch.ones(2, 1, 10, 14, dtype=torch.bool))
    assert "type torch.uint8" in refused(function, more, torch.ones(2, 5, 7, dtype=torch.uint8))


def test_a_module_says_its_settings() -> None:
    assert repr(losses.PixelKL(temperature=4, ignore_index=0)) == "PixelKL(temperature=4, ignore_index=0)"
    assert repr(losses.Affinity()) == "Affinity()"
    assert repr(losses.Pairwise(pool=2)) == "Pairwise(pool=2, kind='max')"


def test_a_module_computes_in_float32_under_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = losses.PixelKL()(STUDENT.bfloat16(), TEACHER.bfloat16())
    assert torch.equal(value, losses.pixel_kl(STUDENT.bfloat16().float(), TEACHER.bfloat16().float()))
