"""Pixel-wise distillation: each pixel's class distribution follows the teacher's (Liu et al. 2019)."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from segdistill import losses
from segdistill.config.schema import Strict
from segdistill.terms import TermContext
from segdistill.terms._masks import valid_mask_at
from segdistill.types import Batch, SegOutput, Term


class Options(Strict):
    """Keys of [terms.pixel] beside `weight`."""

    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Divisor of both networks' logits before the softmax."""


class Pixel(Term):
    """KL(teacher || student) of the logits at the student's stride, mean over valid pixels of the step."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, student: SegOutput, teacher: SegOutput, batch: Batch) -> Tensor:
        """Return the mean divergence."""
        valid, weight = valid_mask_at(batch, student.logits.shape[-2:])
        divergence = losses.pixel_kl(student.logits, teacher.logits, temperature=self.temperature, valid=valid)
        return divergence * weight


def build(options: Options, context: TermContext) -> Term:
    """Build the term; it has no parameters."""
    return Pixel(options.temperature)
