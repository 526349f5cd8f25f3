"""A teacher of which not every answer is taken: its classes as labels, its probability, and the mean over a step."""

from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.tiny import CLASSES, one_batch, tiny
from segdistill.config.schema import TermConfig
from segdistill.networks import SegNetwork
from segdistill.teachers.class_map import ClassMapping
from segdistill.teachers.remapped import RemappedNetwork
from segdistill.teachers.selective import Following, SelectiveFrozen, confidence
from segdistill.terms import TermContext, build_terms
from segdistill.training.objectives import Distillation
from segdistill.types import IGNORE, Batch, SegOutput


class Given(SegNetwork):
    """Answers with the same logits whatever it sees."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__(logits.shape[1])
        self.register_buffer("logits", logits)

    def segment(self, image: Tensor) -> SegOutput:
        return SegOutput(self.get_buffer("logits")[: len(image)], (), None)


def batch(label: list[int], valid: list[bool] | None = None, images: int = 1) -> Batch:
    """Return images of one row of pixels."""
    labels = torch.tensor([label] * images)[:, None]
    mask = None if valid is None else torch.tensor([valid] * images)[:, None]
    image = torch.zeros(images, 3, 1, len(label))
    return Batch(image, labels, names=("",) * images, seeds=torch.zeros(images, dtype=torch.int64), valid=mask)


def log(*pixels: list[float]) -> Tensor:
    """Return logits (1, C, 1, W) of the probabilities of each pixel."""
    return torch.tensor(pixels).log().T[None, :, None]


ANSWERS = log([0.6, 0.4], [0.1, 0.9], [0.3, 0.7], [0.8, 0.2])


def teacher(targets: Any = "hard", threshold: float = 0.0, network: SegNetwork | None = None) -> SelectiveFrozen:
    return SelectiveFrozen(network or Given(ANSWERS), Following(targets, threshold))


def test_unlabeled_pixels_get_the_most_likely_class() -> None:
    frozen, unlabeled = teacher(), batch([IGNORE] * 4, [True, True, True, False])
    labeled = frozen.with_targets(unlabeled, frozen(unlabeled))
    assert labeled.label.flatten().tolist() == [0, 1, 1, IGNORE]  # the last one is padding
    assert labeled.valid is unlabeled.valid


def test_labels_and_void_of_a_labeled_image_stay() -> None:
    frozen, given = teacher(), batch([1, IGNORE, 0, 0], [True, False, True, True])
    assert frozen.with_targets(given, frozen(given)).label.flatten().tolist() == [1, IGNORE, 0, 0]
    soft = teacher("soft")
    unlabeled = batch([IGNORE] * 4)
    assert soft.with_targets(unlabeled, soft(unlabeled)) is unlabeled


def test_pixels_below_the_threshold_count_nowhere() -> None:
    frozen, unlabeled = teacher("both", 0.75), batch([IGNORE] * 4, [True] * 4)
    output = frozen(unlabeled)
    labeled = frozen.with_targets(unlabeled, output)
    assert labeled.label.flatten().tolist() == [IGNORE, 1, IGNORE, 0]
    compared = frozen.comparable(output, output, labeled).batch
    assert compared.valid_mask().flatten().tolist() == [False, True, False, True]
    # a label that somebody gave stays in cross entropy
    given = frozen.with_targets(batch([1, 1, 1, 1], [True] * 4), output)
    assert given.label.flatten().tolist() == [1, 1, 1, 1]


def test_outputs_of_no_class_label_nothing() -> None:
    logits = log([0.2, 0.1, 0.7], [0.1, 0.6, 0.3], [0.45, 0.15, 0.4], [0.4, 0.35, 0.25])
    remapped = RemappedNetwork(Given(logits), ClassMapping(((0,), (1,)), unmapped=(2,)))
    unlabeled = batch([IGNORE] * 4, [True] * 4)
    frozen = teacher(network=remapped)
    assert frozen.with_targets(unlabeled, frozen(unlabeled)).label.flatten().tolist() == [IGNORE, 1, 0, 0]
    sure = teacher(threshold=0.44, network=remapped)
    assert sure.with_targets(unlabeled, sure(unlabeled)).label.flatten().tolist() == [IGNORE, 1, 0, IGNORE]


def test_confidence_is_that_of_the_classes_alone() -> None:
    logits = log([0.2, 0.1, 0.7], [0.1, 0.6, 0.3])
    found = confidence(logits, 2, torch.zeros(1, 3, 1, 2), align_corners=False)
    assert found.flatten().tolist() == pytest.approx([0.2, 0.6])


def unlabeled_batch() -> Batch:
    """Return four images, of which two have no label."""
    batch = one_batch()
    label = batch.label.clone()
    label[:2] = IGNORE
    valid = batch.label != IGNORE
    valid[:2] = True
    return batch._replace(label=label, valid=valid)


@pytest.mark.parametrize("following", [Following("both", 0.36), Following("hard", 0.0), Following("soft", 0.36)])
def test_micro_batches_equal_a_large_batch(following: Following) -> None:
    student, network, whole = tiny(0).eval(), tiny(1).eval(), unlabeled_batch()
    terms = build_terms({"pixel": TermConfig(weight=1.0)}, TermContext(student, network, len(CLASSES)))
    with torch.no_grad():
        expected = Distillation(0.0, SelectiveFrozen(network, following), terms)(student, whole).terms
        # of one labeled image and of three others: a mean over each would weigh their pixels by how few there are
        pieces = [slice(3, 4), slice(0, 3)]
        parts = tuple(
            Batch(whole.image[p], whole.label[p], whole.names[p], whole.seeds[p], whole.valid_mask()[p]) for p in pieces
        )
        objective = Distillation(0.0, SelectiveFrozen(network, following), terms)
        found = [objective(student, part._replace(parts=parts)).terms for part in parts]
    for name, value in expected.items():
        torch.testing.assert_close(sum(one[name] for one in found) / 2, value, atol=1e-6, rtol=1e-5)


def test_hard_labels_give_the_cross_entropy_of_those_labels() -> None:
    student, network, whole = tiny(0).eval(), tiny(1).eval(), unlabeled_batch()
    with torch.no_grad():
        found = Distillation(0.0, SelectiveFrozen(network, Following("hard")), {})(student, whole).terms
        answers = torch.nn.functional.interpolate(
            network(whole.image).logits, whole.label.shape[-2:], mode="bilinear", align_corners=False
        ).argmax(1)
        label = torch.where((whole.label == IGNORE) & whole.valid_mask(), answers, whole.label)
        expected = Distillation(0.0)(student, whole._replace(label=label)).terms
    assert found["cross_entropy"] == expected["cross_entropy"]


def test_step_in_which_nothing_is_sure_has_no_loss_of_terms() -> None:
    student, network, whole = tiny(0), tiny(1).eval(), unlabeled_batch()
    whole = whole._replace(
        label=torch.full_like(whole.label, IGNORE), valid=torch.ones_like(whole.label, dtype=torch.bool)
    )
    terms = build_terms({"pixel": TermConfig(weight=1.0)}, TermContext(student, network, len(CLASSES)))
    step = Distillation(0.0, SelectiveFrozen(network, Following("both", 0.9999)), terms)(student, whole).terms
    assert step["pixel"].item() == step["cross_entropy"].item() == 0
    sum(step.values()).backward()
    assert all(p.grad is None or not p.grad.any() for p in student.parameters())
