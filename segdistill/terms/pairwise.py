"""Pair-wise distillation: how alike any two regions are follows the teacher (Liu et al. 2019)."""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from segdistill import losses
from segdistill.terms import TermContext
from segdistill.terms._layers import LayerOptions
from segdistill.types import Batch, SegOutput, Term

GRADIENT_RATIO = 0.3
"""Gradient of a balanced term in multiples of cross entropy's: about that of the preset on CamVid (docs/results.md)."""


class Options(LayerOptions):
    """Keys of [terms.pairwise] beside `weight`."""

    pool: Annotated[int, Field(ge=1)] = 2
    """Side of the pooled regions on the student's feature map; 1 compares every position with every other."""
    kind: Literal["max", "avg"] = "max"
    """Pooling of a region."""


class Pairwise(Term):
    """Squared difference of the cosine matrices of the last features; ignored pixels count, as regions mix labels."""

    def __init__(self, pool: int, kind: Literal["max", "avg"]) -> None:
        super().__init__()
        # Windows of one position would copy the maps for nothing.
        self.pool = pool if pool > 1 else None
        self.kind = kind

    def forward(self, student: SegOutput, teacher: SegOutput, batch: Batch) -> Tensor:
        """Return the mean over pairs of regions and images."""
        return losses.pairwise(student.features[-1], teacher.features[-1], pool=self.pool, kind=self.kind)


def build(options: Options, context: TermContext) -> Term:
    """Build the term; it needs no adapter, a cosine matrix has the same size for any number of channels."""
    return Pairwise(options.pool, options.kind)
