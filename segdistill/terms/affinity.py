"""Affinity: how alike any two positions are follows the latent of the teacher's features (He et al. 2019)."""

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from segdistill import losses
from segdistill.terms import TermContext
from segdistill.terms._autoencoder import AutoEncoderSettings, LatentLayerOptions, LatentTerm
from segdistill.terms._pooling import pool_to_limit, pooling_note
from segdistill.types import Batch, SegOutput, Term


class Options(LatentLayerOptions):
    """Keys of [terms.affinity] beside `weight`."""

    max_positions: Annotated[int, Field(ge=1)] = 4096
    """Most positions of an image. Larger maps are average-pooled first: an image's matrix takes the square of them,
    64 MiB for 4096."""
    autoencoder: AutoEncoderSettings = AutoEncoderSettings()
    """Size and training of the auto-encoder."""


class Affinity(LatentTerm):
    """Distance of the affinity matrices' rows, summed over all positions; mean over images.

    Ignored positions count: the sum grows with the positions, so leaving some out would weigh images unequally.
    """

    def __init__(self, options: Options, context: TermContext) -> None:
        student_layer, teacher_layer = context.layers(options)
        super().__init__(options.autoencoder, teacher_layer, context)
        self.max_positions = options.max_positions
        self.pooling_note: tuple[str, ...] = ()
        # one bare layer, as in torchdistill; before the affinity as in the paper's equation (its figure has it after)
        self.adapter = nn.Conv2d(student_layer.channels, self.latent.channels, 3, padding=1)

    @property
    def messages(self) -> tuple[str, ...]:
        """Messages on the auto-encoder, and where positions are averaged."""
        return (*super().messages, *self.pooling_note)

    def forward(self, student: SegOutput, teacher: SegOutput, batch: Batch) -> Tensor:
        """Return the mean over images."""
        adapted = self.adapter(student.features[-1])
        latent = self.latent(teacher)
        pooled_adapted = pool_to_limit(adapted, self.max_positions)
        pooled_latent = pool_to_limit(latent, self.max_positions)
        # One message is enough, so the student's comes first: the loss resizes the latent to its size.
        self.pooling_note = pooling_note("affinity", adapted, pooled_adapted)
        if not self.pooling_note:
            self.pooling_note = pooling_note("affinity", latent, pooled_latent)
        return losses.affinity(pooled_adapted, pooled_latent)


def build(options: Options, context: TermContext) -> Term:
    """Build the term with an adapter from the student's channels to the latent's."""
    return Affinity(options, context)
