"""ESPNet and ESPNet-C (Mehta et al., "ESPNet: Efficient Spatial Pyramid of Dilated Convolutions", ECCV 2018).

Structure and tensor names are those of the authors' code, sacmehta/ESPNet. ESPNet-C is the encoder alone, with logits
at 1/8; ESPNet adds a decoder, with logits at the image's size. Two ESP blocks refine 1/4 (the paper's p) and eight 1/8
(q), or as many as the variants q3 and q5 say. The strides are fixed, and there is neither dropout nor an auxiliary
head.

The authors' decoder has two forms. Their CamVid network's sees level 1 together with the image and after b1, as that of
Liu et al. 2019 does; their Cityscapes networks' sees level 1 alone and before b1 (test/Model.py).
"""

from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segdistill.config import NetworkConfig
from segdistill.errors import UsageError
from segdistill.networks._base import SegNetwork
from segdistill.networks._named import named
from segdistill.types import SegOutput

P = 2
Q = 8
Q_BY_VARIANT = {"q3": 3, "q5": 5}
"""ESP blocks that refine 1/4 and 1/8; of 1/8 some variants have fewer."""
BACKBONES = ("", "q3", "q5", "c", "c-q3", "c-q5")
STRIDES = (8,)
OPTIONS = ("skip",)
"""Of those with a decoder."""


def build(config: NetworkConfig, num_classes: int, in_channels: int) -> SegNetwork:
    """Build the network that `config.network` names in full, such as espnet or espnet-c.

    Raises:
        UsageError: if an ESPNet-C is to have something about the decoder.
    """
    _, *variant = config.network.split("-")
    q = next((Q_BY_VARIANT[part] for part in variant if part in Q_BY_VARIANT), Q)
    if "c" in variant:
        if config.skip is not None:
            raise UsageError(f"{config.network} cannot be built so: skip: it has no decoder.", "Leave that out.")
        return ESPNetC(num_classes, in_channels, q=q)
    return ESPNet(num_classes, in_channels, q=q, raw_skip=config.skip == "raw")


class Levels(NamedTuple):
    """What the encoder computes of RGB images (B, 3, H, W)."""

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
        self.level1 = _conv_norm_act(in_channels, 16, 2)
        self.b1 = _norm_act(16 + in_channels)
        self.level2_0 = Downsampling(16 + in_channels, 64)
        self.level2 = nn.Sequential(*(ESP(64, 64) for _ in range(P)))
        self.b2 = _norm_act(128 + in_channels)
        self.level3_0 = Downsampling(128 + in_channels, 128)
        self.level3 = nn.Sequential(*(ESP(128, 128) for _ in range(q)))
        self.b3 = _norm_act(256)
        self.classifier = _conv(256, num_classes, 1)
        self.halved: nn.Module = nn.AvgPool2d(3, stride=2, padding=1)

    def ship(self) -> None:
        """Have whole blocks of channels where convolutions meet, and average by a convolution."""
        super().ship()
        for module in self.modules():
            if isinstance(module, Pyramid):
                module.align()
        channels = self.mean.shape[1]
        self.halved = nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=False).to(self.mean)
        with torch.no_grad():
            self.halved.weight.copy_(torch.eye(channels)[:, :, None, None]).div_(9)

    def segment(self, image: Tensor) -> SegOutput:
        """Return logits at 1/8; the features are the three levels."""
        levels = self.levels(image)
        return SegOutput(self.classifier(levels.third), (levels.first, levels.second, levels.third), None)

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
        width = max(num_classes, len(DILATIONS))
        self.raw_skip = raw_skip
        self.encoder = ESPNetC(width, in_channels, q=q)
        self.level3_C = _conv(128 + in_channels, width, 1)  # what is at 1/4, whatever the name says
        self.br = _norm(width)
        skipped = 16 if raw_skip else 16 + in_channels
        self.conv = _conv_norm_act(skipped + width, width, 1)
        self.up_l3 = nn.Sequential(_doubling(width, width))
        self.combine_l2_l3 = nn.Sequential(_norm_act(2 * width), ESP(2 * width, width))
        self.up_l2 = nn.Sequential(_doubling(width, width), _norm_act(width))
        self.classifier = _doubling(width, num_classes)

    def ship(self) -> None:
        """As the encoder does."""
        super().ship()
        self.encoder.ship()
        for module in self.combine_l2_l3:
            if isinstance(module, Pyramid):
                module.align()

    def segment(self, image: Tensor) -> SegOutput:
        """Return logits at the image's size; the features are the three levels and what the classifier doubles."""
        raw, first, second, third = self.encoder.levels(image)
        deep = _as_large_as(second, self.up_l3(self.br(self.encoder.classifier(third))))
        combined = self.combine_l2_l3(torch.cat([self.level3_C(second), deep], dim=1))
        skipped = raw if self.raw_skip else first
        last = self.conv(torch.cat([_as_large_as(skipped, self.up_l2(combined)), skipped], dim=1))
        return SegOutput(_as_large_as(image, self.classifier(last)), (first, second, third, last), None)


DILATIONS = (1, 2, 4, 8, 16)
BLOCK = 16
"""Channels that onnxruntime works on at a time; with other numbers it makes matrices first, which takes longer."""


class Pyramid(nn.Module):
    """Reduced maps seen by five dilated convolutions at once; sums of all up to each dilation avoid its grid."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.width = width = outputs // len(DILATIONS)
        self.c1 = _conv(inputs, width, kernel, stride)
        self.d1 = _conv(width, outputs - 4 * width, 3)
        self.d2 = _conv(width, width, 3, dilation=2)
        self.d4 = _conv(width, width, 3, dilation=4)
        self.d8 = _conv(width, width, 3, dilation=8)
        self.d16 = _conv(width, width, 3, dilation=16)

    def merged(self, x: Tensor) -> Tensor:
        """Map (B, inputs, h, w) to (B, outputs, h / stride, w / stride), rounded up."""
        reduced = self.c1(x)
        dilated = (convolution(reduced) for convolution in (self.d2, self.d4, self.d8, self.d16))
        return torch.cat([self.d1(reduced), *accumulate(dilated)], dim=1)

    def align(self) -> None:
        """Bring the reduced maps to a multiple of `BLOCK` channels; those that are added are nothing."""
        more = -self.width % BLOCK
        _widen(self.c1[0], outputs=more)
        for dilated in (self.d1, self.d2, self.d4, self.d8, self.d16):
            _widen(dilated[0], inputs=more)


class Downsampling(Pyramid):
    """A pyramid that halves the size."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, kernel=3, stride=2)
        self.bn = _norm(outputs)
        self.act = nn.PReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, h, w) to (B, outputs, h / 2, w / 2), rounded up."""
        out: Tensor = self.act(self.bn(self.merged(x)))
        return out


class ESP(Pyramid):
    """A pyramid at one size, added to its input where that has as many channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, kernel=1, stride=1)
        self.bn = _norm_act(outputs)
        self.residual = inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, h, w) to (B, outputs, h, w)."""
        merged = self.merged(x)
        out: Tensor = self.bn(x + merged if self.residual else merged)
        return out


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    padding = kernel // 2 * dilation
    return named(conv=nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False))


def _widen(conv: nn.Module, *, inputs: int = 0, outputs: int = 0) -> None:
    """Give a convolution so many channels more, whose weights are 0."""
    assert isinstance(conv, nn.Conv2d)
    conv.weight = nn.Parameter(F.pad(conv.weight.detach(), (0, 0, 0, 0, 0, inputs, 0, outputs)))
    conv.in_channels += inputs
    conv.out_channels += outputs


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


def _norm_act(channels: int) -> nn.Sequential:
    return named(bn=_norm(channels), act=nn.PReLU(channels))


def _conv_norm_act(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return named(conv=conv, bn=_norm(outputs), act=nn.PReLU(outputs))


def _doubling(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(inputs, outputs, 2, stride=2, bias=False)


def _as_large_as(like: Tensor, x: Tensor) -> Tensor:
    """Cut off the row and the column by which a doubled map of odd height or width is too large."""
    return x[..., : like.shape[-2], : like.shape[-1]]
