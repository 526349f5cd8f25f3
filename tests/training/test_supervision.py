"""The loss with the labels: class weights from every source, hard pixels, overlap, and means over a whole step."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from helpers.tiny import CLASSES, StillNorm, copied, one_batch, optim, repeated, source, tiny, train
from segdistill import losses
from segdistill.config.checking import validated
from segdistill.config.schema import LossChanges, LossConfig
from segdistill.data import verify_data
from segdistill.errors import UsageError
from segdistill.runtime.reporter import NullReporter
from segdistill.training.class_weights import class_weights, inverse_log, median_frequency
from segdistill.training.objectives import Distillation
from segdistill.training.supervision import Supervision
from segdistill.types import IGNORE, SegOutput, Stage


def config(**values: Any) -> LossConfig:
    return LossConfig.model_validate(values)


# Class weights


def test_inverse_log_weights_by_hand() -> None:
    # shares 3/4, 1/4 and 0
    expected = [1 / math.log(1.02 + share) for share in (0.75, 0.25, 0)]
    assert inverse_log(np.array([6, 2, 0]), 1.02).tolist() == pytest.approx(expected)
    assert expected[2] == pytest.approx(50.5, abs=0.1)  # ENet: weights of 1 to 50


def test_median_frequency_weights_by_hand() -> None:
    # frequencies 6/10, 2/4 and 1/10, of images with 10, 4 and 10 labeled pixels; the last class has no image
    weights = median_frequency(np.array([6, 2, 1, 0]), np.array([10, 4, 10, 0]))
    assert weights.tolist() == pytest.approx([0.5 / 0.6, 1.0, 5.0, 1.0])


@pytest.mark.parametrize("kind", ["inverse-log", "median-frequency"])
def test_weights_from_the_scan_are_those_of_the_labels(kind: str) -> None:
    data = verify_data(source(6, 3), NullReporter())
    pixels, present = np.zeros(3, np.int64), np.zeros(3, np.int64)
    for index in range(6):
        label = data.split("train").read(index).label
        for class_id in range(3):
            count = int((label == class_id).sum())
            pixels[class_id] += count
            present[class_id] += int((label < 3).sum()) if count else 0
    expected = {
        "inverse-log": inverse_log(pixels, 1.1),
        "median-frequency": median_frequency(pixels, present),
    }
    found = class_weights(config(class_weights=kind, log_offset=1.1), data)
    assert found == pytest.approx(expected[kind].tolist())
    assert class_weights(config(class_weights=kind), source(6, 3)) == [1.0] * 3  # not counted yet


def test_weights_are_given_by_name_or_in_order() -> None:
    data = source(2, 2)
    assert class_weights(config(), data) is None
    assert class_weights(config(class_weights=[1, 2, 0.5]), data) == [1, 2, 0.5]
    assert class_weights(config(class_weights={CLASSES[2]: 4}), data) == [1, 1, 4]


@pytest.mark.parametrize(
    ("weights", "words"),
    [([1, 2], "2 numbers, expected one for each of 3"), ([0, 0, 0], "only zeros"), ({"no": 1}, "no class of the data")],
)
def test_weights_of_other_classes_are_refused(weights: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        class_weights(config(class_weights=weights), source(2, 2))


@pytest.mark.parametrize("table", [LossConfig, LossChanges])
@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ("rare", "a table of numbers by class"),
        (3, "a table of numbers by class"),
        ([1, -1], "at least 0"),
        ({"sky": "much"}, "at least 0"),
        ([True, 1], "at least 0"),
        ([math.nan, 1], "at least 0"),
        ({"sky": 1e300}, "number between"),
        ([10**400, 1], "whole number"),
    ],
)
def test_weights_of_no_form_are_one_mistake(table: type[LossConfig], weights: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        validated(table, {"class_weights": weights}, "test")
    assert caught.value.what.startswith("1 mistake in test:\n  class_weights: ")


# The terms


def test_each_part_of_the_loss_is_as_the_settings_say() -> None:
    student, batch = tiny(0), one_batch(2)
    settings = config(ohem_threshold=0.4, ohem_kept=0.25, dice=0.5)
    weights = torch.tensor([1.0, 4.0, 0.5])
    terms = Distillation(Supervision(0.25, settings, weights.tolist()))(student, batch).terms
    output: SegOutput = student(batch.image)
    assert output.aux is not None
    hard = losses.hard_cross_entropy(output.logits, batch.label, threshold=0.4, kept=0.25, class_weights=weights)
    expected = {
        "cross_entropy": hard,
        # of all pixels: what is hard is asked of the main output alone
        "aux": 0.25 * losses.cross_entropy(output.aux, batch.label, class_weights=weights),
        "dice": 0.5 * losses.soft_dice(output.logits, batch.label),
    }
    assert list(terms) == list(expected)
    torch.testing.assert_close(terms, expected)


def test_default_loss_is_cross_entropy_alone() -> None:
    student, batch = tiny(0), one_batch(2)
    terms = Distillation(Supervision(0.4, LossConfig()))(student, batch).terms
    output: SegOutput = student(batch.image)
    assert list(terms) == ["cross_entropy", "aux"]
    assert torch.equal(terms["cross_entropy"], losses.cross_entropy(output.logits, batch.label))


def test_class_weights_are_no_part_of_the_state() -> None:
    assert not Supervision(0.4, LossConfig(), [1.0, 2.0, 3.0]).state_dict()


def test_weighted_mean_is_over_all_micro_batches() -> None:
    # the second micro-batch has few labels, and these are of a heavy class
    batch = one_batch(4)
    label = batch.label.clone()
    label[2:] = IGNORE
    label[2:, :5] = 1
    batch = batch._replace(label=label, valid=None)
    halves = [
        batch._replace(image=batch.image[part], label=label[part], names=batch.names[part], seeds=batch.seeds[part])
        for part in (slice(0, 2), slice(2, 4))
    ]
    results = []
    for batches, accumulate in (([batch], 1), (halves, 2)):
        student = tiny(0, norm=StillNorm)
        objective = Distillation(Supervision(0.4, LossConfig(), [1.0, 20.0, 0.5]))
        reports = train(Stage("student", student, objective, optim(1, accumulate=accumulate)), iter(batches))
        results.append((reports[0].terms, copied(student)))
    torch.testing.assert_close(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-6, 1e3])
def test_class_weights_count_by_their_ratio(scale: float) -> None:
    student, batch = tiny(0), one_batch(2)
    weights = [1.0, 4.0, 0.5]
    settings = config(dice=1.0, ohem_threshold=0.7)
    scaled = Supervision(0.4, settings, [scale * weight for weight in weights])
    found = Distillation(scaled)(student, batch).terms
    torch.testing.assert_close(found, Distillation(Supervision(0.4, settings, weights))(student, batch).terms)


@pytest.mark.parametrize("settings", [config(dice=1.0), config(ohem_threshold=0.7), config(dice=2, ohem_threshold=0.2)])
def test_batch_without_labels_is_a_step_that_learns_nothing(settings: LossConfig) -> None:
    student, batch = tiny(0), one_batch(2)
    batch = replace_label(batch)
    before = copied(student)
    objective = Distillation(Supervision(0.4, settings, [1.0, 2.0, 3.0]))
    stage = Stage("student", student, objective, optim(1, weight_decay=0.0))
    assert all(value == 0 for value in train(stage, repeated(batch, 1))[0].terms.values())
    assert all(torch.equal(before[name], p) for name, p in student.named_parameters())


def replace_label(batch: Any) -> Any:
    return batch._replace(label=torch.full_like(batch.label, IGNORE), valid=None)
