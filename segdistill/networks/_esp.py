"""The blocks of ESPNet (Mehta et al., ECCV 2018): pyramids of dilated convolutions, with the authors' tensor names."""

from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segdistill.networks._layers import named_sequential

DILATIONS = (1, 2, 4, 8, 16)
BLOCK_CHANNELS = 16
"""Channels that onnxruntime works on at a time; with other numbers it makes matrices first, which takes longer."""
BATCH_NORM_EPS = 1e-3
"""Epsilon of batch norm in the authors' code; torch's default is 1e-5."""


class Pyramid(nn.Module):
    """Reduced maps seen by five dilated convolutions at once; sums of all up to each dilation avoid its grid."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        width = outputs // len(DILATIONS)
        self.width = width
        self.c1 = conv(inputs, width, kernel, stride=stride)
        # The first has what the division leaves over.
        self.d1 = conv(width, outputs - 4 * width, 3)
        self.d2 = conv(width, width, 3, dilation=2)
        self.d4 = conv(width, width, 3, dilation=4)
        self.d8 = conv(width, width, 3, dilation=8)
        self.d16 = conv(width, width, 3, dilation=16)

    def merged(self, x: Tensor) -> Tensor:
        """Map (B, inputs, h, w) to (B, outputs, h / stride, w / stride), rounded up."""
        reduced = self.c1(x)
        dilated = (convolution(reduced) for convolution in (self.d2, self.d4, self.d8, self.d16))
        return torch.cat([self.d1(reduced), *accumulate(dilated)], dim=1)

    def align(self) -> None:
        """Bring the reduced maps to a multiple of `BLOCK_CHANNELS`; the channels that are added are zero."""
        missing = -self.width % BLOCK_CHANNELS
        _widen(self.c1[0], outputs=missing)
        for dilated in (self.d1, self.d2, self.d4, self.d8, self.d16):
            _widen(dilated[0], inputs=missing)


class Downsampling(Pyramid):
    """A pyramid that halves the size."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, kernel=3, stride=2)
        self.bn = norm(outputs)
        self.act = nn.PReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, h, w) to (B, outputs, h / 2, w / 2), rounded up."""
        out: Tensor = self.act(self.bn(self.merged(x)))
        return out


class ESP(Pyramid):
    """A pyramid at one size, added to its input where that has as many channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, kernel=1, stride=1)
        self.bn = norm_act(outputs)
        self.residual = inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, h, w) to (B, outputs, h, w)."""
        merged = self.merged(x)
        if self.residual:
            merged = x + merged
        out: Tensor = self.bn(merged)
        return out


def align_pyramids(network: nn.Module) -> None:
    """Align all pyramids in a network, or a part of one, that is going to be exported."""
    for module in network.modules():
        if isinstance(module, Pyramid):
            module.align()


def conv(inputs: int, outputs: int, kernel: int, *, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Return a convolution that keeps the size at stride 1."""
    convolution = nn.Conv2d(
        inputs,
        outputs,
        kernel,
        stride=stride,
        padding=kernel // 2 * dilation,
        dilation=dilation,
        bias=False,
    )
    return named_sequential(conv=convolution)


def norm(channels: int) -> nn.BatchNorm2d:
    """Return batch norm as the authors have it."""
    return nn.BatchNorm2d(channels, eps=BATCH_NORM_EPS)


def norm_act(channels: int) -> nn.Sequential:
    """Return batch norm and PReLU."""
    return named_sequential(bn=norm(channels), act=nn.PReLU(channels))


def conv_norm_act(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    """Return a 3x3 convolution, batch norm and PReLU."""
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return named_sequential(conv=convolution, bn=norm(outputs), act=nn.PReLU(outputs))


def _widen(conv: nn.Module, *, inputs: int = 0, outputs: int = 0) -> None:
    """Give a convolution so many channels more, whose weights are 0."""
    assert isinstance(conv, nn.Conv2d)
    added = (0, 0, 0, 0, 0, inputs, 0, outputs)  # behind the last of each axis, from the last axis to the first
    conv.weight = nn.Parameter(F.pad(conv.weight.detach(), added))
    conv.in_channels += inputs
    conv.out_channels += outputs
