"""What is said of the first step is what the first step does, and saying it changes nothing."""

import pytest
import torch
from tiny import copied, differing, distillation, one_batch, optim, tiny

from segdistill.engine import Precision, to_device
from segdistill.first_step import pulls
from segdistill.types import IGNORE, Batch, Stage

CPU = Precision("fp32", torch.device("cpu"), torch.float32)
WEIGHTS = {"pixel": 3.0, "pairwise": 2.0, "feature": 1.0, "holistic": 0.1, "memory": 1.0}


def two(batch: Batch) -> Batch:
    return Batch(batch.image[:2], batch.label[:2], batch.names[:2], batch.seeds[:2])


def test_values_and_gradients_are_those_of_the_step() -> None:
    student, batch = tiny(0), one_batch()
    objective = distillation(student, tiny(1, width=10), WEIGHTS)
    found = pulls(Stage("student", student, objective, optim(1)), batch, CPU)
    student.train()
    for name, pull in found.items():
        student.zero_grad()
        again = distillation(student, tiny(1, width=10), WEIGHTS).train().to(memory_format=torch.channels_last)
        value = again(student, to_device(two(batch), CPU.device)).terms[name]
        value.backward()
        norms = [p.grad.norm() for p in student.parameters() if p.grad is not None]
        if name != "memory":  # the adapters and the memory are drawn anew
            assert pull.value == pytest.approx(value.item(), rel=1e-5)
            assert pull.gradient == pytest.approx(torch.stack(norms).norm().item(), rel=1e-4)
        assert pull.gradient > 0
    assert found.keys() == {"cross_entropy", "aux", *WEIGHTS}


def test_pixels_that_are_left_out_in_training_are_left_out_here() -> None:
    student, batch = tiny(0), one_batch()
    stage = Stage("student", student, distillation(student, tiny(1), {"pixel": 1.0, "probability": 1.0}), optim(1))
    void = batch._replace(
        label=torch.full_like(batch.label, IGNORE), valid=torch.zeros_like(batch.label, dtype=torch.bool)
    )
    assert {name: (pull.value, pull.gradient) for name, pull in pulls(stage, void, CPU).items()} == dict.fromkeys(
        ("cross_entropy", "aux", "pixel", "probability"), (0.0, 0.0)
    )
    assert pulls(stage, void._replace(valid=None), CPU)["pixel"].gradient > 0  # of images without labels


def test_looking_changes_nothing() -> None:
    student, batch = tiny(0), one_batch()
    objective = distillation(student, tiny(1), WEIGHTS)
    before, random = (copied(student), copied(objective)), torch.get_rng_state()
    pulls(Stage("student", student, objective, optim(1)), batch, CPU)
    assert not differing(before[0], copied(student))
    assert not differing(before[1], copied(objective))
    assert all(parameter.grad is None for parameter in student.parameters())
    assert torch.equal(random, torch.get_rng_state())


def test_it_says_which_maps_are_compared_and_through_what() -> None:
    student = tiny(0)
    stage = Stage("student", student, distillation(student, tiny(1, width=10), WEIGHTS), optim(1))
    found = pulls(stage, one_batch(), CPU)
    assert found["cross_entropy"].compares == ""
    assert found["pixel"].compares == "logits, 12x16 and the teacher's 12x16"
    expected = (
        "map 1 of 0-1 (12 channels, stride 4) at 12x16, the teacher's map 1 of 0-1 (20 channels, stride 4) at 12x16"
    )
    assert found["pairwise"].compares == expected
    assert found["feature"].compares == f"{expected}, 1x1 convolution 12 to 20"


def test_a_batch_without_labels_pulls_by_what_needs_none() -> None:
    student, batch = tiny(0), one_batch()
    stage = Stage("student", student, distillation(student, tiny(1), WEIGHTS), optim(1))
    found = pulls(stage, batch._replace(label=torch.full_like(batch.label, 255)), CPU)
    assert found["cross_entropy"].gradient == 0
    assert found["pixel"].gradient > 0
