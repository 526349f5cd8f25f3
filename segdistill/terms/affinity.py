"""Affinity: how alike any two positions are follows the code of the teacher's features (He et al. 2019)."""

from itertools import count
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from segdistill import losses
from segdistill.config import Strict
from segdistill.terms import Pair, last_channels
from segdistill.terms._autoencoder import LatentTerm, Settings
from segdistill.types import Batch, SegOutput, Term


class Options(Strict):
    """Keys of [terms.affinity] beside `weight`."""

    max_positions: Annotated[int, Field(ge=1)] = 4096
    """Maps of more positions are average-pooled first: an image's matrix takes their square, 64 MiB for 4096."""
    autoencoder: Settings = Settings()


class Affinity(LatentTerm):
    """Distance of the affinity matrices' rows, summed over all positions, void ones too; mean over images."""

    def __init__(self, options: Options, pair: Pair) -> None:
        super().__init__(options.autoencoder, pair)
        self.max_positions = options.max_positions
        self.averaged = ""
        # one bare layer, as in torchdistill; before the affinity as in the paper's equation (its figure has it after)
        self.adapter = nn.Conv2d(last_channels(pair.student), self.latent.channels, 3, padding=1)

    @property
    def notes(self) -> tuple[str, ...]:
        """Say so where positions are averaged."""
        return (*super().notes, self.averaged) if self.averaged else super().notes

    def forward(self, student: SegOutput, teacher: SegOutput, batch: Batch) -> Tensor:
        """Return the mean over images."""
        adapted = self.adapter(student.features[-1])
        pooled, code = (bounded(x, self.max_positions) for x in (adapted, self.latent(teacher)))
        if pooled is not adapted:
            (height, width), (h, w) = adapted.shape[-2:], pooled.shape[-2:]
            self.averaged = f"affinity: {height}x{width} positions are averaged to {h}x{w}, for its memory's sake"
        return losses.affinity(pooled, code)


def bounded(features: Tensor, most: int) -> Tensor:
    """Return features (B, D, h, w) average-pooled by the smallest kernel that leaves at most `most` positions."""
    h, w = features.shape[-2:]
    side = next(side for side in count(1) if -(-h // side) * -(-w // side) <= most)
    return features if side == 1 else F.avg_pool2d(features, side, ceil_mode=True)


def build(options: Options, pair: Pair) -> Term:
    """Build the term with an adapter from the student's channels to the code's."""
    return Affinity(options, pair)
