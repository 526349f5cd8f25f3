"""Knowledge adaptation: the student's features, adapted, follow the latent of the teacher's (He et al. 2019)."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from segdistill import losses
from segdistill.networks import conv_bn_relu
from segdistill.terms import TermContext
from segdistill.terms._autoencoder import AutoEncoderSettings, LatentLayerOptions, LatentTerm
from segdistill.terms._masks import valid_mask_at
from segdistill.types import Batch, SegOutput, Term

GRADIENT_RATIO = 0.5
"""Gradient of a balanced term in multiples of cross entropy's: about that of the preset on CamVid (docs/results.md)."""


class Options(LatentLayerOptions):
    """Keys of [terms.adaptation] beside `weight`.

    The paper's norms are not confirmed: the defaults are torchdistill's, with which the paper's weight of 50 makes a
    gradient of the size of cross entropy's.
    """

    p: Annotated[float, Field(ge=1)] = 1.0
    """Norm of the difference at a position."""
    q: Annotated[float, Field(ge=1)] = 2.0
    """Norm that each feature is divided by."""
    per_element: bool = True
    """Whether the distance is divided by the number of the latent's channels too."""
    autoencoder: AutoEncoderSettings = AutoEncoderSettings()
    """Size and training of the auto-encoder."""


class Adaptation(LatentTerm):
    """Distance of unit features, mean over valid positions of the step.

    Positions whose pixel is ignored do not count; images without labels do.
    """

    def __init__(self, options: Options, context: TermContext) -> None:
        student_layer, teacher_layer = context.layers(options)
        super().__init__(options.autoencoder, teacher_layer, context)
        self.options = options
        # one layer, as in torchdistill and in most accounts of the paper; one account has three
        self.adapter = conv_bn_relu(student_layer.channels, self.latent.channels, 3)

    def forward(self, student: SegOutput, teacher: SegOutput, batch: Batch) -> Tensor:
        """Return the mean distance."""
        adapted = self.adapter(student.features[-1])
        latent = self.latent(teacher)
        valid, weight = valid_mask_at(batch, adapted.shape[-2:])
        distance = losses.adaptation(
            adapted,
            latent,
            p=self.options.p,
            q=self.options.q,
            per_element=self.options.per_element,
            valid=valid,
        )
        return distance * weight


def build(options: Options, context: TermContext) -> Term:
    """Build the term with an adapter from the student's channels to the latent's."""
    return Adaptation(options, context)
