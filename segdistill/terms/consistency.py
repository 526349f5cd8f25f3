"""First-order distillation: how much each pixel differs from its neighbors follows the teacher (Xie et al. 2018)."""

from typing import Any, Literal

from pydantic import model_validator
from torch import Tensor

from segdistill import losses
from segdistill.config.schema import Strict, with_new_key
from segdistill.runtime.distributed import global_mean_weight
from segdistill.terms import TermContext
from segdistill.types import Batch, SegOutput, Term


class Options(Strict):
    """Keys of [terms.consistency] beside `weight`."""

    neighbors: Literal["mean", "sum"] = "mean"
    """Combination of the distances to the eight neighbors; "sum" makes the term 64 times as large."""
    on: Literal["probabilities", "logits"] = "probabilities"
    """Maps that are compared; the squared distance of two probability vectors is 2 at most."""

    @model_validator(mode="before")
    @classmethod
    def _of_version_0_1(cls, table: Any) -> Any:
        return with_new_key(table, "neighbours", "neighbors")


class Consistency(Term):
    """Squared difference of the consistency maps, mean over the step's positions that count.

    A position counts where neither it nor a neighbor is ignored; images without labels count, as in the paper.
    """

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.options = options

    def forward(self, student: SegOutput, teacher: SegOutput, batch: Batch) -> Tensor:
        """Return the mean squared difference."""
        size = student.logits.shape[-2:]
        # Before the weight, which cannot be counted on maps that the loss refuses.
        mean = losses.consistency(
            self._compared_maps(student),
            self._compared_maps(teacher),
            neighbors=self.options.neighbors,
            valid=losses.resize_mask(batch.valid_mask(), size),
        )

        def count(part: Batch) -> Tensor:
            return losses.surrounded(losses.resize_mask(part.valid_mask(), size)).sum()

        return mean * global_mean_weight(batch, count)

    def _compared_maps(self, output: SegOutput) -> Tensor:
        # Under autocast they are bfloat16, whose two to three digits would hide how little neighbors differ.
        logits = output.logits.float()
        if self.options.on == "logits":
            return logits
        return logits.softmax(dim=1)


def build(options: Options, context: TermContext) -> Term:
    """Build the term; it has no parameters."""
    return Consistency(options)
