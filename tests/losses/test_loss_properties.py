"""Properties of every loss: gradients, masks, precision, and shapes that are refused."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from helpers.loss_cases import (
    ALL,
    FS,
    FT,
    LABEL,
    MASKABLE,
    OVER_THE_BATCH,
    RELATIONS,
    SAME_CHANNELS,
    UNLABELED,
    Loss,
    gradient,
    labeled,
    maps,
    pair,
    residual,
)
from segdistill import losses
from segdistill.errors import ShapeError
from segdistill.types import IGNORE

NOTHING = torch.full_like(LABEL, IGNORE)


def over(named: dict[str, Loss]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("loss", named.values(), ids=named.keys())


each = over(ALL)


# ---- properties ----------------------------------------------------------------------------------------------------


@pytest.mark.promise("T5")
@each
def test_equal_maps_give_zero_loss_and_gradient(loss: Loss) -> None:
    student, _ = pair(torch.float32)
    value = loss(student, student)  # the teacher's side is detached, even where it is the same tensor
    assert value.item() == 0
    assert not gradient(value, student).any()


@each
def test_different_maps_have_a_positive_loss(loss: Loss) -> None:
    assert loss(*pair()).item() > 1e-7


@each
def test_gradient_matches_finite_differences(loss: Loss) -> None:
    student, teacher = pair()
    scale = loss(
        student, teacher
    ).detach()  # gradcheck takes differences below 1e-5 for none, and some losses are small
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher) / scale, student)


def test_cross_entropy_gradient_matches_finite_differences() -> None:
    assert torch.autograd.gradcheck(lambda s: losses.cross_entropy(s, LABEL), pair()[0])


@each
def test_the_teacher_gets_no_gradient(loss: Loss) -> None:
    student, teacher = pair()
    value = loss(student, teacher.requires_grad_())
    of_student, of_teacher = torch.autograd.grad(value, [student, teacher], allow_unused=True)
    assert of_student.any()
    assert of_teacher is None


@pytest.mark.promise("T5")
@each
@pytest.mark.parametrize("size", [(3, 4), (10, 13)])
def test_a_teacher_of_another_size_is_resized_to_the_student(loss: Loss, size: tuple[int, int]) -> None:
    student, teacher = maps(1, 2, 3, 5, 7), maps(2, 2, 3, *size)
    resized = F.interpolate(teacher, size=(5, 7), mode="bilinear", align_corners=False)
    assert torch.equal(loss(student, teacher), loss(student, resized))


@over({name: loss for name, loss in UNLABELED.items() if name not in OVER_THE_BATCH})
def test_batch_loss_is_the_mean_of_its_images(loss: Loss) -> None:
    student, teacher = pair()
    first, second = (loss(student[i : i + 1], teacher[i : i + 1]) for i in range(2))
    torch.testing.assert_close(loss(student, teacher), (first + second) / 2)


@over(RELATIONS | {"intra_class_variation": ALL["intra_class_variation"]})
@pytest.mark.parametrize(("own", "other"), [(10, 0.1), (1e-5, 1e-6)])
def test_relations_ignore_scale_and_channel_count_of_the_teacher(loss: Loss, own: float, other: float) -> None:
    student, teacher = pair()
    torch.testing.assert_close(loss(own * student, other * torch.cat([teacher, teacher], 1)), loss(student, teacher))


@pytest.mark.parametrize("loss", [losses.pairwise, losses.affinity], ids=["pairwise", "affinity"])
def test_cosines_have_no_gradient_along_the_feature(loss: Loss) -> None:
    student = FS.clone().requires_grad_()
    radial = (student * gradient(loss(student, FT), student)).sum(1)
    assert radial.abs().max() < 1e-12


@pytest.mark.parametrize(
    "loss",
    [losses.pixel_kl, losses.pixel_l2, losses.consistency, losses.channel_kl, losses.channel_correlation],
    ids=["pixel_kl", "pixel_l2", "consistency", "channel_kl", "channel_correlation"],
)
def test_a_constant_added_to_all_logits_changes_nothing(loss: Loss) -> None:
    student, teacher = pair()
    torch.testing.assert_close(loss(student + 3, teacher - 2), loss(student, teacher))


@pytest.mark.promise("T5")
@pytest.mark.parametrize("loss", MASKABLE.values(), ids=MASKABLE.keys())
def test_ignored_pixels_change_neither_value_nor_gradient(loss: Callable[..., Tensor]) -> None:
    student, teacher = pair()
    valid = losses.resize_mask(LABEL != IGNORE, (5, 7))
    disturbed = (teacher + 5 * maps(4, *teacher.shape)).where(~valid[:, None], teacher)
    value = loss(student, teacher, valid=valid)
    assert torch.equal(loss(student, disturbed, valid=valid), value)
    assert not gradient(value, student).masked_select(~valid[:, None]).any()


def test_ignored_pixels_are_no_part_of_a_class() -> None:
    student, teacher = pair()
    ignored = ~losses.resize_mask(LABEL != IGNORE, (5, 7))[:, None]
    disturbed = student.where(~ignored, 100 * maps(4, *student.shape))
    value = losses.intra_class_variation(student, teacher, LABEL, 3)
    assert torch.equal(losses.intra_class_variation(disturbed, teacher, LABEL, 3), value)


# ---- where nothing counts ------------------------------------------------------------------------------------------


@pytest.mark.promise("R6")
@over(labeled(NOTHING) | {"cross_entropy": lambda student, _: losses.cross_entropy(student, NOTHING)})
def test_only_ignored_pixels_give_zero_loss_and_gradient(loss: Loss) -> None:
    student, teacher = pair()
    value = loss(student, teacher)
    assert value.item() == 0
    assert torch.equal(gradient(value, student), torch.zeros_like(student))


def test_unlabeled_images_add_nothing_to_cross_entropy() -> None:
    logits, label = maps(1, 2, 3, 5, 7), LABEL.clone()
    label[1] = IGNORE
    torch.testing.assert_close(losses.cross_entropy(logits, label), losses.cross_entropy(logits[:1], label[:1]))


@each
def test_zero_vectors_have_a_finite_loss_and_bounded_gradient(loss: Loss) -> None:
    student, teacher = pair(torch.float32)
    zeros = torch.arange(7) < 4
    dead = student.detach().masked_fill(zeros, 0).requires_grad_()
    for target in (teacher, teacher.masked_fill(zeros, 0), torch.zeros_like(teacher)):
        value = loss(dead, target)
        assert value.isfinite()
        assert gradient(value, dead).abs().max() < 1000  # a clamped norm gives 1e8 where a position is zero


def test_valid_positions_are_those_of_the_nearest_label() -> None:
    label = torch.tensor([[[0, IGNORE, 1, 1], [2, 2, 2, 2], [IGNORE, 0, 0, IGNORE], [1, 1, 1, 1]]])
    assert losses.resize_mask(label != IGNORE, (2, 2)).tolist() == [[[True, True], [False, True]]]
    assert torch.equal(losses.resize_mask(label != IGNORE, (4, 4)), label != IGNORE)


# ---- precision -----------------------------------------------------------------------------------------------------


@each
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_autocast_compute_in_float32(loss: Loss, dtype: torch.dtype) -> None:
    student, teacher = (x.to(dtype) for x in pair())
    expected = loss(student.float(), teacher.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for value in (loss(student, teacher), loss(student.float(), teacher.float())):
            assert value.dtype == torch.float32
            assert torch.equal(value, expected)
    assert gradient(expected, student).isfinite().all()


@each
def test_double_precision_stays_double(loss: Loss) -> None:
    student, teacher = pair()
    assert loss(student, teacher.float()).dtype == torch.float64


def test_cross_entropy_computes_in_float32() -> None:
    logits = maps(1, 2, 3, 5, 7, dtype=torch.bfloat16).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = losses.cross_entropy(logits, LABEL)
    assert torch.equal(value, losses.cross_entropy(logits.float(), LABEL))
    assert gradient(value, logits).isfinite().all()


@pytest.mark.parametrize("loss", [losses.pixel_kl, losses.channel_kl], ids=["pixel_kl", "channel_kl"])
def test_distant_logits_have_a_finite_divergence(loss: Loss) -> None:
    student = 300 * torch.eye(3).reshape(1, 3, 3, 1)
    assert loss(student, -student).isfinite()
    assert loss(student, -student).item() > 100


# ---- what does not fit ---------------------------------------------------------------------------------------------


@pytest.mark.promise("T1")
@over(SAME_CHANNELS)
def test_teacher_of_one_class_is_refused_not_broadcast(loss: Loss) -> None:
    student, teacher = pair()
    with pytest.raises(ShapeError, match=r"\(2, 3, 5, 7\) and the teacher's \(2, 1, 5, 7\)"):
        loss(student, teacher[:, :1])


@each
def test_a_teacher_of_another_batch_is_refused(loss: Loss) -> None:
    student, teacher = pair()
    with pytest.raises(ShapeError, match="same B"):
        loss(student, teacher[:1])


@pytest.mark.parametrize("loss", MASKABLE.values(), ids=MASKABLE.keys())
def test_a_mask_where_all_is_valid_changes_nothing(loss: Callable[..., Tensor]) -> None:
    student, teacher = pair()
    torch.testing.assert_close(
        loss(student, teacher, valid=torch.ones(2, 5, 7, dtype=torch.bool)), loss(student, teacher)
    )


@pytest.mark.parametrize("loss", MASKABLE.values(), ids=MASKABLE.keys())
def test_a_mask_of_another_size_is_refused(loss: Callable[..., Tensor]) -> None:
    with pytest.raises(ShapeError, match=r"mask of valid pixels has shape \(1, 5, 7\)"):
        loss(*pair(), valid=torch.ones(1, 5, 7, dtype=torch.bool))


def test_labels_of_other_images_are_refused() -> None:
    student, teacher = pair()
    with pytest.raises(ShapeError, match=r"the label \(1, 10, 14\)"):
        losses.cross_entropy(student, LABEL[:1])
    with pytest.raises(ShapeError, match=r"the label \(1, 10, 14\)"):
        losses.intra_class_variation(student, teacher, LABEL[:1], 3)


def test_channel_correlation_ignores_class_order_and_position() -> None:
    student, teacher = (maps(seed, 1, 3, 6, 8) for seed in (1, 2))
    value = losses.channel_correlation(student, teacher)
    torch.testing.assert_close(losses.channel_correlation(student[:, [2, 0, 1]], teacher[:, [2, 0, 1]]), value)
    torch.testing.assert_close(losses.channel_correlation(student.roll((2, 4), (2, 3)), teacher.flip(3)), value)


def test_residual_attention_is_symmetric_in_its_layers() -> None:
    student, teacher = pair()
    back = losses.residual_attention(student[:, :1], student, teacher[:, :1], teacher)
    torch.testing.assert_close(residual(student, teacher), back)


def test_residual_attention_uses_the_grid_of_the_deeper_layer() -> None:
    shallow, deep = maps(1, 2, 3, 10, 14), maps(2, 2, 4, 5, 7)
    energy = shallow.square().mean(1, keepdim=True)
    small = F.interpolate(energy, size=(5, 7), mode="bilinear", align_corners=False).sqrt()
    target = maps(3, 2, 3, 5, 7), maps(4, 2, 4, 5, 7)
    # the map whose square is the resized energy has the same attention
    value = losses.residual_attention(shallow, deep, F.interpolate(target[0], size=(10, 14)), target[1])
    teacher = F.interpolate(target[0], size=(10, 14)).square().mean(1, keepdim=True)
    teacher = F.interpolate(teacher, size=(5, 7), mode="bilinear", align_corners=False).sqrt()
    torch.testing.assert_close(losses.residual_attention(small, deep, teacher, target[1]), value)


def test_surrounded_needs_a_valid_position_and_eight_neighbors() -> None:
    valid = torch.ones(1, 4, 5, dtype=torch.bool)
    valid[0, 0, 0] = valid[0, 3, 4] = False
    assert losses.surrounded(valid).tolist() == [[[False, True, True], [True, True, False]]]


def test_maps_without_an_inner_position_have_no_consistency() -> None:
    with pytest.raises(ShapeError, match="eight neighbors"):
        losses.consistency(torch.zeros(1, 2, 2, 5), torch.zeros(1, 2, 2, 5))


def test_maps_of_two_shapes_have_nothing_between_them() -> None:
    with pytest.raises(ShapeError, match="Expected: the same"):
        losses.gradient_penalty(torch.sum, torch.zeros(2, 3, 4, 4), torch.zeros(1, 3, 4, 4))
