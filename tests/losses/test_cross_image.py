"""Losses across images: by hand, against slow loops, and by their properties."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from helpers.cross_image import Array, cosine, maps, pixels, slow_key_similarity, slow_kl
from helpers.tiny import BF16
from segdistill import losses
from segdistill.errors import ShapeError
from segdistill.types import IGNORE

LN3 = 1 / math.log(3)
"""The temperature at which cosines of 1 and 0 have probabilities 3/4 and 1/4."""
HALF_AGAINST_THREE_QUARTERS = math.log(4 / 3) / 2


def gradient(value: Tensor, of: Tensor) -> Tensor:
    (result,) = torch.autograd.grad(value, of)
    return result


S, T = maps(1, 3, 4, 2, 3), maps(2, 3, 5, 2, 3)  # features of three images of 2 x 3 positions
PROJECTED = maps(3, 3, 5, 2, 3)
KEYS = F.normalize(maps(4, 7, 5), dim=1)
VALID = torch.tensor([[[1, 1, 0], [0, 1, 1]], [[0, 0, 0], [0, 0, 0]], [[1, 0, 0], [1, 1, 1]]]).bool()

Loss = Callable[[Tensor, Tensor], Tensor]
LOSSES: dict[str, tuple[Loss, Tensor]] = {
    "cross_image": (losses.cross_image, S),
    "cross_image, masked": (partial(losses.cross_image, temperature=0.3, valid=VALID), S),
    "key_similarity": (partial(losses.key_similarity, keys=KEYS), PROJECTED),
    "key_similarity, masked": (partial(losses.key_similarity, keys=KEYS, temperature=0.3, valid=VALID), PROJECTED),
}
each = pytest.mark.parametrize(("loss", "student"), LOSSES.values(), ids=LOSSES.keys())


def test_cross_image_within_an_image_matches_hand_value() -> None:
    # the student's similarities to the two positions are 1 and 0, the teacher's 1 and 1
    value = losses.cross_image(pixels((1, 0), (0, 2)), pixels((1, 1, 0), (3, 3, 0)), temperature=LN3)
    assert value.item() == pytest.approx(HALF_AGAINST_THREE_QUARTERS)


def test_cross_image_normalizes_each_image_separately() -> None:
    one_each = torch.cat([pixels((1, 0)), pixels((0, 1))])
    assert losses.cross_image(one_each, one_each.roll(1, 0) + 1).item() == 0
    # seen from a or b in image 0: image 0 as above, image 1 (twice a, and twice a for the teacher) is equal for both;
    # from image 1, image 0 as above for both positions, and image 1 is equal
    student = torch.cat([pixels((1, 0), (0, 1)), pixels((1, 0), (1, 0))])
    teacher = torch.cat([pixels((1, 0), (1, 0)), pixels((1, 0), (1, 0))])
    value = losses.cross_image(student, teacher, temperature=LN3)
    assert value.item() == pytest.approx(HALF_AGAINST_THREE_QUARTERS / 2)


def test_key_similarity_matches_hand_value() -> None:
    keys = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    value = losses.key_similarity(pixels((5, 0)), pixels((1, 1)), keys, temperature=LN3)
    assert value.item() == pytest.approx(HALF_AGAINST_THREE_QUARTERS)


def slow_cross_image(s: Array, t: Array, valid: NDArray[np.bool_], temperature: float) -> float:
    positions = [[(i, j) for i, j in np.ndindex(*image.shape) if image[i, j]] for image in valid]
    rows = []
    for a, anchors in enumerate(positions):
        for i, j in anchors:
            divergences = []
            for b, others in enumerate(positions):
                if others:
                    near, target = ([cosine(x[a, :, i, j], x[b, :, k, n]) for k, n in others] for x in (s, t))
                    divergences.append(slow_kl(near, target, temperature))
            rows.append(np.mean(divergences))
    return float(np.mean(rows))


@pytest.mark.parametrize("valid", [VALID, torch.ones_like(VALID)], ids=["masked", "whole"])
def test_slow_versions_in_loops_agree(valid: Tensor) -> None:
    mask = valid.numpy()
    expected = slow_cross_image(S.numpy(), T.numpy(), mask, 0.3)
    assert losses.cross_image(S, T, 0.3, valid).item() == pytest.approx(expected, rel=1e-10)
    expected = slow_key_similarity(PROJECTED.numpy(), T.numpy(), KEYS.numpy(), mask, 0.3)
    assert losses.key_similarity(PROJECTED, T, KEYS, 0.3, valid).item() == pytest.approx(expected, rel=1e-10)


@each
def test_equal_features_cost_nothing_and_move_nothing(loss: Loss, student: Tensor) -> None:
    own = T.clone().requires_grad_()
    value = loss(own, own)
    assert value.item() == 0
    assert not gradient(value, own).any()
    assert loss(student, T).item() > 1e-3


@each
def test_the_gradient_is_that_of_finite_differences(loss: Loss, student: Tensor) -> None:
    assert torch.autograd.gradcheck(lambda s: loss(s, T), student.clone().requires_grad_())


@each
def test_the_teacher_gets_no_gradient(loss: Loss, student: Tensor) -> None:
    own, teacher = student.clone().requires_grad_(), T.clone().requires_grad_()
    of_own, of_teacher = torch.autograd.grad(loss(own, teacher), [own, teacher], allow_unused=True)
    assert of_own.any()
    assert of_teacher is None


@each
def test_feature_length_does_not_change_the_loss(loss: Loss, student: Tensor) -> None:
    torch.testing.assert_close(loss(student * maps(5, 3, 1, 2, 3).exp(), 0.1 * T), loss(student, T))


@each
def test_a_teacher_of_another_size_is_resized_to_the_student(loss: Loss, student: Tensor) -> None:
    teacher = maps(6, 3, 5, 4, 4)
    resized = F.interpolate(teacher, size=(2, 3), mode="bilinear", align_corners=False)
    assert torch.equal(loss(student, teacher), loss(student, resized))


def test_cross_image_ignores_a_rotation_of_teacher_features() -> None:
    turn = torch.linalg.qr(maps(7, 5, 5)).Q
    turned = torch.einsum("dc,bchw->bdhw", turn, T)
    torch.testing.assert_close(losses.cross_image(S, turned), losses.cross_image(S, T))


def test_image_without_valid_positions_is_skipped() -> None:
    there = [0, 2]
    torch.testing.assert_close(
        losses.cross_image(S, T, 0.1, VALID), losses.cross_image(S[there], T[there], 0.1, VALID[there])
    )


@pytest.mark.parametrize("loss", [losses.cross_image, partial(losses.key_similarity, keys=KEYS)])
def test_no_valid_position_gives_zero_loss_and_gradient(loss: Callable[..., Tensor]) -> None:
    student = PROJECTED.clone().requires_grad_()
    value = loss(student, T, valid=torch.zeros_like(VALID))
    assert value.item() == 0
    assert torch.equal(gradient(value, student), torch.zeros_like(student))


@each
def test_positions_without_a_direction_give_finite_gradients(loss: Loss, student: Tensor) -> None:
    own = student.clone()
    own[:, :, 0, 0] = 0
    own.requires_grad_()
    assert gradient(loss(own, T), own).isfinite().all()


@each
def test_bfloat16_features_are_compared_in_float32(loss: Loss, student: Tensor) -> None:
    half = [x.bfloat16() for x in (student, T)]
    with BF16.autocast():
        value = loss(*half)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(*(x.float() for x in half)))


def test_the_backward_pass_under_autocast_is_that_of_float32() -> None:
    student = S.float().requires_grad_()
    with BF16.autocast():
        value = losses.cross_image(student, T.float())
    torch.testing.assert_close(gradient(value, student), gradient(losses.cross_image(student, T.float()), student))


def test_similarities_are_not_kept_for_the_backward_pass() -> None:
    student, teacher, kept = maps(1, 2, 4, 16, 16).requires_grad_(), maps(2, 2, 4, 16, 16), list[int]()

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        losses.cross_image(student, teacher)
    assert 0 < max(kept) < 256 * 256 / 8


def test_features_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeError, match="mask"):
        losses.cross_image(S, T, valid=VALID[:, :1])
    with pytest.raises(ShapeError, match="maps"):
        losses.cross_image(S[:2], T)
    with pytest.raises(ShapeError, match="maps"):
        losses.key_similarity(S, T, KEYS)
    with pytest.raises(ShapeError, match="keys"):
        losses.key_similarity(PROJECTED, T, KEYS[:, :4])


def test_labels_are_resized_without_new_values() -> None:
    label = torch.tensor([[[0, 1, 7, 200], [2, 3, 8, 9], [IGNORE, 4, 170, 5], [1, 1, 1, 1]]])
    assert losses.label_at_size(label, (2, 2)).tolist() == [[[0, 7], [IGNORE, 170]]]
