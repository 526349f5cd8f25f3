"""MobileNetV2Plus (Huijun Liu, LightNet, 2018): the largest of Liu et al. 2019's light students.

From github.com/ansleliu/LightNet (models/mobilenetv2plus.py), whose blocks are also in the code of Liu et al. 2019. All
groups of a MobileNetV2 of stride 8 are excited by channel and by position, brought together by ASPP, enlarged, and
joined by those of stride 2 and 4. The original has 8.301 M parameters with 19 classes and this one 8.300 M, because
torchvision's backbone, whose ImageNet weights fit, has no 1x1 convolution before its first depthwise one. Two slips are
not repeated, zeros that a padded 1x1 convolution puts around the map, and a fixed image size: maps are pooled with
padding here (as in LightNet++), so that they fit at any size.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segdistill.config.schema import NetworkConfig
from segdistill.networks._base import SegNetwork
from segdistill.networks._layers import resize_like
from segdistill.networks._mobilenet import MobileNetV2
from segdistill.types import SegOutput

BACKBONES = ("",)
STRIDES = (8,)
OPTIONS = ("dropout",)
STEPS = ((1, 1, 1), (2, 1, 1), (2, 1, 1), (1, 2, 2), (1, 4, 4), (1, 8, 8), (1, 16, 16))
"""Strides and dilations of the backbone's groups, as in `V2_STEPS`: the dilation doubles with each group."""
RATES = (12, 24, 36)
WIDTH = 256
"""Channels of the context."""
REDUCTION = 16
"""Ratio of channels to those that weigh them."""


def build(config: NetworkConfig, num_classes: int, in_channels: int) -> SegNetwork:
    """Build the network."""
    return MobileNetV2Plus(config, num_classes, in_channels)


class MobileNetV2Plus(SegNetwork):
    """A backbone, ASPP and a decoder; logits at stride 4, without an auxiliary head."""

    backbone: MobileNetV2

    def __init__(self, config: NetworkConfig, num_classes: int, in_channels: int) -> None:
        super().__init__(num_classes, in_channels)
        self.backbone = MobileNetV2(STEPS, in_channels=in_channels)
        first, second, *_ = self.backbone.channels
        concatenated = sum(self.backbone.channels)
        joined = WIDTH + first + second
        self.excite = Excitation(concatenated)
        self.context = Context(concatenated, config.dropout_or(0.1))
        self.excite_joined = Excitation(joined)
        smooth = nn.Conv2d(joined, joined, 3, padding=2, dilation=2, bias=False)
        self.refine = nn.Sequential(*norm_leaky_relu(joined), smooth, *norm_leaky_relu(joined))
        self.classifier = nn.Conv2d(joined, num_classes, 1)

    def segment(self, image: Tensor) -> SegOutput:
        """Return logits at stride 4; the features are the backbone's seven and what feeds the classifier."""
        maps = self.backbone(image)
        half, quarter, *deep = maps
        # The maps of stride 2 and 4 join twice: among all others at stride 8, and as they are at stride 4.
        shallow = halve(half)
        excited = self.excite(torch.cat([*deep, halve(shallow), halve(quarter)], dim=1))
        context = resize_like(self.context(excited), quarter, align_corners=self.align_corners)
        joined = self.excite_joined(torch.cat([context, quarter, shallow], dim=1))
        refined = self.refine(joined)
        logits = self.classifier(refined)
        return SegOutput(logits, (*maps, refined), None)


class Excitation(nn.Module):
    """Weighs channels by their means, and positions by their channels (Roy et al., MICCAI 2018); the sum of both."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        reduced = channels // REDUCTION
        self.channel = nn.Sequential(
            nn.Conv2d(channels, reduced, 1),
            nn.ReLU(),
            nn.Conv2d(reduced, channels, 1),
        )
        self.position = nn.Conv2d(channels, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, h, w) to the same shape."""
        channel_weights = self.channel(x.mean(dim=(2, 3), keepdim=True)).sigmoid()
        position_weights = self.position(x).sigmoid()
        weights: Tensor = channel_weights + position_weights
        return x * weights


class Context(nn.Module):
    """ASPP with batch norm before the convolutions instead of after each."""

    def __init__(self, inputs: int, dropout: float) -> None:
        super().__init__()
        self.norm = norm_leaky_relu(inputs)
        self.pool = nn.Conv2d(inputs, WIDTH, 1, bias=False)
        branches = [nn.Conv2d(inputs, WIDTH, 1, bias=False)]
        branches += [nn.Conv2d(inputs, WIDTH, 3, padding=rate, dilation=rate, bias=False) for rate in RATES]
        self.branches = nn.ModuleList(branches)
        concatenated = (len(branches) + 1) * WIDTH
        reduce = nn.Conv2d(concatenated, WIDTH, 1, bias=False)
        self.project = nn.Sequential(*norm_leaky_relu(concatenated), reduce, nn.Dropout2d(dropout))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, h, w) to (B, WIDTH, h, w)."""
        x = self.norm(x)
        mean = self.pool(x.mean(dim=(2, 3), keepdim=True))
        mean = resize_like(mean, x, align_corners=False)
        branches = [branch(x) for branch in self.branches]
        projected: Tensor = self.project(torch.cat([mean, *branches], dim=1))
        return projected


def norm_leaky_relu(channels: int) -> nn.Sequential:
    """Return batch norm and the leaky ReLU that in-place batch norm comes with."""
    return nn.Sequential(nn.BatchNorm2d(channels), nn.LeakyReLU(0.01, inplace=True))


def halve(x: Tensor) -> Tensor:
    """Return the maxima of 3x3 positions at half the size."""
    return F.max_pool2d(x, 3, stride=2, padding=1)
