"""ResNet (He et al., CVPR 2016) with torchvision's tensor names, so that its ImageNet weights load as they are.

torchvision's own BasicBlock refuses dilation and another width, which students need. The deep stem is that of Zhao et
al. 2017, as Liu et al. 2019 and CIRKD have it: its tensors are called as in their checkpoints, and it has no weights in
torchvision.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from segdistill.config.schema import NetworkConfig
from segdistill.networks._backbone import Backbone
from segdistill.networks._layers import initialize_convolutions


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut; the stride is on the first."""

    expansion = 1
    """Channels of the output over `width`."""

    def __init__(self, inputs: int, width: int, *, stride: int = 1, dilation: int = 1, dilation_after: int = 1) -> None:
        super().__init__()
        self.conv1 = _conv3x3(inputs, width, stride=stride, dilation=dilation)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, width, dilation=dilation_after)
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
    """Channels of the output over `width`."""

    def __init__(self, inputs: int, width: int, *, stride: int = 1, dilation: int = 1, dilation_after: int = 1) -> None:
        super().__init__()
        outputs = width * self.expansion
        # `dilation_after` is of convolutions after the 3x3, and a 1x1 has none.
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, width, stride=stride, dilation=dilation)
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


class Variant(NamedTuple):
    """The size of a ResNet."""

    block: type[BasicBlock | Bottleneck]
    depths: tuple[int, int, int, int]
    """Number of blocks in each stage."""
    width: int
    """Channels of the 3x3 convolutions of the first stage; each further stage has twice as many."""
    imagenet: str | None
    """torchvision's name of its ImageNet weights: V1, trained as the papers' were."""


VARIANTS = {
    "resnet18": Variant(BasicBlock, (2, 2, 2, 2), 64, imagenet="ResNet18_Weights.IMAGENET1K_V1"),
    "resnet18-half": Variant(BasicBlock, (2, 2, 2, 2), 32, imagenet=None),
    "resnet34": Variant(BasicBlock, (3, 4, 6, 3), 64, imagenet="ResNet34_Weights.IMAGENET1K_V1"),
    "resnet50": Variant(Bottleneck, (3, 4, 6, 3), 64, imagenet="ResNet50_Weights.IMAGENET1K_V1"),
    "resnet101": Variant(Bottleneck, (3, 4, 23, 3), 64, imagenet="ResNet101_Weights.IMAGENET1K_V1"),
}
STRIDES = (8, 16, 32)
OPTIONS = ("stem", "dilation", "stem_pool")
"""Options of every network with a ResNet."""
STEM_WIDTHS: dict[str, Callable[[int], tuple[int, int]]] = {
    "plain": lambda width: (width, width),
    "deep": lambda width: (width, 2 * width),
    "deep-narrow": lambda width: (width // 2, width),
}
"""Channels of a stem's first convolutions and of its output, by the width of the first stage: the output is twice as
wide as a plain stem's in Zhao et al. 2017, and as wide in ResNet-C (He et al. 2019), mmsegmentation's ResNetV1c."""
STRIDES_AND_DILATIONS = {
    8: ((1, 2, 1, 1), (1, 1, 2, 4)),
    16: ((1, 2, 2, 1), (1, 1, 1, 2)),
    32: ((1, 2, 2, 2), (1, 1, 1, 1)),
}
"""Strides and dilations of the four stages, by output stride: where stages 3 and 4 do not stride, they dilate by as
much."""


def resnet(config: NetworkConfig, in_channels: int) -> "ResNet":
    """Build the ResNet that a network's full name ends in."""
    assert config.output_stride is not None, "resolved"
    return ResNet(
        config.network.partition("-")[2],
        config.output_stride,
        in_channels,
        stem=config.stem or "plain",
        early_dilation=config.dilation == "early",
        ceil_pool=config.stem_pool == "ceil",
    )


class ResNet(Backbone):
    """The four stages of a ResNet, without the classifier."""

    def __init__(
        self,
        name: str,
        output_stride: int,
        in_channels: int = 3,
        *,
        stem: Literal["plain", "deep", "deep-narrow"] = "plain",
        early_dilation: bool = False,
        ceil_pool: bool = False,
    ) -> None:
        super().__init__()
        variant = VARIANTS[name]
        width = variant.width
        deep_stem = stem != "plain"
        self.name = f"{name} with a {stem} stem" if deep_stem else name
        # torchvision has no weights of a network with a deep stem.
        self.imagenet = None if deep_stem else variant.imagenet
        self.channels = tuple(width * factor * variant.block.expansion for factor in (1, 2, 4, 8))
        self.deep_stem = deep_stem
        first, self.stem_channels = STEM_WIDTHS[stem](width)
        if deep_stem:
            self.conv1 = _conv3x3(in_channels, first, stride=2)
            self.conv2 = _conv3x3(first, first)
            self.bn2 = nn.BatchNorm2d(first)
            self.conv3 = _conv3x3(first, self.stem_channels)
            self.bn3 = nn.BatchNorm2d(self.stem_channels)
        else:
            self.conv1 = nn.Conv2d(in_channels, first, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=ceil_pool)
        self.layer1, self.layer2, self.layer3, self.layer4 = _stages(
            variant, self.stem_channels, output_stride, early_dilation=early_dilation
        )
        initialize_convolutions(self)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of stages 1 to 4 for normalized images (B, in_channels, H, W)."""
        return self.stages(self.stem(image))

    def stem(self, image: Tensor) -> Tensor:
        """Return the map (B, stem_channels, H / 2, W / 2) that the first stage pools."""
        x = F.relu(self.bn1(self.conv1(image)), inplace=True)
        if self.deep_stem:
            x = F.relu(self.bn2(self.conv2(x)), inplace=True)
            x = F.relu(self.bn3(self.conv3(x)), inplace=True)
        return x

    def stages(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of stages 1 to 4 for the stem's."""
        stage1 = self.layer1(self.maxpool(x))
        stage2 = self.layer2(stage1)
        stage3 = self.layer3(stage2)
        stage4 = self.layer4(stage3)
        return stage1, stage2, stage3, stage4


def _stages(variant: Variant, inputs: int, output_stride: int, *, early_dilation: bool) -> list[nn.Sequential]:
    """Return the four stages for maps of `inputs` channels."""
    strides, dilations = STRIDES_AND_DILATIONS[output_stride]
    # Late: up to the convolution whose stride was taken away, a stage has the dilation of the one before; after it, its
    # own: so each weight sees what it saw in the strided network, only on a finer grid.
    first_dilations = dilations if early_dilation else (dilations[0], *dilations[:-1])
    stages = []
    width = variant.width
    for number, depth in enumerate(variant.depths):
        dilation = dilations[number]
        first = variant.block(
            inputs,
            width,
            stride=strides[number],
            dilation=first_dilations[number],
            dilation_after=dilation,
        )
        inputs = width * variant.block.expansion
        others = [variant.block(inputs, width, dilation=dilation, dilation_after=dilation) for _ in range(depth - 1)]
        stages.append(nn.Sequential(first, *others))
        width *= 2
    return stages


def _conv3x3(inputs: int, outputs: int, *, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    # Padded by the dilation, so that the size stays at stride 1.
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=dilation, dilation=dilation, bias=False)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """Return what brings a block's input to the shape of its output; None where that is the identity."""
    if stride == 1 and inputs == outputs:
        return None
    conv = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))
