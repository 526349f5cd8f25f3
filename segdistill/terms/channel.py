"""Channel-wise distillation: where in the image each channel is high follows the teacher (Shu et al. 2021, CWD)."""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from segdistill import losses
from segdistill.terms import Pair
from segdistill.terms._layers import Layers
from segdistill.types import Batch, SegOutput, Term


class Options(Layers):
    """Keys of [terms.channel] beside `weight`."""

    on: Literal["logits", "features"] = "logits"
    """The last features are adapted to the teacher's channels first."""
    temperature: Annotated[float, Field(gt=0)] = 4.0

    @property
    def compares_features(self) -> bool:
        """Whether it is told to."""
        return self.on == "features"


class Channel(Term):
    """KL(teacher || student) of each channel's distribution over space, mean over channels and images.

    The distributions are over compared positions alone: ignored ones take no part.
    """

    def __init__(self, temperature: float, adapter: nn.Module | None = None) -> None:
        super().__init__()
        self.temperature = temperature
        self.adapter = adapter

    def forward(self, student: SegOutput, teacher: SegOutput, batch: Batch) -> Tensor:
        """Return the mean divergence."""
        own, target = student.logits, teacher.logits
        if self.adapter is not None:
            own, target = self.adapter(student.features[-1]), teacher.features[-1]
        return losses.channel_kl(own, target, self.temperature, losses.at_size(batch.compared(), own.shape[-2:]))


def build(options: Options, pair: Pair) -> Term:
    """Build the term; features take a 1x1 convolution without bias, as in CIRKD.

    CIRKD leaves equal widths alone, and divides by the student's channels where ours divides by the teacher's.
    """
    if options.on == "logits":
        return Channel(options.temperature)
    own, target = pair.layers(options)
    return Channel(options.temperature, nn.Conv2d(own.channels, target.channels, 1, bias=False))
