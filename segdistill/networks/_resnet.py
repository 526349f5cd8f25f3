"""ResNet (He et al., CVPR 2016) with torchvision's tensor names, so that its ImageNet weights load as they are.

torchvision's own BasicBlock refuses dilation and another width, which students need. The deep stem is that of Zhao et
al. 2017, as Liu et al. 2019 and CIRKD have it: its tensors are called as in their checkpoints, and it has no weights in
torchvision.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from segdistill.config import NetworkConfig
from segdistill.networks._base import Backbone, draw_convolutions


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut; the stride is on the first."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, dilation: int, dilation_after: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(inputs, width, stride, dilation)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, width, 1, dilation_after)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output (B, width, h, w)."""
        return F.relu(self.sum(x), inplace=True)

    def sum(self, x: Tensor) -> Tensor:
        """Return the block's output before the ReLU."""
        out: Tensor = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return out


class Bottleneck(nn.Module):
    """A 3x3 convolution, with the stride (v1.5), between two 1x1 around a shortcut; nothing dilates after the 3x3."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, dilation: int, dilation_after: int) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, width, stride, dilation)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output (B, expansion * width, h, w)."""
        return F.relu(self.sum(x), inplace=True)

    def sum(self, x: Tensor) -> Tensor:
        """Return the block's output before the ReLU."""
        out: Tensor = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return out


VARIANTS: dict[str, tuple[type[BasicBlock | Bottleneck], tuple[int, int, int, int], int, str | None]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2), 64, "ResNet18_Weights.IMAGENET1K_V1"),
    "resnet18-half": (BasicBlock, (2, 2, 2, 2), 32, None),
    "resnet34": (BasicBlock, (3, 4, 6, 3), 64, "ResNet34_Weights.IMAGENET1K_V1"),
    "resnet50": (Bottleneck, (3, 4, 6, 3), 64, "ResNet50_Weights.IMAGENET1K_V1"),
    "resnet101": (Bottleneck, (3, 4, 23, 3), 64, "ResNet101_Weights.IMAGENET1K_V1"),
}
"""Block, blocks per stage, width of the first stage, and ImageNet weights: V1, trained as the papers' were."""

STRIDES = (8, 16, 32)
OPTIONS = ("stem", "dilation", "stem_pool")
"""What can be chosen about every network with a ResNet."""
STRIDES_AND_DILATIONS = {
    8: ((1, 2, 1, 1), (1, 1, 2, 4)),
    16: ((1, 2, 2, 1), (1, 1, 1, 2)),
    32: ((1, 2, 2, 2), (1, 1, 1, 1)),
}
"""Per output stride and stage: where stages 3 and 4 do not stride, they dilate by as much."""


def resnet(config: NetworkConfig, in_channels: int) -> "ResNet":
    """Build the ResNet that a network's full name ends in."""
    assert config.output_stride is not None, "resolved"
    name, deep, early = config.network.partition("-")[2], config.stem == "deep", config.dilation == "early"
    ceil = config.stem_pool == "ceil"
    return ResNet(name, config.output_stride, in_channels, deep_stem=deep, early_dilation=early, ceil_pool=ceil)


class ResNet(Backbone):
    """The four stages of a ResNet, without the classifier."""

    def __init__(
        self,
        name: str,
        output_stride: int,
        in_channels: int = 3,
        *,
        deep_stem: bool = False,
        early_dilation: bool = False,
        ceil_pool: bool = False,
    ) -> None:
        super().__init__()
        block, blocks, width, imagenet = VARIANTS[name]
        self.name = f"{name} with a deep stem" if deep_stem else name
        self.imagenet = None if deep_stem else imagenet
        self.channels = tuple(width * factor * block.expansion for factor in (1, 2, 4, 8))
        self.deep_stem = deep_stem
        if deep_stem:
            self.conv1 = _conv3x3(in_channels, width, 2, 1)
            self.conv2, self.bn2 = _conv3x3(width, width, 1, 1), nn.BatchNorm2d(width)
            self.conv3, self.bn3 = _conv3x3(width, 2 * width, 1, 1), nn.BatchNorm2d(2 * width)
        else:
            self.conv1 = nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=ceil_pool)
        inputs = (2 * width if deep_stem else width, *self.channels)
        strides, dilations = STRIDES_AND_DILATIONS[output_stride]

        def stage(i: int) -> nn.Sequential:
            # Late: up to the convolution whose stride was taken away, a stage has the dilation of the one before; after
            # it, its own: so each weight sees what it saw in the strided network, only on a finer grid.
            own = dilations[i]
            before = own if early_dilation else dilations[max(i - 1, 0)]
            first = block(inputs[i], width * 2**i, strides[i], before, own)
            rest = (block(inputs[i + 1], width * 2**i, 1, own, own) for _ in range(blocks[i] - 1))
            return nn.Sequential(first, *rest)

        self.layer1, self.layer2, self.layer3, self.layer4 = stage(0), stage(1), stage(2), stage(3)
        draw_convolutions(self)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of stages 1 to 4 for normalised images (B, in_channels, H, W)."""
        x = F.relu(self.bn1(self.conv1(image)), inplace=True)
        if self.deep_stem:
            x = F.relu(self.bn2(self.conv2(x)), inplace=True)
            x = F.relu(self.bn3(self.conv3(x)), inplace=True)
        stage1 = self.layer1(self.maxpool(x))
        stage2 = self.layer2(stage1)
        stage3 = self.layer3(stage2)
        return stage1, stage2, stage3, self.layer4(stage3)


def _conv3x3(inputs: int, outputs: int, stride: int, dilation: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=dilation, dilation=dilation, bias=False)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))
