"""Features at norm 1: no factor, no size and no number of channels makes the loss larger."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from helpers.loss_cases import gradient, maps, pair
from segdistill import losses


@pytest.mark.parametrize("exponent", [-20, -3, 4, 20])
def test_a_factor_on_the_teacher_changes_no_bit(exponent: int) -> None:
    student, teacher = pair(torch.float32)
    expected, value = (losses.normalized_feature(student, scale * teacher) for scale in (1.0, 2.0**exponent))
    assert torch.equal(value, expected)
    assert torch.equal(gradient(value, student), gradient(expected, student))


@pytest.mark.parametrize("factor", [1e-6, 0.3, 7.0, 1e6])
def test_a_factor_on_either_network_changes_nothing(factor: float) -> None:
    student, teacher = pair()
    expected = losses.normalized_feature(student, teacher)
    torch.testing.assert_close(losses.normalized_feature(student, factor * teacher), expected)
    torch.testing.assert_close(losses.normalized_feature(factor * student, teacher), expected)
    assert losses.feature_l2(student, factor * teacher) != losses.feature_l2(student, teacher)


def test_each_image_has_a_norm_of_its_own() -> None:
    student, teacher = pair()
    factors = torch.tensor([0.1, 50.0], dtype=torch.float64).view(2, 1, 1, 1)
    expected = losses.normalized_feature(student, teacher)
    torch.testing.assert_close(losses.normalized_feature(student, factors * teacher), expected)


def test_it_is_two_minus_twice_the_cosine_of_whole_maps() -> None:
    student, teacher = pair()
    cosines = F.cosine_similarity(student.flatten(1), teacher.flatten(1))
    torch.testing.assert_close(losses.normalized_feature(student, teacher), (2 - 2 * cosines).mean())


def test_it_is_the_mean_squared_difference_at_unit_mean_square() -> None:
    student, teacher = (x / x.square().mean((1, 2, 3), keepdim=True).sqrt() for x in pair())
    torch.testing.assert_close(losses.normalized_feature(student, teacher), F.mse_loss(student, teacher))


@pytest.mark.parametrize("repeats", [(1, 3, 1, 1), (1, 1, 2, 2)], ids=["channels", "positions"])
def test_larger_maps_do_not_make_it_larger(repeats: tuple[int, ...]) -> None:
    student, teacher = pair()
    value = losses.normalized_feature(student.repeat(*repeats), teacher.repeat(*repeats))
    torch.testing.assert_close(value, losses.normalized_feature(student, teacher))


def test_its_gradient_does_not_change_the_norm_of_a_map() -> None:
    student, teacher = pair()
    along = (student * gradient(losses.normalized_feature(student, teacher), student)).flatten(1).sum(1)
    assert along.abs().max() < 1e-12


def test_opposite_maps_are_as_far_apart_as_can_be() -> None:
    student, _ = pair()
    assert losses.normalized_feature(student, -3 * student.detach()).item() == pytest.approx(4)


def test_an_image_without_valid_positions_does_not_count() -> None:
    student, teacher = pair()
    valid = torch.ones(2, 5, 7, dtype=torch.bool)
    valid[1] = False
    expected = losses.normalized_feature(student[:1], teacher[:1])
    torch.testing.assert_close(losses.normalized_feature(student, teacher, valid), expected)


def test_a_map_of_zeros_has_no_direction() -> None:
    student, _ = pair()
    dead: Tensor = torch.zeros_like(student, requires_grad=True)
    value = losses.normalized_feature(dead, maps(3, *student.shape))
    assert value.item() == pytest.approx(1)
    assert not gradient(value, dead).any()
