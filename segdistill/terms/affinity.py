"""Affinity: how alike any two positions are follows the code of the teacher's features (He et al. 2019)."""

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from segdistill import losses
from segdistill.terms import Pair, averaged, bounded
from segdistill.terms._autoencoder import LatentLayers, LatentTerm, Settings
from segdistill.types import Batch, SegOutput, Term


class Options(LatentLayers):
    """Keys of [terms.affinity] beside `weight`."""

    max_positions: Annotated[int, Field(ge=1)] = 4096
    """Maps of more positions are average-pooled first: an image's matrix takes their square, 64 MiB for 4096."""
    autoencoder: Settings = Settings()


class Affinity(LatentTerm):
    """Distance of the affinity matrices' rows, summed over all positions; mean over images.

    Ignored positions count: the sum grows with the positions, so leaving some out would weigh images unequally.
    """

    def __init__(self, options: Options, pair: Pair) -> None:
        own, target = pair.layers(options)
        super().__init__(options.autoencoder, target, pair)
        self.max_positions = options.max_positions
        self.averaged: tuple[str, ...] = ()
        # one bare layer, as in torchdistill; before the affinity as in the paper's equation (its figure has it after)
        self.adapter = nn.Conv2d(own.channels, self.latent.channels, 3, padding=1)

    @property
    def notes(self) -> tuple[str, ...]:
        """Say so where positions are averaged."""
        return (*super().notes, *self.averaged)

    def forward(self, student: SegOutput, teacher: SegOutput, batch: Batch) -> Tensor:
        """Return the mean over images."""
        adapted = self.adapter(student.features[-1])
        latent = self.latent(teacher)
        own, code = (bounded(x, self.max_positions) for x in (adapted, latent))
        self.averaged = averaged("affinity", adapted, own) or averaged("affinity", latent, code)
        return losses.affinity(own, code)


def build(options: Options, pair: Pair) -> Term:
    """Build the term with an adapter from the student's channels to the code's."""
    return Affinity(options, pair)
