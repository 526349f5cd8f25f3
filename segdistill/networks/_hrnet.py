"""HRNet (Wang et al., "Deep High-Resolution Representation Learning for Visual Recognition", TPAMI 2021).

Structure and tensor names are those of the authors' code, HRNet/HRNet-Semantic-Segmentation, branch HRNet-OCR, with
its corner-aligned upsampling. Weights are drawn as in their HRNet-Image-Classification.
"""

from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segdistill.networks._base import SegNetwork
from segdistill.networks._layers import resize_like
from segdistill.networks._resnet import BasicBlock, Bottleneck

STEM_WIDTH = 64
"""Channels of the first two convolutions, and of the 3x3 convolutions of stage 1."""

MODULES = (1, 4, 3)
"""Exchanges in stages 2, 3 and 4."""


class HRNet(SegNetwork):
    """A network whose branches at 1/4, 1/8, 1/16 and 1/32 run side by side and exchange what they see."""

    def __init__(self, width: int, num_classes: int, in_channels: int) -> None:
        super().__init__(num_classes, in_channels)
        self.channels = (width, 2 * width, 4 * width, 8 * width)
        self.conv1 = nn.Conv2d(in_channels, STEM_WIDTH, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM_WIDTH)
        self.conv2 = nn.Conv2d(STEM_WIDTH, STEM_WIDTH, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(STEM_WIDTH)
        outputs = STEM_WIDTH * Bottleneck.expansion
        self.layer1 = nn.Sequential(
            Bottleneck(STEM_WIDTH, STEM_WIDTH),
            Bottleneck(outputs, STEM_WIDTH),
            Bottleneck(outputs, STEM_WIDTH),
            Bottleneck(outputs, STEM_WIDTH),
        )
        # Into stage 2 each branch needs a convolution; into stages 3 and 4 only the one that is new.
        down = _strided_chain(outputs, self.channels[1], halvings=1, relu=True)
        self.transition1 = nn.ModuleList([_conv(outputs, width, 3, relu=True), down])
        self.transition2 = self._transition(2)
        self.transition3 = self._transition(3)
        self.stage2 = self._stage(branches=2, modules=MODULES[0])
        self.stage3 = self._stage(branches=3, modules=MODULES[1])
        self.stage4 = self._stage(branches=4, modules=MODULES[2])

    def _transition(self, branches: int) -> nn.ModuleList:
        """Return what makes one branch more of so many."""
        new = _strided_chain(self.channels[branches - 1], self.channels[branches], halvings=1, relu=True)
        return nn.ModuleList([*(nn.Identity() for _ in range(branches)), new])

    def _stage(self, *, branches: int, modules: int) -> nn.Sequential:
        return nn.Sequential(*(Exchange(self.channels[:branches]) for _ in range(modules)))

    def branches(self, image: Tensor) -> list[Tensor]:
        """Return the four branches' maps of normalized images (B, in_channels, H, W)."""
        x = F.relu(self.bn1(self.conv1(image)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        one_branch = [self.layer1(x)]
        two_branches = self.stage2(_with_new_branch(self.transition1, one_branch))
        three_branches = self.stage3(_with_new_branch(self.transition2, two_branches))
        four_branches: list[Tensor] = self.stage4(_with_new_branch(self.transition3, three_branches))
        return four_branches


def _with_new_branch(transition: nn.ModuleList, maps: list[Tensor]) -> list[Tensor]:
    """Return the maps of one branch more: the new one comes from the deepest."""
    sources = [*maps, maps[-1]]
    return [convert(source) for convert, source in zip(transition, sources, strict=True)]


class Exchange(nn.Module):
    """Four basic blocks in each branch; then each branch becomes the sum of all, brought to its size."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        branches = []
        for width in channels:
            blocks = [BasicBlock(width, width) for _ in range(4)]
            branches.append(nn.Sequential(*blocks))
        self.branches = nn.ModuleList(branches)
        fusions = []
        for target in range(len(channels)):
            sources = [_fusion(channels, source, target) for source in range(len(channels))]
            fusions.append(nn.ModuleList(sources))
        self.fuse_layers = nn.ModuleList(fusions)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Return maps of the same shapes."""
        maps = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        fused = []
        for target, layers in enumerate(self.fuse_layers):
            parts = [layer(x) for layer, x in zip(layers.children(), maps, strict=True)]
            # Larger branches were strided down to the target's size; those behind it are smaller.
            for source in range(target + 1, len(parts)):
                parts[source] = resize_like(parts[source], maps[target], align_corners=True)
            fused.append(F.relu(reduce(torch.add, parts)))
        return fused


def _fusion(channels: tuple[int, ...], source: int, target: int) -> nn.Module:
    """Return what brings a branch to the channels of another one and, where that is smaller, to its size."""
    if source == target:
        return nn.Identity()
    if source > target:
        return _conv(channels[source], channels[target], 1, relu=False)
    return _strided_chain(channels[source], channels[target], halvings=target - source, relu=False)


def _strided_chain(inputs: int, outputs: int, *, halvings: int, relu: bool) -> nn.Sequential:
    """Return strided convolutions of which only the last changes the channels, and may lack the ReLU."""
    # As in the authors' code, which widens as late as it can.
    first = [_conv(inputs, inputs, 3, stride=2, relu=True) for _ in range(halvings - 1)]
    return nn.Sequential(*first, _conv(inputs, outputs, 3, stride=2, relu=relu))


def _conv(inputs: int, outputs: int, kernel: int, *, stride: int = 1, relu: bool) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
    layers = [conv, nn.BatchNorm2d(outputs)]
    # None before a sum, after which there is one.
    if relu:
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)
