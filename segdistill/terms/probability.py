"""Zero-order distillation: each pixel's class probabilities follow the teacher's (Xie et al. 2018)."""

from torch import Tensor

from segdistill import losses
from segdistill.config import Strict
from segdistill.terms import Pair, compared_at
from segdistill.types import Batch, SegOutput, Term


class Options(Strict):
    """There are no keys of [terms.probability] beside `weight`."""


class Probability(Term):
    """Squared distance of the probabilities at the student's stride, mean over valid pixels of the step.

    Ignored pixels do not count; images without labels do, as in the paper.
    """

    def forward(self, student: SegOutput, teacher: SegOutput, batch: Batch) -> Tensor:
        """Return the mean squared distance."""
        valid, share = compared_at(batch, student.logits.shape[-2:])
        return losses.pixel_l2(student.logits, teacher.logits, valid) * share


def build(options: Options, pair: Pair) -> Term:
    """Build the term; it has no parameters."""
    return Probability()
