"""Intra-class variation: each pixel's likeness to its class's mean follows the teacher (Wang et al. 2020)."""

from torch import Tensor

from segdistill import losses
from segdistill.terms import TermContext
from segdistill.terms._layers import LayerOptions
from segdistill.terms._masks import labeled_mask_at
from segdistill.types import Batch, SegOutput, Term

NEEDS_LABELS = True
"""Pixels are told apart by their labels: of an image without any, nothing is compared."""

GRADIENT_RATIO = 0.3
"""Gradient of a balanced term in multiples of cross entropy's: about that of the preset on CamVid (docs/results.md)."""


class Options(LayerOptions):
    """Keys of [terms.variation] beside `weight`."""


class Variation(Term):
    """Squared difference of the cosines with the class mean of an image, mean over the step's labeled positions.

    The label says which class a pixel is of: ignored pixels and images without labels add nothing.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(self, student: SegOutput, teacher: SegOutput, batch: Batch) -> Tensor:
        """Return the mean squared difference."""
        student_features = student.features[-1]
        # The loss masks by the label itself; the weight has to count the same positions.
        _, weight = labeled_mask_at(batch, student_features.shape[-2:])
        difference = losses.intra_class_variation(
            student_features, teacher.features[-1], label=batch.label, num_classes=self.num_classes
        )
        return difference * weight


def build(options: Options, context: TermContext) -> Term:
    """Build the term; it needs no adapter, a cosine has no channels."""
    return Variation(context.num_classes)
