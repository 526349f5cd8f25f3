"""MobileNetV1 (Howard et al. 2017) and V2 (Sandler et al., CVPR 2018), without their classifiers."""

from collections.abc import Sequence

from torch import Tensor, nn

from segdistill.networks._backbone import Backbone
from segdistill.networks._layers import conv_bn_relu, initialize_convolutions, separable

V1_WIDTHS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
V1_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
V2_GROUPS = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))
"""Expansion, channels at width 1 and number of blocks, for each group of blocks."""
V2_STEPS = {
    8: ((1, 1, 1), (2, 1, 1), (2, 1, 1), (1, 1, 2), (1, 2, 2), (1, 2, 4), (1, 4, 4)),
    16: ((1, 1, 1), (2, 1, 1), (2, 1, 1), (2, 1, 1), (1, 1, 1), (1, 1, 2), (1, 2, 2)),
    32: ((1, 1, 1), (2, 1, 1), (2, 1, 1), (2, 1, 1), (1, 1, 1), (2, 1, 1), (1, 1, 1)),
}
"""The first block's stride and dilation, and the dilation of the others, for each group, by output stride.

A block that lost its stride has the dilation of the one before, those after it twice that, as in the authors' code.
"""
V2_GROUP_ENDS = (2, 4, 7, 11, 14, 17, 18)
"""Numbers of the layers behind each group; layer 0 is the first convolution."""


class MobileNetV1(Backbone):
    """A 3x3 convolution and 13 separable ones; the features are what stages at strides 4, 8, 16 and 32 end with."""

    name = "mobilenetv1"
    imagenet = None
    channels = (128, 256, 512, 1024)

    def __init__(self, output_stride: int, in_channels: int = 3) -> None:
        super().__init__()
        inputs = 32
        layers = [conv_bn_relu(in_channels, inputs, 3, stride=2)]
        stride = 2
        dilation = 1
        for outputs, step in zip(V1_WIDTHS, V1_STRIDES, strict=True):
            if stride < output_stride:
                layers.append(separable(inputs, outputs, stride=step))
                stride *= step
            else:
                # The convolution that lost its stride sees the grid as before; those after it see a finer one.
                layers.append(separable(inputs, outputs, dilation=dilation))
                dilation *= step
            inputs = outputs
        self.model = nn.Sequential(*layers)
        initialize_convolutions(self)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return four maps for normalized images (B, in_channels, H, W)."""
        # Layers 2, 4, 6 and 12 stride: each map is what comes before the next stride.
        stride4 = self.model[:4](image)
        stride8 = self.model[4:6](stride4)
        stride16 = self.model[6:12](stride8)
        stride32 = self.model[12:](stride16)
        return stride4, stride8, stride16, stride32


class InvertedResidual(nn.Module):
    """A 1x1 convolution to more channels, a 3x3 of each by itself, a 1x1 to few without ReLU, around a shortcut."""

    def __init__(self, inputs: int, outputs: int, *, expansion: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        hidden = expansion * inputs
        self.shortcut = stride == 1 and inputs == outputs
        layers: list[nn.Module] = []
        # A 1x1 convolution to as many channels would be of no use; torchvision's first block has none.
        if expansion > 1:
            layers.append(conv_bn_relu(inputs, hidden, 1, relu=nn.ReLU6))
        layers += [
            conv_bn_relu(hidden, hidden, 3, stride=stride, dilation=dilation, groups=hidden, relu=nn.ReLU6),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output (B, outputs, h, w)."""
        out: Tensor = self.conv(x)
        return x + out if self.shortcut else out


class MobileNetV2(Backbone):
    """A 3x3 convolution and 17 inverted residuals with torchvision's tensor names; the features end the seven groups.

    Args:
        steps: the first block's stride and dilation, and the dilation of the others, for each group of blocks.
        width: multiplies all channels.
        in_channels: of the images.
    """

    classifier_prefixes = ("features.18.", "classifier.")

    def __init__(self, steps: Sequence[tuple[int, int, int]], width: float = 1.0, in_channels: int = 3) -> None:
        super().__init__()
        self.name = "mobilenetv2" if width == 1 else f"mobilenetv2 of width {width:g}"
        self.imagenet = "MobileNet_V2_Weights.IMAGENET1K_V1" if width == 1 else None
        self.channels = tuple(_rounded(channels * width) for _, channels, _ in V2_GROUPS)
        inputs = _rounded(32 * width)
        layers: list[nn.Module] = [conv_bn_relu(in_channels, inputs, 3, stride=2, relu=nn.ReLU6)]
        for group, outputs, step in zip(V2_GROUPS, self.channels, steps, strict=True):
            layers += _v2_group(inputs, outputs, group, step)
            inputs = outputs
        self.features = nn.Sequential(*layers)
        initialize_convolutions(self)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return seven maps for normalized images (B, in_channels, H, W), at strides 2, 4, 8 and then coarser."""
        maps = []
        x = image
        start = 0
        for end in V2_GROUP_ENDS:
            x = self.features[start:end](x)
            maps.append(x)
            start = end
        return tuple(maps)


def _v2_group(
    inputs: int, outputs: int, group: tuple[int, int, int], step: tuple[int, int, int]
) -> list[InvertedResidual]:
    """Return a group's blocks; `group` and `step` are entries of `V2_GROUPS` and of its steps."""
    expansion, _, number = group
    stride, first_dilation, dilation = step
    first = InvertedResidual(inputs, outputs, expansion=expansion, stride=stride, dilation=first_dilation)
    others = [InvertedResidual(outputs, outputs, expansion=expansion, dilation=dilation) for _ in range(number - 1)]
    return [first, *others]


def _rounded(channels: float) -> int:
    """Return the nearest multiple of 8; all widths in use are within the 10 % that the authors' rule allows."""
    return int(channels + 4) // 8 * 8
