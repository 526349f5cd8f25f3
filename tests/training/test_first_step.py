"""What is said of the first step is what the first step does, and saying it changes nothing."""

import math

import pytest
import torch

from helpers.commands import DISTILL, succeeds
from helpers.tiny import copied, differing, distillation, one_batch, optim, tiny
from segdistill.errors import CheckError
from segdistill.runtime.precision import Precision
from segdistill.training.engine import to_device
from segdistill.training.term_gradients import TermGradient, check_finite, gradient_warnings, term_gradients
from segdistill.types import IGNORE, Batch, Stage

CPU = Precision("fp32", torch.device("cpu"), torch.float32)
WEIGHTS = {"pixel": 3.0, "pairwise": 2.0, "feature": 1.0, "holistic": 0.1, "memory": 1.0}


def two(batch: Batch) -> Batch:
    return Batch(batch.image[:2], batch.label[:2], batch.names[:2], batch.seeds[:2])


def test_term_gradients_match_the_training_step() -> None:
    student, batch = tiny(0), one_batch()
    objective = distillation(student, tiny(1, width=10), WEIGHTS)
    found = term_gradients(Stage("student", student, objective, optim(1)), batch, CPU)
    student.train()
    for name, term in found.items():
        student.zero_grad()
        again = distillation(student, tiny(1, width=10), WEIGHTS).train().to(memory_format=torch.channels_last)
        value = again(student, to_device(two(batch), CPU.device)).terms[name]
        value.backward()
        norms = [p.grad.norm() for p in student.parameters() if p.grad is not None]
        if name != "memory":  # the adapters and the memory are drawn anew
            assert term.value == pytest.approx(value.item(), rel=1e-5)
            assert term.gradient == pytest.approx(torch.stack(norms).norm().item(), rel=1e-4)
        assert term.gradient > 0
    assert found.keys() == {"cross_entropy", "aux", *WEIGHTS}


def test_term_gradients_leave_out_masked_pixels() -> None:
    student, batch = tiny(0), one_batch()
    stage = Stage("student", student, distillation(student, tiny(1), {"pixel": 1.0, "probability": 1.0}), optim(1))
    void = batch._replace(
        label=torch.full_like(batch.label, IGNORE), valid=torch.zeros_like(batch.label, dtype=torch.bool)
    )
    assert {
        name: (term.value, term.gradient) for name, term in term_gradients(stage, void, CPU).items()
    } == dict.fromkeys(("cross_entropy", "aux", "pixel", "probability"), (0.0, 0.0))
    assert term_gradients(stage, void._replace(valid=None), CPU)["pixel"].gradient > 0  # of images without labels


def test_term_gradients_change_nothing() -> None:
    student, batch = tiny(0), one_batch()
    objective = distillation(student, tiny(1), WEIGHTS)
    before, random = (copied(student), copied(objective)), torch.get_rng_state()
    term_gradients(Stage("student", student, objective, optim(1)), batch, CPU)
    assert not differing(before[0], copied(student))
    assert not differing(before[1], copied(objective))
    assert all(parameter.grad is None for parameter in student.parameters())
    assert torch.equal(random, torch.get_rng_state())


def test_term_gradients_name_the_compared_maps() -> None:
    student = tiny(0)
    stage = Stage("student", student, distillation(student, tiny(1, width=10), WEIGHTS), optim(1))
    found = term_gradients(stage, one_batch(), CPU)
    assert found["cross_entropy"].compares == ""
    assert found["pixel"].compares == "logits, 12x16 and the teacher's 12x16"
    expected = (
        "map 1 of 0-1 (12 channels, stride 4) at 12x16, the teacher's map 1 of 0-1 (20 channels, stride 4) at 12x16"
    )
    assert found["pairwise"].compares == expected
    assert found["feature"].compares == f"{expected}, 1x1 convolution 12 to 20"


def test_unlabeled_batch_has_gradients_of_label_free_terms() -> None:
    student, batch = tiny(0), one_batch()
    stage = Stage("student", student, distillation(student, tiny(1), WEIGHTS), optim(1))
    found = term_gradients(stage, batch._replace(label=torch.full_like(batch.label, 255)), CPU)
    assert found["cross_entropy"].gradient == 0
    assert found["pixel"].gradient > 0


def gradients_of_pixel(weight: float) -> dict[str, TermGradient]:
    student = tiny(0)
    stage = Stage("student", student, distillation(student, tiny(1), {"pixel": weight}), optim(1))
    return term_gradients(stage, one_batch(), CPU)


def ratio_to_cross_entropy(gradients: dict[str, TermGradient]) -> float:
    return gradients["pixel"].gradient / gradients["cross_entropy"].gradient


def test_term_with_zero_gradient_is_reported() -> None:
    student, batch = tiny(0), one_batch()
    stage = Stage("student", student, distillation(student, tiny(1), {"pixel": 1.0, "pairwise": 1.0}), optim(1))
    void = batch._replace(
        label=torch.full_like(batch.label, IGNORE), valid=torch.zeros_like(batch.label, dtype=torch.bool)
    )
    assert list(gradient_warnings(term_gradients(stage, void, CPU))) == [
        "Term 'pixel' has zero gradient at the first step: the student does not learn from it."
    ]


@pytest.mark.parametrize(("times", "is_told"), [(4.9, False), (6.0, True)])
def test_term_gradient_above_5_times_cross_entropy_is_reported(times: float, is_told: bool) -> None:
    weight = times / ratio_to_cross_entropy(gradients_of_pixel(1.0))
    gradients = gradients_of_pixel(weight)
    assert ratio_to_cross_entropy(gradients) == pytest.approx(times)
    warning = "Gradient norm of term 'pixel' is 6x that of cross entropy at the first step: lower terms.pixel.weight."
    assert list(gradient_warnings(gradients)) == ([warning] if is_told else [])


def test_gradient_warnings_need_labels_and_skip_auxiliary() -> None:
    unlabeled = {"cross_entropy": TermGradient(0.0, 0.0, ""), "pixel": TermGradient(1.0, 5.0, "logits")}
    assert list(gradient_warnings(unlabeled)) == []
    heavy = {"cross_entropy": TermGradient(1.0, 1.0, ""), "aux": TermGradient(1.0, 100.0, "")}
    assert list(gradient_warnings(heavy)) == []
    silent = {"cross_entropy": TermGradient(1.0, 1.0, ""), "aux": TermGradient(0.0, 0.0, "")}
    assert list(gradient_warnings(silent)) == []


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_nonfinite_term_is_refused_by_name(number: float) -> None:
    sound = TermGradient(1.0, 1.0, "")
    check_finite({"cross_entropy": sound, "pixel": sound})
    for broken in (TermGradient(number, 1.0, "logits"), TermGradient(1.0, number, "logits")):
        with pytest.raises(CheckError, match="Term 'pixel' is not finite at the first step"):
            check_finite({"cross_entropy": sound, "pixel": broken})


def test_distill_warns_of_a_term_that_dominates_cross_entropy() -> None:
    told = "that of cross entropy at the first step: lower terms.pixel.weight."
    quiet = f"{DISTILL} --dry-run --set terms.holistic.weight=0 --set terms.pairwise.weight=0"
    assert told not in " ".join(succeeds(f"{quiet} --set terms.pixel.weight=0.001").err.split())
    assert told in " ".join(succeeds(f"{quiet} --set terms.pixel.weight=1e6").err.split())
