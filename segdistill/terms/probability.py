"""Zero-order distillation: each pixel's class probabilities follow the teacher's (Xie et al. 2018)."""

from torch import Tensor

from segdistill import losses
from segdistill.config.schema import Strict
from segdistill.terms import TermContext
from segdistill.terms._masks import valid_mask_at
from segdistill.types import Batch, SegOutput, Term


class Options(Strict):
    """There are no keys of [terms.probability] beside `weight`."""


class Probability(Term):
    """Squared distance of the probabilities at the student's stride, mean over valid pixels of the step.

    Ignored pixels do not count; images without labels do, as in the paper.
    """

    def forward(self, student: SegOutput, teacher: SegOutput, batch: Batch) -> Tensor:
        """Return the mean squared distance."""
        valid, weight = valid_mask_at(batch, student.logits.shape[-2:])
        return losses.pixel_l2(student.logits, teacher.logits, valid) * weight


def build(options: Options, context: TermContext) -> Term:
    """Build the term; it has no parameters."""
    return Probability()
