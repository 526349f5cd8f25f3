"""The memory of Yang et al. 2022 (CIRKD): unit vectors of the teacher's pixels and regions, by class."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segdistill import losses
from segdistill.runtime.autocast import no_autocast
from segdistill.terms._random import seeded_generator
from segdistill.types import Batch


class Queue(nn.Module):
    """The latest unit vectors of each class. Where none has come yet there are random directions, as in CIRKD's code.

    It is made of buffers, so it is saved, restored and undone with the statistics of batch norm.
    """

    keys: Tensor
    """(C, size, D) float32."""
    next: Tensor
    """(C,) int64: slot of each class that is written next."""

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
        size = self.keys.shape[1]
        is_present = vectors.any(2)
        order = is_present.cumsum(1)  # 1 for the first of a class that is there
        count = order[:, -1:]
        slots = (self.next[:, None] + order - 1) % size
        # Of more than fit, the last ones: writing a slot twice at once has no defined result on a GPU.
        is_kept = is_present & (order > count - size)
        class_ids = torch.arange(len(vectors), device=slots.device)[:, None].expand_as(slots)
        self.keys[class_ids[is_kept], slots[is_kept]] = vectors[is_kept]
        self.next.copy_((self.next + count.squeeze(1)) % size)

    def sample_keys(self, count: int, seed: int) -> Tensor:
        """Return the keys in random slots, about `count`, from the same slots of each class: (M, D)."""
        num_classes, size, _ = self.keys.shape
        slots_per_class = count // num_classes + 1  # as in CIRKD's code
        slots = torch.randperm(size, generator=seeded_generator(seed))[:slots_per_class]
        return self.keys[:, slots.to(self.keys.device)].flatten(0, 1)


@torch.no_grad()
def embeddings(features: Tensor, batch: Batch, *, num_classes: int, max_pixels: int) -> tuple[Tensor, Tensor]:
    """Return what a batch adds to the memories: unit vectors of pixels (B, C, K, D) and of regions (B, C, D).

    Zeros stand for none. Pixels of a class are sampled by the sample's seed. (The authors' code draws as many positions
    as the class has pixels, but takes them from the start of the map, whatever lies there; we follow the paper.)

    Args:
        features: the teacher's, (B, D, h, w).
        batch: its labels say what is at each position.
        num_classes: C.
        max_pixels: most pixels of a class and an image; K is that, or h * w where there are fewer.
    """
    with no_autocast(features):
        vectors = F.normalize(features.float().flatten(2), dim=1).mT  # (B, N, D)
        label = losses.label_at_size(batch.label, features.shape[-2:]).flatten(1)  # (B, N)
        class_ids = torch.arange(num_classes, device=label.device)
        is_member = label.unsqueeze(1) == class_ids.unsqueeze(1)  # (B, C, N)
        pixels = _sample_pixels(vectors, is_member, seeds=batch.seeds, max_pixels=max_pixels)
        regions = F.normalize(is_member.float() @ vectors, dim=2)  # a sum has the direction of its mean
        return pixels, regions


def _sample_pixels(vectors: Tensor, is_member: Tensor, *, seeds: Tensor, max_pixels: int) -> Tensor:
    """Return some vectors of each class of each image, (B, C, K, D), and zeros where there are fewer.

    Args:
        vectors: (B, N, D).
        is_member: bool (B, C, N), which vectors are of a class.
        seeds: (B,), of the images.
        max_pixels: K, where N is not smaller.
    """
    num_images, num_positions, _ = vectors.shape
    ranks = [torch.rand(num_positions, generator=seeded_generator(int(seed))) for seed in seeds]
    # The highest of random ranks are a random sample; those of other classes come last, and are recognized by the -1.
    class_ranks = torch.stack(ranks).to(vectors.device).unsqueeze(1).masked_fill(~is_member, -1)
    highest = class_ranks.topk(min(max_pixels, num_positions), dim=2)
    image = torch.arange(num_images, device=vectors.device)[:, None, None]
    return vectors[image, highest.indices] * (highest.values >= 0).unsqueeze(3)
