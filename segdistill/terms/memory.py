"""Memory distillation: how alike a pixel is to what the teacher saw in earlier images (Yang et al. 2022, CIRKD).

Two memories per class hold embeddings of the teacher: of single pixels, and of regions, a region being all pixels of a
class in one image. Each step writes its images' over the oldest, then the student's and the teacher's pixels are
compared with keys drawn from the memories.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from segdistill import losses
from segdistill.autocast import no_autocast
from segdistill.distributed import rank, share_of_step, sum_across, world_size
from segdistill.terms import Pair
from segdistill.terms._layers import Layers
from segdistill.types import IGNORE, Batch, SegOutput, Term


class Options(Layers):
    """Keys of [terms.memory] beside `weight`. The defaults are the authors' code's."""

    temperature: Annotated[float, Field(gt=0)] = 0.1
    """Divides the cosines."""
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
    """Pixels drawn for each comparison, over all classes."""
    region_keys: Annotated[int, Field(ge=1)] = 1024
    """Regions drawn for each comparison, over all classes."""
    new_pixels: Annotated[int, Field(ge=1)] = 16
    """Pixels that a class of an image adds to the memory, at most."""


class Queue(nn.Module):
    """The latest unit vectors of each class. Where none has come yet there are random directions, as in CIRKD's code.

    It is made of buffers, so it is saved, restored and undone with the statistics of batch norm.
    """

    keys: Tensor
    next: Tensor

    def __init__(self, num_classes: int, size: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("keys", F.normalize(torch.randn(num_classes, size, channels), dim=2))
        self.register_buffer("next", torch.zeros(num_classes, dtype=torch.int64))

    def push(self, vectors: Tensor) -> None:
        """Write each class's new vectors in their order over its oldest.

        The published code ends a round early where the new ones do not fit before the end; this one goes on at the
        start.

        Args:
            vectors: (C, K, D); a vector of zeros stands for none.
        """
        size, present = self.keys.shape[1], vectors.any(2)
        number = present.cumsum(1)  # 1 for the first that is there
        last = number[:, -1:]
        slot = (self.next[:, None] + number - 1) % size
        kept = present & (number > last - size)  # of more than fit, the last ones: no slot is written twice
        row = torch.arange(len(vectors), device=slot.device)[:, None].expand_as(slot)
        self.keys[row[kept], slot[kept]] = vectors[kept]
        self.next.copy_((self.next + last.squeeze(1)) % size)

    def draw(self, count: int, seed: int) -> Tensor:
        """Return the keys in random slots, about `count`, from the same slots of each class: (M, D)."""
        classes, size, _ = self.keys.shape
        slots = torch.randperm(size, generator=torch.Generator().manual_seed(seed))[: count // classes + 1]
        return self.keys[:, slots.to(self.keys.device)].flatten(0, 1)


class Memory(Term):
    """KL(teacher || student) of the similarities of labelled pixels to pixels and regions that the teacher saw.

    The student's last features are projected to the teacher's channels as in the authors' code, where these are equal
    too: 1x1 convolution, batch norm, ReLU, 1x1 convolution; the teacher's are not projected. Pixels without a label
    neither are compared nor enter a memory, and outside of training nothing enters.

    Every process writes the new embeddings of all of them, so that the memories stay equal, and averaging buffers over
    the processes changes nothing. Each draws keys of its own; with accumulated batches, later micro-batches find what
    earlier ones wrote.
    """

    def __init__(self, options: Options, pair: Pair) -> None:
        super().__init__()
        own, target = (layer.channels for layer in pair.layers(options))
        self.options = options
        self.projection = nn.Sequential(
            nn.Conv2d(own, target, 1, bias=False),
            nn.BatchNorm2d(target),
            nn.ReLU(inplace=True),
            nn.Conv2d(target, target, 1, bias=False),
        )
        self.pixels = Queue(pair.num_classes, options.pixel_memory, target)
        self.regions = Queue(pair.num_classes, options.region_memory, target)

    def forward(self, student: SegOutput, teacher: SegOutput, batch: Batch) -> Tensor:
        """Return the weighted sum of both means over the labelled pixels of the step; write first, as CIRKD's code."""
        options, target = self.options, teacher.features[-1]
        if self.training:
            pixels, regions = embeddings(target, batch, self.pixels.keys.shape[0], options.new_pixels)
            self.pixels.push(of_all_processes(pixels).transpose(0, 1).flatten(1, 2))
            self.regions.push(of_all_processes(regions).transpose(0, 1))
        own = self.projection(student.features[-1])

        def labelled(part: Batch) -> Tensor:
            return losses.at_size(part.label != IGNORE, own.shape[-2:])

        def compared(queue: Queue, count: int) -> Tensor:
            keys = queue.draw(count, int(batch.seeds[0]))
            return losses.key_similarity(own, target, keys, options.temperature, labelled(batch))

        pixel, region = compared(self.pixels, options.pixel_keys), compared(self.regions, options.region_keys)
        total = options.pixel * pixel + options.region * region
        return total * share_of_step(batch, lambda part: labelled(part).sum())


@torch.no_grad()
def embeddings(features: Tensor, batch: Batch, num_classes: int, most: int) -> tuple[Tensor, Tensor]:
    """Return what a batch adds to the memories: unit vectors of pixels (B, C, K, D) and of regions (B, C, D).

    Zeros stand for none. Pixels of a class are drawn by the sample's seed. (The authors' code draws as many positions
    as the class has pixels, but takes them from the start of the map, whatever lies there; we follow the paper.)

    Args:
        features: the teacher's, (B, D, h, w).
        batch: its labels say what is at each position.
        num_classes: C.
        most: pixels of a class and an image; K is that, or h * w where there are fewer.
    """
    with no_autocast(features):
        x = F.normalize(features.float().flatten(2), dim=1).mT  # (B, N, D)
        ids = losses.label_at_size(batch.label, features.shape[-2:]).flatten(1)
        member = ids.unsqueeze(1) == torch.arange(num_classes, device=ids.device).unsqueeze(1)  # (B, C, N)
        draw = torch.stack([_uniform(ids.shape[1], int(seed)) for seed in batch.seeds]).to(x.device)
        first = draw.unsqueeze(1).masked_fill(~member, -1).topk(min(most, ids.shape[1]), dim=2)
        image = torch.arange(len(x), device=x.device)[:, None, None]
        pixels = x[image, first.indices] * (first.values >= 0).unsqueeze(3)
        return pixels, F.normalize(member.float() @ x, dim=2)  # a sum has the direction of its mean


def of_all_processes(tensor: Tensor) -> Tensor:
    """Return the tensors of all processes, equal in shape, one after the other along the first dimension."""
    everyone = tensor.new_zeros(world_size(), *tensor.shape)
    everyone[rank()] = tensor
    return sum_across(everyone).flatten(0, 1)


def _uniform(count: int, seed: int) -> Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed))


def build(options: Options, pair: Pair) -> Term:
    """Build the term with a projection from the student's channels to the teacher's."""
    return Memory(options, pair)
