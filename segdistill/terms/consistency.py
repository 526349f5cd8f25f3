"""First-order distillation: how much each pixel differs from its neighbours follows the teacher (Xie et al. 2018)."""

from typing import Literal

from torch import Tensor

from segdistill import losses
from segdistill.config import Strict
from segdistill.distributed import share_of_step
from segdistill.terms import Pair
from segdistill.types import Batch, SegOutput, Term


class Options(Strict):
    """Keys of [terms.consistency] beside `weight`."""

    neighbours: Literal["mean", "sum"] = "mean"
    """How the distances to the eight neighbours are combined; "sum" makes the term 64 times as large."""
    on: Literal["probabilities", "logits"] = "probabilities"
    """What is compared; the squared distance of two probability vectors is 2 at most."""


class Consistency(Term):
    """Squared difference of the consistency maps, mean over the step's positions that count.

    A position counts where neither it nor a neighbour is ignored; images without labels count, as in the paper.
    """

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.options = options

    def forward(self, student: SegOutput, teacher: SegOutput, batch: Batch) -> Tensor:
        """Return the mean squared difference."""
        size = student.logits.shape[-2:]
        maps = [output.logits.float() for output in (student, teacher)]
        if self.options.on == "probabilities":
            maps = [logits.softmax(1) for logits in maps]
        # before the share, which cannot be counted on maps that the loss refuses
        mean = losses.consistency(maps[0], maps[1], self.options.neighbours, losses.at_size(batch.compared(), size))
        share = share_of_step(batch, lambda part: losses.surrounded(losses.at_size(part.compared(), size)).sum())
        return mean * share


def build(options: Options, pair: Pair) -> Term:
    """Build the term; it has no parameters."""
    return Consistency(options)
