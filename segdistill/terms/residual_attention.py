"""Residual attention: how attention changes from layer to layer follows the teacher (Feng et al. 2021, DSD)."""

from itertools import combinations
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from segdistill import losses
from segdistill.errors import UsageError
from segdistill.terms import TermContext
from segdistill.terms._layers import LayerOptions
from segdistill.types import Batch, SegOutput, Term


class Options(LayerOptions):
    """Keys of [terms.residual-attention] beside `weight`."""

    layers: Annotated[int, Field(ge=1)] = 2
    """Number of the last feature maps that are compared beside the logits."""


class ResidualAttention(Term):
    """Squared difference of the residual attention, mean over positions, images and all pairs of layers.

    CIRKD takes the auxiliary head's logits, the last features and the logits. A frozen teacher has no auxiliary
    logits, so ours takes the features before the last in their place: an attention map has no channels, and any layer
    will do. The maps are 0 at ignored positions, which CIRKD's code does not mask.
    """

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, student: SegOutput, teacher: SegOutput, batch: Batch) -> Tensor:
        """Return the mean squared difference."""
        student_maps = self._compared_maps(student)
        teacher_maps = self._compared_maps(teacher)
        valid = batch.valid_mask()
        differences = []
        for shallow, deep in combinations(range(len(student_maps)), 2):
            difference = losses.residual_attention(
                student=student_maps[shallow],
                student_deeper=student_maps[deep],
                teacher=teacher_maps[shallow],
                teacher_deeper=teacher_maps[deep],
                valid=losses.resize_mask(valid, student_maps[deep].shape[-2:]),
            )
            differences.append(difference)
        return torch.stack(differences).mean()

    def _compared_maps(self, output: SegOutput) -> tuple[Tensor, ...]:
        """Return the last feature maps, shallow to deep, and the logits."""
        return (*output.features[-self.layers :], output.logits)


def build(options: Options, context: TermContext) -> Term:
    """Build the term; it has no parameters.

    Raises:
        UsageError: if a network has fewer maps up to the one that is compared.
    """
    # The networks' outputs end with the map that is compared: the others have to lie before it.
    for layer in context.layers(options):
        if layer.number + 1 < options.layers:
            raise UsageError(f"{options.layers} maps are compared, and {layer} is the last of them.", "Lower `layers`.")
    return ResidualAttention(options.layers)
