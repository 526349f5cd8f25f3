"""Channel-wise distillation: where in the image each channel is high follows the teacher (Shu et al. 2021, CWD)."""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from segdistill import losses
from segdistill.config import Strict
from segdistill.terms import Pair, last_channels
from segdistill.types import Batch, SegOutput, Term


class Options(Strict):
    """Keys of [terms.channel] beside `weight`."""

    on: Literal["logits", "features"] = "logits"
    """The last features are adapted to the teacher's channels first."""
    temperature: Annotated[float, Field(gt=0)] = 4.0


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
    """Build the term; features take a 1x1 convolution without bias, as in CIRKD (which leaves equal widths alone)."""
    if options.on == "logits":
        return Channel(options.temperature)
    adapter = nn.Conv2d(last_channels(pair.student), last_channels(pair.teacher), 1, bias=False)
    return Channel(options.temperature, adapter)
