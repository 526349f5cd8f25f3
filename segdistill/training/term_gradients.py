"""The first step of a distillation, term by term: what is compared, its value, and how hard it pulls the student."""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from segdistill.errors import CheckError
from segdistill.runtime.precision import Precision
from segdistill.training.engine import to_device
from segdistill.training.objectives import Distillation
from segdistill.training.state import Training
from segdistill.types import Batch, Stage, Step

IMAGES = 2
"""Number of images that are taken of the first batch: batch norm needs two, and more would take time on a CPU."""
MAX_GRADIENT_RATIO = 5
"""Times the gradient norm of cross entropy that a term's may be at the first step before it is worth a warning."""


class TermGradient(NamedTuple):
    """A term at the first step."""

    value: float
    """Value of the weighted term."""
    gradient: float
    """Norm of the weighted term's gradient with respect to the student."""
    compares: str
    """Maps that are compared, in words; empty of cross entropies, which compare with the label."""


def term_gradients(stage: Stage, batch: Batch, precision: Precision) -> dict[str, TermGradient]:
    """Return what each term says of the first images of a batch, by its name; everything stays as it was.

    Args:
        stage: of a `Distillation`.
        batch: on the CPU.
        precision: device and autocast type.
    """
    objective, model = stage.objective, stage.model
    assert isinstance(objective, Distillation)
    training = Training(stage, precision)
    was_training = model.training
    training.remember_buffers()
    training.train_module.train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    cuda_devices = [precision.device] if precision.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda_devices):  # dropout draws, and the first step must draw the same
        with precision.training():
            step = objective(model, to_device(_first_images(batch), precision.device))
        gradients = {
            name: TermGradient(value.item(), gradient_norm(value, parameters), _comparison(objective, name, step))
            for name, value in step.terms.items()
        }
    training.restore_buffers()
    training.train_module.train(was_training)
    return gradients


def check_finite(gradients: Mapping[str, TermGradient]) -> None:
    """Refuse a first step that is not finite: the training would skip it, and end after a few.

    Raises:
        CheckError: naming the first term whose value or gradient is not finite.
    """
    for name, term in gradients.items():
        if not (math.isfinite(term.value) and math.isfinite(term.gradient)):
            raise CheckError(
                f"Term {name!r} is not finite at the first step: value {term.value:.3g}, gradient norm "
                f"{term.gradient:.3g}.",
                "Look at what the teacher answers, and at the images.",
            )


def gradient_warnings(gradients: Mapping[str, TermGradient]) -> Iterator[str]:
    """Yield a sentence for each term between student and teacher that has no effect, or leaves none to cross entropy.

    Neither is an error: a term may wait for what comes later in the training, and a weight may be meant.
    """
    cross_entropy = gradients["cross_entropy"].gradient
    for name, term in gradients.items():
        if not term.compares:
            continue
        if term.gradient == 0:
            yield f"Term {name!r} has zero gradient at the first step: the student does not learn from it."
        # of images without labels cross entropy has no gradient, and nothing to compare with
        elif term.gradient > MAX_GRADIENT_RATIO * cross_entropy > 0:
            ratio = term.gradient / cross_entropy
            yield (
                f"Gradient norm of term {name!r} is {ratio:.0f}x that of cross entropy at the first step: lower "
                f"terms.{name}.weight."
            )


def gradient_norm(value: Tensor, parameters: list[nn.Parameter]) -> float:
    """Return the norm of a scalar's gradient; 0 where it depends on none of the parameters."""
    if not value.requires_grad:
        return 0.0
    # a term that compares features has no gradient with respect to the classifier
    gradients = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    return float(torch.stack([g.float().norm() for g in gradients if g is not None]).norm())


def _first_images(batch: Batch) -> Batch:
    return Batch(
        batch.image[:IMAGES],
        batch.label[:IMAGES],
        names=batch.names[:IMAGES],
        seeds=batch.seeds[:IMAGES],
        valid=None if batch.valid is None else batch.valid[:IMAGES],
    )


def _comparison(objective: Distillation, name: str, step: Step) -> str:
    """Return which maps a term compares, of which sizes, and through which convolutions; empty of cross entropies."""
    student, teacher = step.student, step.teacher
    if name not in objective.layers or student is None or teacher is None:
        return ""
    layers = objective.layers[name]
    if layers is None:
        return f"logits, {_size(student.logits)} and the teacher's {_size(teacher.logits)}"
    student_map = student.features[layers.student.number]
    teacher_map = teacher.features[layers.teacher.number]
    sentence = f"{layers.student} at {_size(student_map)}, the teacher's {layers.teacher} at {_size(teacher_map)}"
    for module in objective.terms[name].modules():
        if isinstance(module, nn.Conv2d):  # an adapter, from the student's channels to the teacher's
            height, width = module.kernel_size
            sentence += f", {height}x{width} convolution {module.in_channels} to {module.out_channels}"
    return sentence


def _size(maps: Tensor) -> str:
    height, width = maps.shape[-2:]
    return f"{height}x{width}"
