"""Cross-image distillation: how alike pixels of different images are follows the teacher (Yang et al. 2022, CIRKD)."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from segdistill import losses
from segdistill.distributed import share_of_step
from segdistill.terms import Pair, averaged, bounded, bounded_mask
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
        """Return the mean over the step's valid positions; an average of several is of the valid ones alone."""
        most, maps = self.options.max_positions, (student.features[-1], teacher.features[-1])
        own, target = (bounded(x, most, losses.at_size(batch.compared(), x.shape[-2:])) for x in maps)
        self.averaged = averaged("cross-image", maps[0], own) or averaged("cross-image", maps[1], target)

        def positions(part: Batch) -> Tensor:
            return bounded_mask(losses.at_size(part.compared(), maps[0].shape[-2:]), most)

        share = share_of_step(batch, lambda part: positions(part).sum())
        return losses.cross_image(own, target, self.options.temperature, positions(batch)) * share


def build(options: Options, pair: Pair) -> Term:
    """Build the term; it has no parameters."""
    return CrossImage(options)
