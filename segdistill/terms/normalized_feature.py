"""Normalized features: the student's last features, adapted, follow the teacher's up to their size (Liu et al. 2022).

Each image's features are divided by their norm over all channels and valid positions; the term is the squared distance
of the two, 0 to 4. The weight does not depend on how large a teacher's features are.

Confirmed of the paper (NFD) is its idea: normalize, so that magnitudes are not imitated. Not confirmed are the kind of
normalization, the adapter and the weight: the first two are our choice, the weight is measured.
"""

from torch import Tensor, nn

from segdistill import losses
from segdistill.runtime.distributed import global_mean_weight
from segdistill.terms import TermContext
from segdistill.terms._layers import LayerOptions
from segdistill.types import Batch, SegOutput, Term


class Options(LayerOptions):
    """Keys of [terms.normalized-feature] beside `weight`."""


class NormalizedFeature(Term):
    """Squared distance of the adapted features and the teacher's at norm 1, mean over the step's images.

    Ignored positions take no part, and images with no other do not count; images without labels do, as a whole.
    """

    def __init__(self, channels: int, teacher_channels: int) -> None:
        super().__init__()
        # Its shift lets a channel have any mean: features of a teacher behind a ReLU are not centered.
        self.adapter = nn.Sequential(
            nn.Conv2d(channels, teacher_channels, 1, bias=False),
            nn.BatchNorm2d(teacher_channels),
        )

    def forward(self, student: SegOutput, teacher: SegOutput, batch: Batch) -> Tensor:
        """Return the mean squared distance."""
        adapted = self.adapter(student.features[-1])

        def valid_mask(part: Batch) -> Tensor:
            return losses.resize_mask(part.valid_mask(), adapted.shape[-2:])

        # The mean is over images, so the images are what has to be counted over the whole step.
        weight = global_mean_weight(batch, lambda part: valid_mask(part).flatten(1).any(1).sum())
        return losses.normalized_feature(adapted, teacher.features[-1], valid_mask(batch)) * weight


def build(options: Options, context: TermContext) -> Term:
    """Build the term with a 1x1 convolution and batch norm from the student's channels to the teacher's."""
    layers = context.layers(options)
    return NormalizedFeature(layers.student.channels, layers.teacher.channels)
