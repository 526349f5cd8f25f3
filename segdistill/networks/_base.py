"""What every network has in common: it normalises its own input and returns a `SegOutput`."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segdistill.types import SegOutput

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
"""RGB statistics of ImageNet in units of 0..255, as torchvision's weights expect them."""


class SegNetwork(nn.Module):
    """A segmentation network from RGB images in 0..255 to a `SegOutput`; subclasses write `segment`.

    The mean and the deviation are not part of the state dict (tensor names stay torchvision's): the model file's
    header carries them.
    """

    mean: Tensor
    std: Tensor
    num_classes: int

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> SegOutput:
        """Segment images (B, 3, H, W), RGB in 0..255, of any size."""
        return self.segment((image - self.mean) / self.std)

    def segment(self, image: Tensor) -> SegOutput:
        """Segment normalised images (B, 3, H, W)."""
        raise NotImplementedError


class Deployed(nn.Module):
    """A network as it is shipped: images (B, 3, H, W) in, logits (B, C, H, W) at the same size out, nothing else."""

    def __init__(self, network: SegNetwork) -> None:
        super().__init__()
        self.network = network.eval()

    def forward(self, image: Tensor) -> Tensor:
        """Return logits at the images' size."""
        logits: Tensor = self.network(image).logits
        return F.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=False)
