"""Attention transfer: where the features are strong follows the teacher (Zagoruyko and Komodakis 2017)."""

from torch import Tensor

from segdistill import losses
from segdistill.terms import TermContext
from segdistill.terms._layers import LayerOptions
from segdistill.types import Batch, SegOutput, Term

GRADIENT_RATIO = 0.4
"""Gradient of a balanced term in multiples of cross entropy's: about that of the preset on CamVid (docs/results.md)."""


class Options(LayerOptions):
    """Keys of [terms.attention] beside `weight`."""


class Attention(Term):
    """Squared difference of the last features' attention maps, mean over all positions and images.

    The maps are 0 at ignored positions. The mean over positions makes the term smaller where maps are larger.
    """

    def forward(self, student: SegOutput, teacher: SegOutput, batch: Batch) -> Tensor:
        """Return the mean squared difference."""
        student_features = student.features[-1]
        valid = losses.resize_mask(batch.valid_mask(), student_features.shape[-2:])
        return losses.attention_transfer(student_features, teacher.features[-1], valid)


def build(options: Options, context: TermContext) -> Term:
    """Build the term; it needs no adapter, an attention map has no channels."""
    return Attention()
