"""Correlation with the teacher's probabilities: what changes nothing, and what two classes leave of it."""

import pytest
import torch
from torch import Tensor

from helpers.loss_cases import gradient, maps, pair
from segdistill import losses
from segdistill.losses.correlations import CONSTANT


def smoothed(logits: Tensor, share: float) -> Tensor:
    """Return logits of probabilities mixed with those of equal chances."""
    probabilities = logits.softmax(1)
    return (share * probabilities + (1 - share) / logits.shape[1]).log()


@pytest.mark.parametrize("share", [0.9, 0.1, 1e-3])
def test_a_teacher_mixed_with_equal_chances_teaches_the_same(share: float) -> None:
    student, teacher = pair()
    expected, value = losses.dist(student, teacher), losses.dist(student, smoothed(teacher, share))
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient(value, student), gradient(expected, student))
    assert losses.pixel_kl(student, smoothed(teacher, share)) != losses.pixel_kl(student, teacher)


def test_a_student_that_is_less_sure_has_nothing_to_learn() -> None:
    _, teacher = pair()
    student = smoothed(teacher, 0.2).requires_grad_()
    value = losses.dist(student, teacher)
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert gradient(value, student).abs().max() < 1e-9


def test_the_order_of_images_positions_and_classes_is_free() -> None:
    student, teacher = pair()
    expected = losses.dist(student, teacher)
    for reordered in (
        losses.dist(student.flip(0), teacher.flip(0)),
        losses.dist(student.roll((2, 3), (2, 3)), teacher.roll((2, 3), (2, 3))),
        losses.dist(student[:, [2, 0, 1]], teacher[:, [2, 0, 1]]),
    ):
        torch.testing.assert_close(reordered, expected)


def test_positions_of_all_images_are_correlated_together() -> None:
    student, teacher = pair()
    wide, wide_teacher = (torch.cat([x[:1], x[1:]], dim=3) for x in (student, teacher))
    torch.testing.assert_close(losses.dist(wide, wide_teacher), losses.dist(student, teacher))


def test_a_high_temperature_does_not_weaken_the_gradient() -> None:
    # Probabilities near equal chances are linear in the logits, and a correlation does not see the slope.
    student, teacher = pair()
    norms = [float(gradient(losses.dist(student, teacher, temperature=t), student).norm()) for t in (100, 10000)]
    assert norms[1] == pytest.approx(norms[0], rel=0.05)
    assert norms[0] > 0.1 * float(gradient(losses.dist(student, teacher), student).norm())


def test_two_classes_leave_the_first_part_without_gradient() -> None:
    student, teacher = maps(1, 2, 2, 5, 7).requires_grad_(), maps(2, 2, 2, 5, 7)
    over_classes = losses.dist(student, teacher, gamma=0)
    # 0 where both prefer the same class, 2 where not
    agree = (student.argmax(1) == teacher.argmax(1)).double()
    assert over_classes.item() == pytest.approx(2 * (1 - agree.mean().item()))
    assert gradient(over_classes, student).abs().max() < 1e-9
    assert gradient(losses.dist(student, teacher, beta=0), student).abs().max() > 1e-4


def test_constant_probabilities_correlate_with_nothing() -> None:
    _, teacher = pair(torch.float32)
    student = torch.zeros_like(teacher, requires_grad=True)  # equal chances everywhere, as of a classifier of zeros
    for target in (teacher, student.detach()):
        value = losses.dist(student, target)
        assert value.item() == pytest.approx(1 + 1)
        assert not gradient(value, student).any()
    barely = losses.dist(CONSTANT / 10 * teacher, teacher)
    assert barely.item() == pytest.approx(1 + 1)


def test_a_class_of_few_positions_counts_as_much_as_any_other() -> None:
    student = torch.zeros(1, 3, 1, 1000, dtype=torch.float64)
    student[:, 0, :, ::2] = student[:, 1, :, 1::2] = 9
    teacher = student.clone()
    teacher[0, :, 0, 0] = torch.tensor([0, 0, 9])  # of the third class there is one position in a thousand
    value = losses.dist(student, teacher, beta=0).item()
    assert value == pytest.approx(1 / 3, rel=0.01)
    assert losses.pixel_l2(student, teacher).item() < 1 / 3 / 100
