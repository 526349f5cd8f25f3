"""Residual attention: how attention changes from layer to layer follows the teacher (Feng et al. 2021, DSD)."""

from itertools import combinations
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from segdistill import losses
from segdistill.errors import UsageError
from segdistill.terms import Pair
from segdistill.terms._layers import Layers
from segdistill.types import Batch, SegOutput, Term


class Options(Layers):
    """Keys of [terms.residual-attention] beside `weight`."""

    layers: Annotated[int, Field(ge=1)] = 2
    """How many of the last feature maps are compared beside the logits."""


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
        own, target = ((*output.features[-self.layers :], output.logits) for output in (student, teacher))
        compared = batch.compared()
        values = [
            losses.residual_attention(own[i], own[j], target[i], target[j], losses.at_size(compared, own[j].shape[-2:]))
            for i, j in combinations(range(len(own)), 2)
        ]
        return torch.stack(values).mean()


def build(options: Options, pair: Pair) -> Term:
    """Build the term; it has no parameters."""
    for layer in pair.layers(options):
        if layer.number + 1 < options.layers:
            raise UsageError(f"{options.layers} maps are compared, and {layer} is the last of them.", "Lower `layers`.")
    return ResidualAttention(options.layers)
