"""Cross-image distillation: how alike pixels of different images are follows the teacher (Yang et al. 2022, CIRKD)."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from segdistill import losses
from segdistill.runtime.distributed import global_mean_weight
from segdistill.terms import TermContext
from segdistill.terms._layers import LayerOptions
from segdistill.terms._pooling import pool_mask_to_limit, pool_to_limit, pooling_note
from segdistill.types import Batch, SegOutput, Term

GRADIENT_RATIO = 0.5
"""Gradient of a balanced term in multiples of cross entropy's: about that of the preset on CamVid (docs/results.md)."""


class Options(LayerOptions):
    """Keys of [terms.cross-image] beside `weight`."""

    temperature: Annotated[float, Field(gt=0)] = 0.1
    """Divisor of the cosines."""
    max_positions: Annotated[int, Field(ge=1)] = 2048
    """Most positions of an image; larger maps are average-pooled, as the authors' are for SegFormer's stride of 4. A
    few times B * max_positions^2 similarities are held at once: here, 16 MiB times B."""


class CrossImage(Term):
    """KL(teacher || student) of the similarities of each position to those of each image of the micro-batch.

    The last features, without a projection: similarities need no equal channels. Pairs of images lie within the
    micro-batch of one process, as in the authors' code: gathering them from all processes is commented out there, so
    its 16 images on 8 GPUs make 4 pairs each. The result therefore depends on how a step is divided.
    """

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.options = options
        self.pooling_note: tuple[str, ...] = ()

    @property
    def messages(self) -> tuple[str, ...]:
        """Message where positions are averaged."""
        return self.pooling_note

    def forward(self, student: SegOutput, teacher: SegOutput, batch: Batch) -> Tensor:
        """Return the mean over the step's valid positions; an average of several is of the valid ones alone."""
        student_features, teacher_features = student.features[-1], teacher.features[-1]
        pooled_student = self._pool(student_features, batch)
        pooled_teacher = self._pool(teacher_features, batch)
        # One message is enough, so the student's comes first: the loss resizes the teacher's map to its size.
        self.pooling_note = pooling_note("cross-image", student_features, pooled_student)
        if not self.pooling_note:
            self.pooling_note = pooling_note("cross-image", teacher_features, pooled_teacher)

        def valid_mask(part: Batch) -> Tensor:
            valid = losses.resize_mask(part.valid_mask(), student_features.shape[-2:])
            return pool_mask_to_limit(valid, self.options.max_positions)

        weight = global_mean_weight(batch, lambda part: valid_mask(part).sum())
        divergence = losses.cross_image(
            pooled_student,
            pooled_teacher,
            temperature=self.options.temperature,
            valid=valid_mask(batch),
        )
        return divergence * weight

    def _pool(self, features: Tensor, batch: Batch) -> Tensor:
        valid = losses.resize_mask(batch.valid_mask(), features.shape[-2:])
        return pool_to_limit(features, self.options.max_positions, valid)


def build(options: Options, context: TermContext) -> Term:
    """Build the term; it has no parameters."""
    return CrossImage(options)
