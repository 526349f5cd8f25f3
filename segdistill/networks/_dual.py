"""What DDRNet and PIDNet share: residual stages that end before the ReLU, a pyramid of averages, and a head.

Tensor names are those of ydhongHIT/DDRNet and XuJiacong/PIDNet.
"""

from abc import ABC, abstractmethod
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segdistill.networks._base import enlarged
from segdistill.networks._resnet import BasicBlock, Bottleneck

at_size = partial(enlarged, align_corners=False)
"""Returns its first argument at the size of its second."""


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


def open_block(inputs: int, width: int) -> OpenBasicBlock:
    """Return one basic block without its last ReLU."""
    return OpenBasicBlock(inputs, width, 1, 1, 1)


def stage(inputs: int, width: int, blocks: int, stride: int = 1) -> nn.Sequential:
    """Return basic blocks of which the first strides and the last has no ReLU."""
    first = BasicBlock(inputs, width, stride, 1, 1)
    middle = (BasicBlock(width, width, 1, 1, 1) for _ in range(blocks - 2))
    return nn.Sequential(first, *middle, open_block(width, width))


def bottlenecks(inputs: int, width: int, blocks: int, stride: int = 1) -> nn.Sequential:
    """Return bottlenecks of which the first strides and none has a last ReLU."""
    first = OpenBottleneck(inputs, width, stride, 1, 1)
    return nn.Sequential(first, *(OpenBottleneck(2 * width, width, 1, 1, 1) for _ in range(blocks - 1)))


def stem(inputs: int, width: int) -> nn.Sequential:
    """Return two strided convolutions, to 1/4."""
    layers = ((nn.Conv2d(i, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)) for i in (inputs, width))
    return nn.Sequential(*(layer for convolution in layers for layer in convolution))


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Return a convolution and its batch norm."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


def norm_relu_conv(inputs: int, outputs: int, kernel: int = 1, groups: int = 1) -> nn.Sequential:
    """Return batch norm, ReLU and a convolution, in this order."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(inplace=True), conv)


class AveragePyramid(nn.Module, ABC):
    """Averages over ever larger squares, and over the image, fused with the map itself."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.scale1 = nn.Sequential(nn.AvgPool2d(5, 2, 2), *norm_relu_conv(inputs, width))
        self.scale2 = nn.Sequential(nn.AvgPool2d(9, 4, 4), *norm_relu_conv(inputs, width))
        self.scale3 = nn.Sequential(nn.AvgPool2d(17, 8, 8), *norm_relu_conv(inputs, width))
        self.scale4 = nn.Sequential(nn.AdaptiveAvgPool2d(1), *norm_relu_conv(inputs, width))
        self.scale0 = norm_relu_conv(inputs, width)
        self.compression = norm_relu_conv(5 * width, outputs)
        self.shortcut = norm_relu_conv(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, h, w) to (B, outputs, h, w)."""
        first = self.scale0(x)
        scales = (self.scale1, self.scale2, self.scale3, self.scale4)
        pooled = self.processed(first, [at_size(scale(x), x) for scale in scales])
        out: Tensor = self.compression(torch.cat([first, *pooled], dim=1)) + self.shortcut(x)
        return out

    @abstractmethod
    def processed(self, first: Tensor, pooled: list[Tensor]) -> list[Tensor]:
        """Return maps with 4 * width channels together, of the map itself and the four pooled ones, width each."""


class SegmentationHead(nn.Module):
    """A 3x3 convolution and the 1x1 classifier, each after batch norm and ReLU."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, outputs, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the classifier is given, (B, width, h, w), and the logits."""
        feature = F.relu(self.bn2(self.conv1(F.relu(self.bn1(x)))))
        return feature, self.conv2(feature)
