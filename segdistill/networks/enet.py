"""ENet (Paszke et al., "ENet: A Deep Neural Network Architecture for Real-Time Semantic Segmentation", 2016).

As in the authors' Torch7 code, e-lab/ENet-training, whose checkpoints give no names to tensors, so the names are ours.
Maps of odd size are halved rounding up, which that code does not know: it takes multiples of 8 only. The strides are
fixed, and there is no auxiliary head.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segdistill.config import NetworkConfig
from segdistill.networks._base import SegNetwork
from segdistill.types import SegOutput

BACKBONES = ("",)
STRIDES = (8,)
OPTIONS = ("dropout",)
Activation = Callable[[int], nn.Module]


def build(config: NetworkConfig, num_classes: int, in_channels: int) -> SegNetwork:
    """Build ENet with `config.dropout` where the authors have 0.1, and a tenth of it where they have 0.01."""
    return ENet(num_classes, in_channels, config.dropout_or(0.1))


class ENet(SegNetwork):
    """An encoder to 1/8, and a decoder that puts what it enlarges where the encoder found the maxima."""

    def __init__(self, num_classes: int, in_channels: int, dropout: float) -> None:
        super().__init__(num_classes, in_channels)
        self.initial = Initial(in_channels, 16)
        self.down1 = Downsampling(16, 64, dropout / 10)
        self.stage1 = nn.Sequential(*(Bottleneck(64, _conv(16), nn.PReLU, dropout / 10) for _ in range(4)))
        self.down2 = Downsampling(64, 128, dropout)
        self.stage2, self.stage3 = _deep_stage(dropout), _deep_stage(dropout)
        self.up4 = Upsampling(128, 64)
        self.stage4 = nn.Sequential(*(Bottleneck(64, _conv(16), _relu) for _ in range(2)))
        self.up5 = Upsampling(64, 16)
        self.stage5 = Bottleneck(16, _conv(4), _relu)
        self.classifier = nn.ConvTranspose2d(16, num_classes, 2, stride=2)

    def segment(self, image: Tensor) -> SegOutput:
        """Return logits at the image's size; the features are at 1/2, 1/4, 1/8 and again 1/4 and 1/2."""
        half = self.initial(image)
        down, places1 = self.down1(half)
        quarter = self.stage1(down)
        down, places2 = self.down2(quarter)
        eighth = self.stage3(self.stage2(down))
        larger = self.stage4(self.up4(eighth, places2, quarter))
        last = self.stage5(self.up5(larger, places1, half))
        logits = self.classifier(last)[..., : image.shape[-2], : image.shape[-1]]
        return SegOutput(logits, (half, quarter, eighth, larger, last), None)


class Initial(nn.Module):
    """A strided convolution, and beside its output the maxima of the image itself."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs - inputs, 3, stride=2, padding=1)
        self.bn = _norm(outputs)
        self.act = nn.PReLU(outputs)

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H / 2, W / 2), rounded up."""
        maxima = F.max_pool2d(image, 2, ceil_mode=True)
        out: Tensor = self.act(self.bn(torch.cat([self.conv(image), maxima], dim=1)))
        return out


class Bottleneck(nn.Module):
    """A branch of a quarter of the channels, added to its input."""

    def __init__(self, channels: int, middle: nn.Module, act: Activation, dropout: float = 0.0) -> None:
        super().__init__()
        self.branch = _branch(channels, channels, middle, act, dropout)
        self.act = act(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, channels, h, w) as given."""
        out: Tensor = self.act(x + self.branch(x))
        return out


class Downsampling(nn.Module):
    """A branch that strides, added to the maxima of its input, to which it adds empty channels."""

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.more = outputs - inputs
        self.branch = _branch(inputs, outputs, _conv(outputs // 4), nn.PReLU, dropout, stride=2)
        self.act = nn.PReLU(outputs)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, inputs, h, w) to (B, outputs, h / 2, w / 2), rounded up, and to the places of the maxima in h * w."""
        maxima, places = F.max_pool2d(x, 2, ceil_mode=True, return_indices=True)
        # One row and one column more, which only a map of odd size has a use for: its last 2x2 window is half empty.
        branch = self.branch(F.pad(x, (0, 1, 0, 1)))
        return self.act(F.pad(maxima, (0, 0, 0, 0, 0, self.more)) + branch), places


class Upsampling(nn.Module):
    """A branch that doubles the size, added to what the input has at the places of the encoder's maxima."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        width = outputs // 4
        doubling = nn.ConvTranspose2d(width, width, 3, stride=2, padding=1, output_padding=1)
        self.branch = _branch(inputs, outputs, doubling, _relu)
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), _norm(outputs))
        self.act = _relu(outputs)

    def forward(self, x: Tensor, places: Tensor, like: Tensor) -> Tensor:
        """Map (B, inputs, h, w) to (B, outputs, H, W), the size of `like`, given the places (B, outputs, h, w)."""
        height, width = like.shape[-2:]
        out: Tensor = self.act(unpool(self.shortcut(x), places, like) + self.branch(x)[..., :height, :width])
        return out


def unpool(x: Tensor, places: Tensor, like: Tensor) -> Tensor:
    """Return a map as large as `like`, zero but at the places, which have x's values.

    It is what `F.max_unpool2d` returns, without its scattering, which cannot be exported.

    Args:
        x: (B, D, h, w), one value for each 2x2 window of the result.
        places: (B, D, h, w), of the value in the H * W positions of the result; each lies in its window.
        like: (B, any channels, H, W).
    """
    height, width = like.shape[-2:]
    rows, columns = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    spread = F.interpolate(x, size=(height, width), mode="nearest")
    chosen = places[..., rows // 2, :][..., columns // 2] == rows[:, None] * width + columns
    return spread * chosen


def _deep_stage(dropout: float) -> nn.Sequential:
    """Return eight bottlenecks at 1/8, each of which sees farther than the one two places before it."""
    middles = (
        *(_conv(32), _conv(32, 2), _asymmetric(32), _conv(32, 4)),
        *(_conv(32), _conv(32, 8), _asymmetric(32), _conv(32, 16)),
    )
    return nn.Sequential(*(Bottleneck(128, middle, nn.PReLU, dropout) for middle in middles))


def _branch(
    inputs: int, outputs: int, middle: nn.Module, act: Activation, dropout: float = 0.0, stride: int = 1
) -> nn.Sequential:
    """Return what a bottleneck adds: reduced to a quarter of the outputs, seen by the middle layer, and expanded."""
    width = outputs // 4
    return nn.Sequential(
        *(nn.Conv2d(inputs, width, stride, stride, bias=False), _norm(width), act(width)),
        *(middle, _norm(width), act(width)),
        *(nn.Conv2d(width, outputs, 1, bias=False), _norm(outputs), nn.Dropout2d(dropout)),
    )


def _conv(width: int, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)


def _asymmetric(width: int) -> nn.Sequential:
    """Return a 5x5 convolution in two: along the rows, then along the columns."""
    row = nn.Conv2d(width, width, (1, 5), padding=(0, 2), bias=False)
    return nn.Sequential(row, nn.Conv2d(width, width, (5, 1), padding=(2, 0)))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


def _relu(_: int) -> nn.Module:
    return nn.ReLU(inplace=True)
