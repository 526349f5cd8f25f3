"""The confusion matrix against torchmetrics, its scores against values worked out by hand."""

from functools import reduce
from operator import add

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics.classification import (
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)

from segdistill.errors import DataError, ShapeError
from segdistill.evaluation.metrics import Scores, confusion_matrix, coverage, mean_iou
from segdistill.types import IGNORE

CLASSES = 5


def random_images(seed: int, images: int = 21) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    prediction = torch.randint(CLASSES, (images, 7, 9), generator=generator)
    label = torch.randint(CLASSES, (images, 7, 9), generator=generator)
    return prediction, label.masked_fill(torch.rand(label.shape, generator=generator) < 0.2, IGNORE)


@pytest.mark.promise("D7")
def test_a_toy_with_an_absent_class_scores_as_worked_out_by_hand() -> None:
    label = torch.tensor([[[0, 0, 0, 1], [1, 1, IGNORE, IGNORE]]])
    prediction = torch.tensor([[[0, 0, 1, 1], [1, 3, 0, 3]]])
    scores = Scores.of(prediction, label, num_classes=4)
    assert scores.confusion.tolist() == [[2, 1, 0, 0], [0, 2, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    # 2 of 3; 2 of 2 + 1 + 1; class 2 is nowhere; class 3 is predicted where it is not
    assert scores.iou == pytest.approx((2 / 3, 1 / 2, None, 0.0), abs=1e-12)
    assert scores.miou == pytest.approx((2 / 3 + 1 / 2 + 0) / 3, abs=1e-12)
    assert scores.pixel_accuracy == pytest.approx(4 / 6, abs=1e-12)
    assert (scores.ignored_pixels, scores.images) == (2, 1)
    # of 2 and 3 predictions; of 3 and 3 pixels; class 3 is predicted once and never right
    assert scores.precision == pytest.approx((1.0, 2 / 3, None, 0.0), abs=1e-12)
    assert scores.recall == pytest.approx((2 / 3, 2 / 3, None, None), abs=1e-12)
    assert scores.dice == pytest.approx((4 / 5, 2 / 3, None, 0.0), abs=1e-12)


@pytest.mark.promise("D7")
def test_precision_recall_and_dice_equal_torchmetrics() -> None:
    prediction, label = random_images(seed=3)
    scores = Scores.of(prediction, label, CLASSES)
    for values, oracle in (
        (scores.precision, MulticlassPrecision(CLASSES, average=None, ignore_index=IGNORE)),
        (scores.recall, MulticlassRecall(CLASSES, average=None, ignore_index=IGNORE)),
        (scores.dice, MulticlassF1Score(CLASSES, average=None, ignore_index=IGNORE)),
    ):
        assert values == pytest.approx(oracle(prediction, label).tolist(), abs=1e-6)


def test_pixels_predicted_to_be_no_class_are_missed() -> None:
    label = torch.tensor([[[0, 0, 1, IGNORE]]])
    prediction = torch.tensor([[[0, 2, 1, 2]]])  # 2 is none of the two classes
    scores = Scores.of(prediction, label, num_classes=2)
    assert (scores.recall, scores.precision, scores.dice) == ((0.5, 1.0), (1.0, 1.0), (2 / 3, 1.0))
    assert scores.predicted_none == (1, 0)
    assert Scores.empty(2).dice == (None, None)


@pytest.mark.promise("D7")
@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31))
def test_the_matrix_equals_that_of_torchmetrics(seed: int) -> None:
    prediction, label = random_images(seed, images=3)
    oracle = MulticlassConfusionMatrix(CLASSES, ignore_index=IGNORE)
    assert torch.equal(confusion_matrix(prediction, label, CLASSES), oracle(prediction, label))


@pytest.mark.promise("D7")
@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_batch_size_and_order_change_nothing(batch_size: int) -> None:
    prediction, label = random_images(seed=1)
    whole = Scores.of(prediction, label, CLASSES)
    order = torch.randperm(len(label), generator=torch.Generator().manual_seed(2))
    batches = zip(*(torch.split(x[order], batch_size) for x in (prediction, label)), strict=True)
    merged = reduce(add, (Scores.of(guess, truth, CLASSES) for guess, truth in batches), Scores.empty(CLASSES))
    assert torch.equal(merged.confusion, whole.confusion)
    assert (merged.iou, merged.miou, merged.pixel_accuracy) == (whole.iou, whole.miou, whole.pixel_accuracy)
    assert (merged.ignored_pixels, merged.images) == (int((label == IGNORE).sum()), 21)
    assert all(torch.equal(one, whole.per_image[i]) for one, i in zip(merged.per_image, order.tolist(), strict=True))


def test_per_image_counts_hold_target_and_prediction() -> None:
    label = torch.tensor([[[0, 0, 0, 1]], [[0, 1, 1, IGNORE]]])
    prediction = torch.tensor([[[0, 0, 2, 2]], [[1, 1, 1, 1]]])
    scores = Scores.of(prediction, label, 3)
    assert [counts.tolist() for counts in scores.per_image] == [
        [[2, 3, 2], [0, 1, 0], [0, 0, 2]],
        [[0, 1, 0], [2, 2, 3], [0, 0, 0]],
    ]
    assert mean_iou(torch.stack(scores.per_image)).tolist() == pytest.approx([(2 / 3 + 0 + 0) / 3, (0 + 2 / 3) / 2])
    assert mean_iou(sum(scores.per_image, torch.zeros(3, 3))) == scores.miou


def test_the_mean_is_over_the_data_set_and_not_over_images() -> None:
    label = torch.tensor([[[0, 0, 0, 1]], [[0, 1, 1, 1]]])
    prediction = torch.tensor([[[0, 0, 0, 0]], [[0, 1, 1, 1]]])
    scores = Scores.of(prediction, label, 2)
    assert scores.miou == pytest.approx((4 / 5 + 3 / 4) / 2, abs=1e-12)
    per_image = [Scores.of(prediction[i : i + 1], label[i : i + 1], 2).miou for i in range(2)]
    assert sum(per_image) / 2 == pytest.approx((3 / 8 + 1) / 2, abs=1e-12)


def test_counts_beyond_float32_stay_exact() -> None:
    many = 2**40 + 1
    counts = [torch.tensor([[many, 1, 0], [0, 1, 0], [0, 0, 0]]), torch.tensor([[1, 0, 0], [0, 0, 0], [0, 0, 0]])]
    scores = Scores(counts[0], 1) + Scores(counts[1], 1)
    assert scores.confusion[0, 0] == many + 1
    assert scores.iou == ((many + 1) / (many + 2), 1 / 2)


def test_labels_of_eight_bits_count_like_others() -> None:
    label = torch.full((1, 4, 4), 20, dtype=torch.uint8)  # 20 * 21 does not fit into eight bits
    assert confusion_matrix(label, label, 21)[20, 20] == 16


def test_nothing_but_ignored_pixels_scores_zero_without_nan() -> None:
    label = torch.full((2, 3, 3), IGNORE)
    scores = Scores.of(torch.zeros_like(label), label, 3)
    assert scores.iou == (None, None, None)
    assert (scores.miou, scores.pixel_accuracy, scores.ignored_pixels, scores.images) == (0.0, 0.0, 18, 2)


@pytest.mark.parametrize("strange", [-1, CLASSES, 77])
def test_a_label_that_names_no_class_is_an_error_in_the_data(strange: int) -> None:
    label = torch.tensor([[[0, strange, 1]]])
    with pytest.raises(DataError, match=rf"1 pixel with the ids \[{strange}\].*\nLabels are 0 to 4, or 255"):
        confusion_matrix(torch.zeros_like(label), label, CLASSES)


def test_prediction_above_the_classes_is_an_error() -> None:
    with pytest.raises(AssertionError):
        confusion_matrix(torch.tensor([[[CLASSES + 1]]]), torch.tensor([[[0]]]), CLASSES)


def test_void_prediction_is_a_miss_and_void_can_be_counted() -> None:
    label = torch.tensor([[[0, 0, 0, 1], [1, 1, IGNORE, IGNORE]]])
    prediction = torch.tensor([[[0, 0, 2, 1], [1, 0, 0, 2]]])  # 2 of two classes: none of them
    scores = Scores.of(prediction, label, num_classes=2)
    assert scores.pixels.tolist() == [[2, 0, 1], [1, 2, 0], [1, 0, 1]]
    # 2 of 3 + 1; 2 of 3
    assert scores.iou == pytest.approx((2 / 4, 2 / 3))
    assert scores.pixel_accuracy == pytest.approx(4 / 6)
    # class 0 has one pixel more: the void that was taken for it
    assert scores.miou_counting_void == pytest.approx((2 / 5 + 2 / 3) / 2)
    assert mean_iou(torch.stack(scores.per_image)).tolist() == pytest.approx([scores.miou])


def test_a_prediction_at_another_size_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"\(1, 2, 2\) and the label \(1, 4, 4\)"):
        confusion_matrix(torch.zeros(1, 2, 2).long(), torch.zeros(1, 4, 4).long(), CLASSES)


@pytest.mark.promise("D7")
def test_score_over_fewer_classes_than_declared_says_so() -> None:
    label = torch.tensor([[[0, 0, 1, IGNORE]]])
    without = Scores.of(torch.tensor([[[0, 0, 1, 2]]]), label, num_classes=3)
    assert (without.miou, without.classes_scored, without.classes_declared) == (1.0, 2, 3)
    assert without.coverage == " (over 2 of 3 classes)"
    # void taken for class 2 is a false positive where void counts: that class has an IoU, of 0
    assert without.miou_counting_void == pytest.approx(2 / 3)
    assert without.coverage_counting_void == ""
    predicted = Scores.of(torch.tensor([[[0, 2, 1, 0]]]), label, num_classes=3)
    assert (predicted.classes_scored, predicted.coverage) == (3, "")
    assert Scores.empty(3).coverage == " (over 0 of 3 classes)"
    assert coverage(None, None) == "", "results of earlier versions do not say"
