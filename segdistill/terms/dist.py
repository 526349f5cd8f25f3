"""Relational distillation: class probabilities correlate with the teacher's, whatever their scale (Huang et al. 2022).

1 - Pearson's correlation over the classes at each position, averaged over positions, plus 1 - the correlation over the
positions for each class, averaged over classes. The authors' code for segmentation weighs both by 1 and adds their sum
to cross entropy with weight 1; there is no temperature in it.

The method is weak for two classes. There the first part has no gradient, because one probability says the other; the
paper's appendix names the limit, as it is quoted in issue 2 of hunto/DIST_KD. A run with two classes is told so.
"""

from typing import Annotated, Self

from pydantic import Field, model_validator
from torch import Tensor

from segdistill import losses
from segdistill.config.schema import Strict
from segdistill.terms import TermContext
from segdistill.terms._masks import valid_mask_at
from segdistill.types import Batch, SegOutput, Term


class Options(Strict):
    """Keys of [terms.dist] beside `weight`."""

    beta: Annotated[float, Field(ge=0)] = 1.0
    """Share of the correlation over the classes, multiplied by `weight`."""
    gamma: Annotated[float, Field(ge=0)] = 1.0
    """Share of the correlation over the positions, multiplied by `weight`."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Divisor of both networks' logits before the softmax; the term is not multiplied by its square."""

    @model_validator(mode="after")
    def _compares_something(self) -> Self:
        if self.beta == self.gamma == 0:
            raise ValueError("beta and gamma are both 0: nothing is compared; a weight of 0 leaves the term out")
        return self


class Dist(Term):
    """1 - correlation of the class probabilities, over classes and over positions.

    The positions are the valid ones of the micro-batch of one process, as in the authors' code. The second part
    therefore depends on how a step is divided.
    """

    def __init__(self, options: Options, classes: int) -> None:
        super().__init__()
        self.options = options
        self.classes = classes

    @property
    def messages(self) -> tuple[str, ...]:
        """Message where too few classes are compared for the first part to teach anything."""
        if self.classes > 2:
            return ()
        return (
            f"dist: {self.classes} classes are compared, and over so few a correlation has no gradient: only the part "
            "over positions teaches. The terms pixel and channel have no such limit",
        )

    def forward(self, student: SegOutput, teacher: SegOutput, batch: Batch) -> Tensor:
        """Return the weighted sum of both parts."""
        valid, weight = valid_mask_at(batch, student.logits.shape[-2:])
        dissimilarity = losses.dist(
            student.logits,
            teacher.logits,
            temperature=self.options.temperature,
            beta=self.options.beta,
            gamma=self.options.gamma,
            valid=valid,
        )
        return dissimilarity * weight


def build(options: Options, context: TermContext) -> Term:
    """Build the term; it has no parameters."""
    return Dist(options, context.num_classes - context.missing_classes)
