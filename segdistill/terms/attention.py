"""Attention transfer: where the features are strong follows the teacher (Zagoruyko and Komodakis 2017)."""

from torch import Tensor

from segdistill import losses
from segdistill.terms import Pair
from segdistill.terms._layers import Layers
from segdistill.types import Batch, SegOutput, Term


class Options(Layers):
    """Keys of [terms.attention] beside `weight`."""


class Attention(Term):
    """Squared difference of the last features' attention maps, mean over all positions and images.

    The maps are 0 at ignored positions. The mean over positions makes the term smaller where maps are larger.
    """

    def forward(self, student: SegOutput, teacher: SegOutput, batch: Batch) -> Tensor:
        """Return the mean squared difference."""
        own, target = student.features[-1], teacher.features[-1]
        return losses.attention_transfer(own, target, losses.at_size(batch.compared(), own.shape[-2:]))


def build(options: Options, pair: Pair) -> Term:
    """Build the term; it needs no adapter, an attention map has no channels."""
    return Attention()
