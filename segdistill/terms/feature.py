"""Feature distillation: the student's last features, adapted, follow the teacher's (Romero et al. 2015, FitNets)."""

from torch import Tensor, nn

from segdistill import losses
from segdistill.terms import TermContext
from segdistill.terms._layers import LayerOptions
from segdistill.terms._masks import valid_mask_at
from segdistill.types import Batch, SegOutput, Term


class Options(LayerOptions):
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
        valid, weight = valid_mask_at(batch, adapted.shape[-2:])
        return losses.feature_l2(adapted, teacher.features[-1], valid) * weight


def build(options: Options, context: TermContext) -> Term:
    """Build the term with a 1x1 convolution without bias from the student's channels to the teacher's, as in CIRKD."""
    layers = context.layers(options)
    return Feature(layers.student.channels, layers.teacher.channels)
