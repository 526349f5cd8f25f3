"""HRNet (Wang et al., "Deep High-Resolution Representation Learning for Visual Recognition", TPAMI 2021).

Structure and tensor names are those of the authors' code, HRNet/HRNet-Semantic-Segmentation, branch HRNet-OCR, with
its corner-aligned upsampling. Weights are drawn as in their HRNet-Image-Classification.
"""

from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segdistill.networks._base import SegNetwork, enlarged
from segdistill.networks._resnet import BasicBlock, Bottleneck

MODULES = (1, 4, 3)
"""Of stages 2, 3 and 4, which have as many branches as their number says."""


class HRNet(SegNetwork):
    """A network whose branches at 1/4, 1/8, 1/16 and 1/32 run side by side and exchange what they see."""

    def __init__(self, width: int, num_classes: int, in_channels: int) -> None:
        super().__init__(num_classes, in_channels)
        self.channels = tuple(width * 2**i for i in range(4))
        self.conv1 = nn.Conv2d(in_channels, 64, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = nn.Conv2d(64, 64, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(*(Bottleneck(256 if i else 64, 64, 1, 1, 1) for i in range(4)))
        # Into stage 2 each branch needs a convolution; into stages 3 and 4 only the one that is new.
        down = _chain(256, self.channels[1], 1, relu=True)
        self.transition1 = nn.ModuleList([_conv(256, width, 3, 1, relu=True), down])
        self.transition2 = self._transition(2)
        self.transition3 = self._transition(3)
        self.stage2, self.stage3, self.stage4 = (
            nn.Sequential(*(Exchange(self.channels[:branches]) for _ in range(modules)))
            for branches, modules in enumerate(MODULES, start=2)
        )

    def _transition(self, branches: int) -> nn.ModuleList:
        new = _chain(self.channels[branches - 1], self.channels[branches], 1, relu=True)
        return nn.ModuleList([*(nn.Identity() for _ in range(branches)), new])

    def branches(self, image: Tensor) -> list[Tensor]:
        """Return the four branches' maps of normalised images (B, in_channels, H, W)."""
        x = F.relu(self.bn1(self.conv1(image)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        maps = [self.layer1(x)]
        for transition, stage in (
            (self.transition1, self.stage2),
            (self.transition2, self.stage3),
            (self.transition3, self.stage4),
        ):
            sources = [*maps, maps[-1]]
            maps = stage([convert(source) for convert, source in zip(transition, sources, strict=True)])
        return maps


class Exchange(nn.Module):
    """Four basic blocks in each branch; then each branch becomes the sum of all, brought to its size."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(BasicBlock(width, width, 1, 1, 1) for _ in range(4))) for width in channels
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_fusion(channels, source, target) for source in range(len(channels)))
            for target in range(len(channels))
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Return maps of the shapes given."""
        maps = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        out = []
        for target, layers in enumerate(self.fuse_layers):
            parts = [layer(x) for layer, x in zip(layers.children(), maps, strict=True)]
            larger = (enlarged(part, maps[target], align_corners=True) for part in parts[target + 1 :])
            out.append(F.relu(reduce(torch.add, [*parts[: target + 1], *larger])))
        return out


def _fusion(channels: tuple[int, ...], source: int, target: int) -> nn.Module:
    if source == target:
        return nn.Identity()
    if source > target:
        return _conv(channels[source], channels[target], 1, 1, relu=False)
    return _chain(channels[source], channels[target], target - source, relu=False)


def _chain(inputs: int, outputs: int, halvings: int, *, relu: bool) -> nn.Sequential:
    """Return strided convolutions of which only the last changes the channels, and may lack the ReLU."""
    first = (_conv(inputs, inputs, 3, 2, relu=True) for _ in range(halvings - 1))
    return nn.Sequential(*first, _conv(inputs, outputs, 3, 2, relu=relu))


def _conv(inputs: int, outputs: int, kernel: int, stride: int, *, relu: bool) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    layers = [conv, nn.BatchNorm2d(outputs), *([nn.ReLU(inplace=True)] if relu else [])]
    return nn.Sequential(*layers)
