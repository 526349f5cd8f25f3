"""Channel correlation: which classes lie on the same regions follows the teacher (Feng et al. 2021, DSD)."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from segdistill import losses
from segdistill.config.schema import Strict
from segdistill.terms import TermContext
from segdistill.types import Batch, SegOutput, Term


class Options(Strict):
    """Keys of [terms.channel-correlation] beside `weight`."""

    temperature: Annotated[float, Field(gt=0)] = 4.0
    """Divisor of the logits before the softmax."""
    pool: Annotated[int, Field(ge=1)] = 2
    """Side of the regions that the logits are averaged over, in positions of the student."""


class ChannelCorrelation(Term):
    """Squared difference of the correlation matrices of the logits; ignored pixels count, as regions mix labels."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.options = options

    def forward(self, student: SegOutput, teacher: SegOutput, batch: Batch) -> Tensor:
        """Return the mean over pairs of classes and images."""
        return losses.channel_correlation(
            student.logits,
            teacher.logits,
            temperature=self.options.temperature,
            pool=self.options.pool,
        )


def build(options: Options, context: TermContext) -> Term:
    """Build the term; it has no parameters."""
    return ChannelCorrelation(options)
