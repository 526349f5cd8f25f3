"""Boundary distillation: pixel-wise on the edges of the label, channel-wise inside its classes (Liu et al. 2023, BPKD).

The edge is where a window of the label holds two classes: the dilation of each class minus its erosion. It is found at
the label's own size and brought to the logits' by the nearest pixel.

The paper's weights are 20 (body) and 50 (edge), its window 7, as three re-implementations have them; its authors
published no code to train, so this is not confirmed. Two of them sum over classes what we average over positions: the
weights do not carry over.
"""

from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator
from torch import Tensor

from segdistill import losses
from segdistill.config.schema import Strict
from segdistill.runtime.distributed import global_mean_weight
from segdistill.terms import TermContext
from segdistill.types import IGNORE, Batch, SegOutput, Term

NEEDS_LABELS = True
"""Edges are those of the label: of an image without any, nothing is compared."""


class Options(Strict):
    """Keys of [terms.boundary] beside `weight`."""

    edge: Annotated[float, Field(ge=0)] = 1.0
    """Share of the pixel-wise part on the edges, multiplied by `weight`."""
    body: Annotated[float, Field(ge=0)] = 1.0
    """Share of the channel-wise part inside the classes, multiplied by `weight`."""
    width: Annotated[int, Field(ge=3)] = 7
    """Side of the window in pixels of the label, odd; edges are one pixel narrower."""
    edge_temperature: Annotated[float, Field(gt=0)] = 1.0
    """Divisor of the logits in the pixel-wise part."""
    body_temperature: Annotated[float, Field(gt=0)] = 4.0
    """Divisor of the logits in the channel-wise part."""

    @field_validator("width")
    @classmethod
    def _has_a_middle(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError(f"a window has a pixel in its middle, so its side is odd: {value - 1} or {value + 1}")
        return value

    @model_validator(mode="after")
    def _compares_something(self) -> Self:
        if self.edge == self.body == 0:
            raise ValueError("edge and body are both 0: nothing is compared; a weight of 0 leaves the term out")
        return self


class Boundary(Term):
    """KL(teacher || student) of the classes on edges, and of the positions for each class inside them.

    The first is a mean over the step's positions on edges, the second over channels and the step's images that have a
    position inside a class. Ignored pixels, and images without labels, add nothing.
    """

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.options = options

    def forward(self, student: SegOutput, teacher: SegOutput, batch: Batch) -> Tensor:
        """Return the weighted sum of both parts."""
        size = student.logits.shape[-2:]

        def regions(part: Batch) -> tuple[Tensor, Tensor]:
            return losses.boundary_regions(_comparable_label(part), size, self.options.width)

        # Edges are not spread evenly over micro-batches, and neither are images without labels.
        edge_weight = global_mean_weight(batch, lambda part: regions(part)[0].sum())
        body_weight = global_mean_weight(batch, lambda part: regions(part)[1].flatten(1).any(1).sum())
        return losses.boundary(
            student.logits,
            teacher.logits,
            _comparable_label(batch),
            width=self.options.width,
            edge=self.options.edge * edge_weight,
            body=self.options.body * body_weight,
            edge_temperature=self.options.edge_temperature,
            body_temperature=self.options.body_temperature,
        )


def _comparable_label(batch: Batch) -> Tensor:
    """Return the label without the pixels that the teacher cannot speak of."""
    return batch.label.masked_fill(~batch.valid_mask(), IGNORE)


def build(options: Options, context: TermContext) -> Term:
    """Build the term; it has no parameters."""
    return Boundary(options)
