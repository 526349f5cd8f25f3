"""Cross-image distillation: how alike pixels of different images are follows the teacher (Yang et al. 2022, CIRKD)."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from segdistill import losses
from segdistill.terms import Pair, averaged, bounded, compared_at
from segdistill.terms._layers import Layers
from segdistill.types import Batch, SegOutput, Term


class Options(Layers):
    """Keys of [terms.cross-image] beside `weight`."""

    temperature: Annotated[float, Field(gt=0)] = 0.1
    """Divides the cosines."""
    max_positions: Annotated[int, Field(ge=1)] = 2048
    """Per image; larger maps are average-pooled, as the authors' are for SegFormer's stride of 4. A few times
    B * max_positions^2 similarities are held at once: here, 16 MiB times B."""


class CrossImage(Term):
    """KL(teacher || student) of the similarities of each position to those of each image of the micro-batch.

    The last features, without a projection: similarities need no equal channels. Pairs of images lie within the
    micro-batch of one process, as in the authors' code: gathering them from all processes is commented out there, so
    its 16 images on 8 GPUs make 4 pairs each. The result therefore depends on how a step is divided.
    """

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.options = options
        self.averaged: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Say so where positions are averaged."""
        return self.averaged

    def forward(self, student: SegOutput, teacher: SegOutput, batch: Batch) -> Tensor:
        """Return the mean over valid positions of the step."""
        maps = student.features[-1], teacher.features[-1]
        own, target = (bounded(x, self.options.max_positions) for x in maps)
        self.averaged = averaged("cross-image", maps[0], own) or averaged("cross-image", maps[1], target)
        valid, share = compared_at(batch, own.shape[-2:])
        return losses.cross_image(own, target, self.options.temperature, valid) * share


def build(options: Options, pair: Pair) -> Term:
    """Build the term; it has no parameters."""
    return CrossImage(options)
