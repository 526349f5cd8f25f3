"""The critic of Liu et al. 2019: a network that scores a segmentation of an image, and the maps that it sees."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

MIN_SIDE = 64
"""Smallest side in positions of the critic's maps: four halvings and a 4x4 kernel need as many.

Smaller maps are enlarged (CamVid's are 45x60 at stride 8).
"""


class SelfAttention(nn.Module):
    """Attention over positions, added with a learnt factor that starts at 0 (Zhang et al. 2019, SAGAN)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels // 8, 1)
        self.key = nn.Conv2d(channels, channels // 8, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, D, h, w) plus what each position attends to."""
        query = self.query(x).flatten(2)
        key = self.key(x).flatten(2)
        value = self.value(x).flatten(2)
        attention = torch.softmax(query.transpose(1, 2) @ key, dim=2)  # (B, hw, hw), rows sum to 1
        attended: Tensor = (value @ attention.transpose(1, 2)).view_as(x)
        return x + self.gamma * attended


class Critic(nn.Module):
    """Four strided convolutions, attention after the last two, and a score per image (SAGAN's discriminator).

    There is no batch norm, which would couple the samples whose gradients the penalty keeps apart. As in the authors'
    code, the last convolution has no spectral norm.
    """

    def __init__(self, num_classes: int, *, spectral: bool) -> None:
        super().__init__()
        channels = [3 + num_classes, 64, 128, 256, 512]
        layers: list[nn.Module] = []
        for depth, (inputs, outputs) in enumerate(pairwise(channels)):
            conv = nn.Conv2d(inputs, outputs, 4, stride=2, padding=1)
            layers.append(spectral_norm(conv) if spectral else conv)
            layers.append(nn.LeakyReLU(0.1))
            if depth >= 2:  # before, the maps are too large: attention takes the square of their positions
                layers.append(SelfAttention(outputs))
        layers.append(nn.Conv2d(channels[-1], 1, 4))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores (B,) for image and probabilities (B, 3 + C, h, w), both sides at least 64."""
        score: Tensor = self.layers(x)
        return score.mean(dim=(1, 2, 3))


def critic_input(image: Tensor, logits: Tensor, size: torch.Size | None = None) -> Tensor:
    """Return image in [-1, 1] and probabilities, concatenated: (B, 3 + C, h, w) float32, both sides at least 64.

    Args:
        image: (B, 3, H, W) in 0..255.
        logits: (B, C, h, w).
        size: the map's size where it is not the logits' own: student and teacher are compared at one size.
    """
    height, width = size or logits.shape[-2:]
    growth = max(1.0, MIN_SIDE / min(height, width))
    target = [round(height * growth), round(width * growth)]
    # Probabilities are resized, not logits: between two positions they still sum to 1.
    probability = torch.softmax(logits.float(), dim=1)
    if list(probability.shape[-2:]) != target:
        probability = F.interpolate(probability, size=target, mode="bilinear", align_corners=False)
    # An image is larger than the maps: without antialiasing most of its pixels would not be seen.
    small = F.interpolate(image.float(), size=target, mode="bilinear", align_corners=False, antialias=True)
    return torch.cat([small / 127.5 - 1, probability], dim=1)
