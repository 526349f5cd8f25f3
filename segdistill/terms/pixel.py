"""Pixel-wise distillation: each pixel's class distribution follows the teacher's (Liu et al. 2019)."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from segdistill import losses
from segdistill.config import Strict
from segdistill.terms import Pair, compared_at
from segdistill.types import Batch, SegOutput, Term


class Options(Strict):
    """Keys of [terms.pixel] beside `weight`."""

    temperature: Annotated[float, Field(gt=0)] = 1.0


class Pixel(Term):
    """KL(teacher || student) of the logits at the student's stride, mean over valid pixels of the step."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, student: SegOutput, teacher: SegOutput, batch: Batch) -> Tensor:
        """Return the mean divergence."""
        valid, share = compared_at(batch, student.logits.shape[-2:])
        return losses.pixel_kl(student.logits, teacher.logits, self.temperature, valid) * share


def build(options: Options, pair: Pair) -> Term:
    """Build the term; it has no parameters."""
    return Pixel(options.temperature)
