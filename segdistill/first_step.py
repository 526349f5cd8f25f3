"""What a distillation's first step would do: what each term compares, its value, and how hard it pulls."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from segdistill.engine import Precision, Training, to_device
from segdistill.objectives import Distillation
from segdistill.types import Batch, Stage, Step

IMAGES = 2
"""Of the first batch: batch norm needs as many, and more would take their time on a CPU."""


class Pull(NamedTuple):
    """A term at the first step."""

    value: float
    """Weighted."""
    gradient: float
    """Norm of the weighted term's gradient with respect to the student."""
    compares: str
    """In words."""


def pulls(stage: Stage, batch: Batch, precision: Precision) -> dict[str, Pull]:
    """Return what each term says of the first images of a batch; everything stays as it was.

    Args:
        stage: of a `Distillation`.
        batch: on the CPU.
        precision: device and autocast type.
    """
    objective, model = stage.objective, stage.model
    assert isinstance(objective, Distillation)
    training = Training(stage, precision)
    mode, before = model.training, [buffer.clone() for buffer in training.buffers]
    training.trainee.train()
    valid = None if batch.valid is None else batch.valid[:IMAGES]
    first = Batch(batch.image[:IMAGES], batch.label[:IMAGES], batch.names[:IMAGES], batch.seeds[:IMAGES], valid)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.random.fork_rng(devices=[precision.device] if precision.device.type == "cuda" else []):
        with precision.training():
            step = objective(model, to_device(first, precision.device))
        found = {
            name: Pull(value.item(), gradient_norm(value, parameters), compared(objective, name, step))
            for name, value in step.terms.items()
        }
    torch._foreach_copy_(training.buffers, before)
    training.trainee.train(mode)
    return found


def gradient_norm(value: Tensor, parameters: list[nn.Parameter]) -> float:
    """Return the norm of a scalar's gradient; 0 where it depends on none of the parameters."""
    if not value.requires_grad:
        return 0.0
    gradients = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    return float(torch.stack([g.float().norm() for g in gradients if g is not None]).norm())


def compared(objective: Distillation, name: str, step: Step) -> str:
    """Say which maps a term compares, of which sizes, and through which convolutions; nothing of cross entropies."""
    student, teacher = step.student, step.teacher
    if name not in objective.layers or student is None or teacher is None:
        return ""
    layers = objective.layers[name]
    if layers is None:
        return f"logits, {_size(student.logits)} and the teacher's {_size(teacher.logits)}"
    own, target = student.features[layers.student.number], teacher.features[layers.teacher.number]
    term = objective.terms[name]
    adapter = [m for m in term.modules() if isinstance(m, nn.Conv2d)]
    through = "".join(
        f", {conv.kernel_size[0]}x{conv.kernel_size[1]} convolution {conv.in_channels} to {conv.out_channels}"
        for conv in adapter
    )
    return f"{layers.student} at {_size(own)}, the teacher's {layers.teacher} at {_size(target)}{through}"


def _size(maps: Tensor) -> str:
    return "x".join(map(str, maps.shape[-2:]))
