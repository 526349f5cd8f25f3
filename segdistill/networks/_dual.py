"""Parts that DDRNet and PIDNet share: residual stages that end before the ReLU, a pyramid of averages, and a head.

Tensor names are those of ydhongHIT/DDRNet and XuJiacong/PIDNet.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segdistill.networks._layers import resize_like
from segdistill.networks._resnet import BasicBlock, Bottleneck


class OpenBasicBlock(BasicBlock):
    """A basic block without its last ReLU, so that what is added next may be negative."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum (B, width, h, w)."""
        return self.sum(x)


class OpenBottleneck(Bottleneck):
    """A bottleneck without its last ReLU, and with half of ResNet's channels."""

    expansion = 2

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum (B, 2 * width, h, w)."""
        return self.sum(x)


def stage(inputs: int, width: int, *, blocks: int, stride: int = 1) -> nn.Sequential:
    """Return basic blocks of which the first strides and the last has no ReLU."""
    first = BasicBlock(inputs, width, stride=stride)
    middle = [BasicBlock(width, width) for _ in range(blocks - 2)]
    # Open, because the branches exchange sums that may be negative.
    return nn.Sequential(first, *middle, OpenBasicBlock(width, width))


def bottlenecks(inputs: int, width: int, *, blocks: int, stride: int = 1) -> nn.Sequential:
    """Return bottlenecks of which the first strides and none has a last ReLU."""
    first = OpenBottleneck(inputs, width, stride=stride)
    others = [OpenBottleneck(2 * width, width) for _ in range(blocks - 1)]
    return nn.Sequential(first, *others)


def stem(inputs: int, width: int) -> nn.Sequential:
    """Return two strided convolutions, to 1/4."""
    return nn.Sequential(
        nn.Conv2d(inputs, width, 3, stride=2, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 3, stride=2, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )


def conv_norm(inputs: int, outputs: int, kernel: int, *, stride: int = 1) -> nn.Sequential:
    """Return a convolution and its batch norm."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


def norm_relu_conv(inputs: int, outputs: int, kernel: int = 1, *, groups: int = 1) -> nn.Sequential:
    """Return batch norm, ReLU and a convolution, in this order."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(inplace=True), conv)


class AveragePyramid(nn.Module, ABC):
    """Averages over ever larger squares, and over the image, fused with the map itself."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.scale1 = _pooled_conv(inputs, width, nn.AvgPool2d(5, stride=2, padding=2))
        self.scale2 = _pooled_conv(inputs, width, nn.AvgPool2d(9, stride=4, padding=4))
        self.scale3 = _pooled_conv(inputs, width, nn.AvgPool2d(17, stride=8, padding=8))
        self.scale4 = _pooled_conv(inputs, width, nn.AdaptiveAvgPool2d(1))
        # The map itself, not pooled.
        self.scale0 = norm_relu_conv(inputs, width)
        self.compression = norm_relu_conv(5 * width, outputs)
        self.shortcut = norm_relu_conv(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, h, w) to (B, outputs, h, w)."""
        first = self.scale0(x)
        scales = (self.scale1, self.scale2, self.scale3, self.scale4)
        pooled = [resize_like(scale(x), x, align_corners=False) for scale in scales]
        processed = self.process(first, pooled)
        out: Tensor = self.compression(torch.cat([first, *processed], dim=1)) + self.shortcut(x)
        return out

    @abstractmethod
    def process(self, first: Tensor, pooled: list[Tensor]) -> list[Tensor]:
        """Return maps with 4 * width channels together, of the map itself and the four pooled ones, width each."""


def _pooled_conv(inputs: int, outputs: int, pool: nn.Module) -> nn.Sequential:
    # One flat row, as the published tensors are numbered.
    return nn.Sequential(pool, *norm_relu_conv(inputs, outputs))


class SegmentationHead(nn.Module):
    """A 3x3 convolution and the 1x1 classifier, each after batch norm and ReLU."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, outputs, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what feeds the classifier, (B, width, h, w), and the logits."""
        reduced = self.conv1(F.relu(self.bn1(x)))
        feature = F.relu(self.bn2(reduced))
        return feature, self.conv2(feature)
