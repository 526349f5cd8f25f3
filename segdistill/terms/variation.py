"""Intra-class variation: each pixel's likeness to its class's mean follows the teacher (Wang et al. 2020)."""

from torch import Tensor

from segdistill import losses
from segdistill.distributed import share_of_step
from segdistill.terms import Pair
from segdistill.terms._layers import Layers
from segdistill.types import IGNORE, Batch, SegOutput, Term


class Options(Layers):
    """Keys of [terms.variation] beside `weight`."""


class Variation(Term):
    """Squared difference of the cosines with the class mean of an image, mean over the step's labelled positions.

    The label says which class a pixel is of: ignored pixels and images without labels add nothing.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(self, student: SegOutput, teacher: SegOutput, batch: Batch) -> Tensor:
        """Return the mean squared difference."""
        own, target = student.features[-1], teacher.features[-1]
        share = share_of_step(batch, lambda part: losses.at_size(part.label != IGNORE, own.shape[-2:]).sum())
        return losses.intra_class_variation(own, target, batch.label, self.num_classes) * share


def build(options: Options, pair: Pair) -> Term:
    """Build the term; it needs no adapter, a cosine has no channels."""
    return Variation(pair.num_classes)
