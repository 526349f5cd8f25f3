"""Channel-wise distillation: where in the image each channel is high follows the teacher (Shu et al. 2021, CWD)."""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from segdistill import losses
from segdistill.terms import TermContext
from segdistill.terms._layers import LayerOptions
from segdistill.types import Batch, SegOutput, Term


class Options(LayerOptions):
    """Keys of [terms.channel] beside `weight`."""

    on: Literal["logits", "features"] = "logits"
    """Maps that are compared; features of the student are adapted to the teacher's channels first."""
    temperature: Annotated[float, Field(gt=0)] = 4.0
    """Divisor of the maps before the softmax."""

    @property
    def compares_features(self) -> bool:
        """Whether `on` names features."""
        return self.on == "features"


class Channel(Term):
    """KL(teacher || student) of each channel's distribution over space, mean over channels and images.

    The distributions are over valid positions alone: ignored ones take no part.
    """

    def __init__(self, temperature: float, adapter: nn.Module | None = None) -> None:
        super().__init__()
        self.temperature = temperature
        self.adapter = adapter

    def forward(self, student: SegOutput, teacher: SegOutput, batch: Batch) -> Tensor:
        """Return the mean divergence."""
        if self.adapter is None:
            student_maps, teacher_maps = student.logits, teacher.logits
        else:
            student_maps, teacher_maps = self.adapter(student.features[-1]), teacher.features[-1]
        # Of the student's grid: the loss brings the teacher's maps to it.
        valid = losses.resize_mask(batch.valid_mask(), student_maps.shape[-2:])
        return losses.channel_kl(student_maps, teacher_maps, temperature=self.temperature, valid=valid)


def build(options: Options, context: TermContext) -> Term:
    """Build the term; features take a 1x1 convolution without bias, as in CIRKD.

    CIRKD leaves equal widths alone, and divides by the student's channels where ours divides by the teacher's.
    """
    if options.on == "logits":
        return Channel(options.temperature)
    layers = context.layers(options)
    adapter = nn.Conv2d(layers.student.channels, layers.teacher.channels, 1, bias=False)
    return Channel(options.temperature, adapter)
