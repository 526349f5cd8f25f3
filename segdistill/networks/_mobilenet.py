"""MobileNetV1 (Howard et al. 2017) and V2 (Sandler et al., CVPR 2018), without their classifiers."""

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from segdistill.networks._base import Backbone, conv_bn_relu, draw_convolutions, separable

V1_WIDTHS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
V1_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
V2_GROUPS = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))
"""Per group of blocks: expansion, channels at width 1, number."""
V2_STEPS = {
    8: ((1, 1, 1), (2, 1, 1), (2, 1, 1), (1, 1, 2), (1, 2, 2), (1, 2, 4), (1, 4, 4)),
    16: ((1, 1, 1), (2, 1, 1), (2, 1, 1), (2, 1, 1), (1, 1, 1), (1, 1, 2), (1, 2, 2)),
    32: ((1, 1, 1), (2, 1, 1), (2, 1, 1), (2, 1, 1), (1, 1, 1), (2, 1, 1), (1, 1, 1)),
}
"""Per output stride and group: the first block's stride and dilation, and the dilation of the others.

A block that lost its stride has the dilation of the one before, those after it twice that, as in the authors' code.
"""


class MobileNetV1(Backbone):
    """A 3x3 convolution and 13 separable ones; the features are what stages at strides 4, 8, 16 and 32 end with."""

    name = "mobilenetv1"
    imagenet = None
    channels = (128, 256, 512, 1024)

    def __init__(self, output_stride: int, in_channels: int = 3) -> None:
        super().__init__()
        layers, inputs, reached, dilation = [conv_bn_relu(in_channels, 32, 3, stride=2)], 32, 2, 1
        for outputs, step in zip(V1_WIDTHS, V1_STRIDES, strict=True):
            strided = reached < output_stride
            layers.append(separable(inputs, outputs, stride=step if strided else 1, dilation=dilation))
            reached, dilation = (reached * step, dilation) if strided else (reached, dilation * step)
            inputs = outputs
        self.model = nn.Sequential(*layers)
        draw_convolutions(self)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return four maps for normalised images (B, in_channels, H, W)."""
        stride4 = self.model[:4](image)
        stride8 = self.model[4:6](stride4)
        stride16 = self.model[6:12](stride8)
        return stride4, stride8, stride16, self.model[12:](stride16)


class InvertedResidual(nn.Module):
    """A 1x1 convolution to more channels, a 3x3 of each by itself, a 1x1 to few without ReLU, around a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, dilation: int, expansion: int) -> None:
        super().__init__()
        hidden, conv = expansion * inputs, partial(conv_bn_relu, relu=nn.ReLU6)
        self.shortcut = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            *([conv(inputs, hidden, 1)] if expansion > 1 else []),
            conv(hidden, hidden, 3, stride=stride, dilation=dilation, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output (B, outputs, h, w)."""
        out: Tensor = self.conv(x)
        return x + out if self.shortcut else out


class MobileNetV2(Backbone):
    """A 3x3 convolution and 17 inverted residuals with torchvision's tensor names; the features end the seven groups.

    Args:
        steps: per group of blocks the first one's stride and dilation, and the dilation of the others.
        width: multiplies all channels.
        in_channels: of the images.
    """

    beyond = ("features.18.", "classifier.")

    def __init__(self, steps: Sequence[tuple[int, int, int]], width: float = 1.0, in_channels: int = 3) -> None:
        super().__init__()
        self.name = "mobilenetv2" if width == 1 else f"mobilenetv2 of width {width:g}"
        self.imagenet = "MobileNet_V2_Weights.IMAGENET1K_V1" if width == 1 else None
        self.channels = tuple(_rounded(channels * width) for _, channels, _ in V2_GROUPS)
        inputs = _rounded(32 * width)
        layers: list[nn.Module] = [conv_bn_relu(in_channels, inputs, 3, stride=2, relu=nn.ReLU6)]
        for (expansion, _, number), outputs, (stride, first, rest) in zip(V2_GROUPS, self.channels, steps, strict=True):
            layers.append(InvertedResidual(inputs, outputs, stride, first, expansion))
            layers += [InvertedResidual(outputs, outputs, 1, rest, expansion) for _ in range(number - 1)]
            inputs = outputs
        self.features = nn.Sequential(*layers)
        draw_convolutions(self)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return seven maps for normalised images (B, in_channels, H, W), at strides 2, 4, 8 and then coarser."""
        maps, start = [image], 0
        for end in (2, 4, 7, 11, 14, 17, 18):
            maps.append(self.features[start:end](maps[-1]))
            start = end
        return tuple(maps[1:])


def _rounded(channels: float) -> int:
    """Return the nearest multiple of 8; all widths in use are within the 10 % that the authors' rule allows."""
    return int(channels + 4) // 8 * 8
