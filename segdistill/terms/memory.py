"""Memory distillation: how alike a pixel is to what the teacher saw in earlier images (Yang et al. 2022, CIRKD).

Two memories per class hold embeddings of the teacher: of single pixels, and of regions, a region being all pixels of a
class in one image. Each step writes its images' over the oldest, then the student's and the teacher's pixels are
compared with keys sampled from the memories.
"""

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from segdistill import losses
from segdistill.runtime.distributed import all_reduce_sum, rank, world_size
from segdistill.terms import TermContext
from segdistill.terms._embeddings import Queue, embeddings
from segdistill.terms._layers import LayerOptions
from segdistill.terms._masks import labeled_mask_at
from segdistill.types import Batch, SegOutput, Term

NEEDS_LABELS = True
"""Pixels are told apart by their labels: of an image without any, nothing is compared."""

GRADIENT_RATIO = 0.1
"""Gradient of a balanced term in multiples of cross entropy's: about that of the preset on CamVid (docs/results.md)."""


class Options(LayerOptions):
    """Keys of [terms.memory] beside `weight`. The defaults are the authors' code's."""

    temperature: Annotated[float, Field(gt=0)] = 0.1
    """Divisor of the cosines."""
    pixel: Annotated[float, Field(ge=0)] = 1.0
    """Share of the comparison with pixels, multiplied by `weight`."""
    region: Annotated[float, Field(ge=0)] = 1.0
    """Share of the comparison with regions, multiplied by `weight`."""
    pixel_memory: Annotated[int, Field(ge=1)] = 20000
    """Pixels kept for each class. All of both memories takes (pixel_memory + region_memory) * classes * the teacher's
    channels * 4 bytes, 0.8 GiB for 19 classes and 512 channels, twice on the device and once in each checkpoint."""
    region_memory: Annotated[int, Field(ge=1)] = 2000
    """Regions kept for each class."""
    pixel_keys: Annotated[int, Field(ge=1)] = 4096
    """Pixels sampled for each comparison, over all classes."""
    region_keys: Annotated[int, Field(ge=1)] = 1024
    """Regions sampled for each comparison, over all classes."""
    new_pixels: Annotated[int, Field(ge=1)] = 16
    """Most pixels that a class of an image adds to the memory."""


class Memory(Term):
    """KL(teacher || student) of the similarities of labeled pixels to pixels and regions that the teacher saw.

    The student's last features are projected to the teacher's channels as in the authors' code, where these are equal
    too: 1x1 convolution, batch norm, ReLU, 1x1 convolution; the teacher's are not projected. Pixels without a label
    neither are compared nor enter a memory, and outside of training nothing enters.

    Every process writes the new embeddings of all of them, so that the memories stay equal, and averaging buffers over
    the processes changes nothing. Each process samples other keys; with accumulated batches, later micro-batches find
    what earlier ones wrote.
    """

    def __init__(self, options: Options, context: TermContext) -> None:
        super().__init__()
        layers = context.layers(options)
        channels = layers.teacher.channels
        self.options = options
        self.num_classes = context.num_classes
        self.projection = nn.Sequential(
            nn.Conv2d(layers.student.channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 1, bias=False),
        )
        self.pixels = Queue(context.num_classes, options.pixel_memory, channels)
        self.regions = Queue(context.num_classes, options.region_memory, channels)

    def forward(self, student: SegOutput, teacher: SegOutput, batch: Batch) -> Tensor:
        """Return the weighted sum of both means over the labeled pixels of the step; write first, as CIRKD's code."""
        options = self.options
        teacher_features = teacher.features[-1]
        if self.training:
            self._remember(teacher_features, batch)
        projected = self.projection(student.features[-1])
        valid, weight = labeled_mask_at(batch, projected.shape[-2:])

        def divergence(queue: Queue, count: int) -> Tensor:
            # By a seed of the batch, so that a step that is taken again after a stop samples the same keys.
            keys = queue.sample_keys(count, seed=int(batch.seeds[0]))
            return losses.key_similarity(
                projected, teacher_features, keys, temperature=options.temperature, valid=valid
            )

        pixel = divergence(self.pixels, options.pixel_keys)
        region = divergence(self.regions, options.region_keys)
        return (options.pixel * pixel + options.region * region) * weight

    def _remember(self, teacher_features: Tensor, batch: Batch) -> None:
        pixels, regions = embeddings(
            teacher_features, batch, num_classes=self.num_classes, max_pixels=self.options.new_pixels
        )
        # (B, C, K, D) and (B, C, D) of each process, to (C, images of all processes * K, D) and (C, images, D)
        self.pixels.push(gather_images(pixels).transpose(0, 1).flatten(1, 2))
        self.regions.push(gather_images(regions).transpose(0, 1))


def gather_images(tensor: Tensor) -> Tensor:
    """Return the tensors of all processes, equal in shape, one after the other along the first dimension."""
    gathered = tensor.new_zeros(world_size(), *tensor.shape)
    gathered[rank()] = tensor
    return all_reduce_sum(gathered).flatten(0, 1)


def build(options: Options, context: TermContext) -> Term:
    """Build the term with a projection from the student's channels to the teacher's."""
    return Memory(options, context)
