"""Feature distillation: the student's last features, adapted, follow the teacher's (Romero et al. 2015, FitNets)."""

from torch import Tensor, nn

from segdistill import losses
from segdistill.terms import Pair, compared_at
from segdistill.terms._layers import Layers
from segdistill.types import Batch, SegOutput, Term


class Options(Layers):
    """Keys of [terms.feature] beside `weight`."""


class Feature(Term):
    """Mean squared error of the adapted features over channels and valid positions of the step.

    Positions whose pixel is ignored do not count; images without labels do.
    """

    def __init__(self, channels: int, teacher_channels: int) -> None:
        super().__init__()
        self.adapter = nn.Conv2d(channels, teacher_channels, 1, bias=False)

    def forward(self, student: SegOutput, teacher: SegOutput, batch: Batch) -> Tensor:
        """Return the mean squared error."""
        adapted = self.adapter(student.features[-1])
        valid, share = compared_at(batch, adapted.shape[-2:])
        return losses.feature_l2(adapted, teacher.features[-1], valid) * share


def build(options: Options, pair: Pair) -> Term:
    """Build the term with a 1x1 convolution without bias from the student's channels to the teacher's, as in CIRKD."""
    own, target = pair.layers(options)
    return Feature(own.channels, target.channels)
