"""Knowledge adaptation: the student's features, adapted, follow the code of the teacher's (He et al. 2019)."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from segdistill import losses
from segdistill.networks._base import conv_bn_relu
from segdistill.terms import Pair, compared_at
from segdistill.terms._autoencoder import LatentLayers, LatentTerm, Settings
from segdistill.types import Batch, SegOutput, Term


class Options(LatentLayers):
    """Keys of [terms.adaptation] beside `weight`.

    The paper's norms are not confirmed: the defaults are torchdistill's, with which the paper's weight of 50 makes a
    gradient of the size of cross entropy's.
    """

    p: Annotated[float, Field(ge=1)] = 1.0
    """Norm of the difference at a position."""
    q: Annotated[float, Field(ge=1)] = 2.0
    """Norm that each feature is divided by."""
    per_element: bool = True
    """Divide by the number of the code's channels too."""
    autoencoder: Settings = Settings()


class Adaptation(LatentTerm):
    """Distance of unit features, mean over valid positions of the step.

    Positions whose pixel is ignored do not count; images without labels do.
    """

    def __init__(self, options: Options, pair: Pair) -> None:
        own, target = pair.layers(options)
        super().__init__(options.autoencoder, target, pair)
        self.options = options
        # one layer, as in torchdistill and in most accounts of the paper; one account has three
        self.adapter = conv_bn_relu(own.channels, self.latent.channels, 3)

    def forward(self, student: SegOutput, teacher: SegOutput, batch: Batch) -> Tensor:
        """Return the mean distance."""
        adapted, code, own = self.adapter(student.features[-1]), self.latent(teacher), self.options
        valid, share = compared_at(batch, adapted.shape[-2:])
        return losses.adaptation(adapted, code, own.p, own.q, own.per_element, valid) * share


def build(options: Options, pair: Pair) -> Term:
    """Build the term with an adapter from the student's channels to the code's."""
    return Adaptation(options, pair)
