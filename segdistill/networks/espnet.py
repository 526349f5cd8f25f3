"""ESPNet and ESPNet-C (Mehta et al., "ESPNet: Efficient Spatial Pyramid of Dilated Convolutions", ECCV 2018).

Structure and tensor names are those of the authors' code, sacmehta/ESPNet. ESPNet-C is the encoder alone, with logits
at 1/8; ESPNet adds a decoder, with logits at the image's size. Two ESP blocks refine 1/4 (the paper's p) and eight 1/8
(q), or as many as the variants q3 and q5 say. The strides are fixed, and there is neither dropout nor an auxiliary
head.

The authors' decoder has two forms. Their CamVid network's sees level 1 together with the image and after b1, as that of
Liu et al. 2019 does; their Cityscapes networks' sees level 1 alone and before b1 (test/Model.py).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from segdistill.config.schema import NetworkConfig
from segdistill.errors import UsageError
from segdistill.networks._base import SegNetwork
from segdistill.networks._esp import (
    DILATIONS,
    ESP,
    Downsampling,
    align_pyramids,
    conv,
    conv_norm_act,
    norm,
    norm_act,
)
from segdistill.types import SegOutput

P = 2
"""ESP blocks that refine 1/4."""
Q = 8
"""ESP blocks that refine 1/8, unless the variant says otherwise."""
Q_BY_VARIANT = {"q3": 3, "q5": 5}
BACKBONES = ("", "q3", "q5", "c", "c-q3", "c-q5")
STRIDES = (8,)
OPTIONS = ("skip",)
"""Options of the variants with a decoder."""
LEVEL1_WIDTH = 16
"""Channels of the first convolution."""


def build(config: NetworkConfig, num_classes: int, in_channels: int) -> SegNetwork:
    """Build the network that `config.network` names in full, such as espnet or espnet-c.

    Raises:
        UsageError: if an ESPNet-C is to have something about the decoder.
    """
    _, *variant = config.network.split("-")
    q = Q
    for part in variant:
        q = Q_BY_VARIANT.get(part, q)
    if "c" not in variant:
        return ESPNet(num_classes, in_channels, q=q, raw_skip=config.skip == "raw")
    if config.skip is not None:
        raise UsageError(f"{config.network} cannot be built so: skip: it has no decoder.", "Leave that out.")
    return ESPNetC(num_classes, in_channels, q=q)


class Levels(NamedTuple):
    """The encoder's outputs for RGB images (B, 3, H, W)."""

    raw: Tensor
    """(B, 16, H / 2, W / 2): the first level before the image joins it."""
    first: Tensor
    """(B, 19, H / 2, W / 2)"""
    second: Tensor
    """(B, 131, H / 4, W / 4)"""
    third: Tensor
    """(B, 256, H / 8, W / 8)"""


class ESPNetC(SegNetwork):
    """The encoder: three levels, each of which also sees what the level before it saw and the image itself."""

    def __init__(self, num_classes: int, in_channels: int = 3, *, q: int = Q) -> None:
        super().__init__(num_classes, in_channels)
        first_width = LEVEL1_WIDTH + in_channels
        second_width = 128 + in_channels
        self.level1 = conv_norm_act(in_channels, LEVEL1_WIDTH, stride=2)
        self.b1 = norm_act(first_width)
        self.level2_0 = Downsampling(first_width, 64)
        self.level2 = nn.Sequential(*(ESP(64, 64) for _ in range(P)))
        self.b2 = norm_act(second_width)
        self.level3_0 = Downsampling(second_width, 128)
        self.level3 = nn.Sequential(*(ESP(128, 128) for _ in range(q)))
        self.b3 = norm_act(256)
        self.classifier = conv(256, num_classes, 1)
        self.halved: nn.Module = nn.AvgPool2d(3, stride=2, padding=1)

    def prepare_for_export(self) -> None:
        """Have whole blocks of channels where convolutions meet, and average by a convolution."""
        super().prepare_for_export()
        align_pyramids(self)
        channels = self.mean.shape[1]
        averaging = nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=False).to(self.mean)
        with torch.no_grad():
            averaging.weight.copy_(torch.eye(channels)[:, :, None, None]).div_(9)
        self.halved = averaging

    def segment(self, image: Tensor) -> SegOutput:
        """Return logits at 1/8; the features are the three levels."""
        levels = self.levels(image)
        logits = self.classifier(levels.third)
        return SegOutput(logits, (levels.first, levels.second, levels.third), None)

    def levels(self, image: Tensor) -> Levels:
        """Return the levels at 1/2, 1/4 and 1/8."""
        half = self.halved(image)
        quarter = self.halved(half)
        raw = self.level1(image)
        first = self.b1(torch.cat([raw, half], dim=1))
        down = self.level2_0(first)
        second = self.b2(torch.cat([self.level2(down), down, quarter], dim=1))
        down = self.level3_0(second)
        third = self.b3(torch.cat([down, self.level3(down)], dim=1))
        return Levels(raw, first, second, third)


class ESPNet(SegNetwork):
    """ESPNet-C and a decoder that has as many channels as there are classes, but at least the five of an ESP block."""

    def __init__(self, num_classes: int, in_channels: int = 3, *, q: int = Q, raw_skip: bool = False) -> None:
        super().__init__(num_classes, in_channels)
        width = max(num_classes, len(DILATIONS))  # an ESP block divides its channels among its dilations
        self.raw_skip = raw_skip
        self.encoder = ESPNetC(width, in_channels, q=q)
        self.level3_C = conv(128 + in_channels, width, 1)  # what is at 1/4, whatever the name says
        self.br = norm(width)
        skip_width = LEVEL1_WIDTH if raw_skip else LEVEL1_WIDTH + in_channels
        self.conv = conv_norm_act(skip_width + width, width)
        self.up_l3 = nn.Sequential(_doubling(width, width))
        self.combine_l2_l3 = nn.Sequential(norm_act(2 * width), ESP(2 * width, width))
        self.up_l2 = nn.Sequential(_doubling(width, width), norm_act(width))
        self.classifier = _doubling(width, num_classes)

    def prepare_for_export(self) -> None:
        """Have whole blocks of channels, as the encoder."""
        super().prepare_for_export()
        self.encoder.prepare_for_export()
        align_pyramids(self.combine_l2_l3)

    def segment(self, image: Tensor) -> SegOutput:
        """Return logits at the image's size; the features are the three levels and what the classifier doubles."""
        raw, first, second, third = self.encoder.levels(image)
        deep = self.up_l3(self.br(self.encoder.classifier(third)))
        deep = _cropped_like(deep, second)
        combined = self.combine_l2_l3(torch.cat([self.level3_C(second), deep], dim=1))
        skipped = raw if self.raw_skip else first
        enlarged = _cropped_like(self.up_l2(combined), skipped)
        last = self.conv(torch.cat([enlarged, skipped], dim=1))
        logits = _cropped_like(self.classifier(last), image)
        return SegOutput(logits, (first, second, third, last), None)


def _doubling(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(inputs, outputs, 2, stride=2, bias=False)


def _cropped_like(x: Tensor, like: Tensor) -> Tensor:
    """Return a doubled map without the row and the column by which it is too large at odd height or width."""
    return x[..., : like.shape[-2], : like.shape[-1]]
