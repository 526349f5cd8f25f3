"""ENet (Paszke et al., "ENet: A Deep Neural Network Architecture for Real-Time Semantic Segmentation", 2016).

As in the authors' Torch7 code, e-lab/ENet-training, whose checkpoints give no names to tensors, so the names are ours.
Maps of odd size are halved rounding up, which that code does not know: it takes multiples of 8 only. The strides are
fixed, and there is no auxiliary head.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segdistill.config.schema import NetworkConfig
from segdistill.networks._base import SegNetwork
from segdistill.types import SegOutput

BACKBONES = ("",)
STRIDES = (8,)
OPTIONS = ("dropout",)
REDUCTION = 4
"""Ratio of a bottleneck's channels to those of its branch."""
BATCH_NORM_EPS = 1e-3
"""Epsilon of batch norm in the authors' code; torch's default is 1e-5."""
Activation = Callable[[int], nn.Module]
"""Maker of an activation for so many channels."""


def build(config: NetworkConfig, num_classes: int, in_channels: int) -> SegNetwork:
    """Build ENet with `config.dropout` where the authors have 0.1, and a tenth of it where they have 0.01."""
    return ENet(num_classes, in_channels, config.dropout_or(0.1))


class ENet(SegNetwork):
    """An encoder to 1/8, and a decoder that puts what it enlarges where the encoder found the maxima."""

    def __init__(self, num_classes: int, in_channels: int, dropout: float) -> None:
        super().__init__(num_classes, in_channels)
        self.initial = Initial(in_channels, 16)
        self.down1 = Downsampling(16, 64, dropout / 10)
        self.stage1 = _regular_stage(64, blocks=4, act=nn.PReLU, dropout=dropout / 10)
        self.down2 = Downsampling(64, 128, dropout)
        self.stage2 = _deep_stage(dropout)
        self.stage3 = _deep_stage(dropout)
        # The decoder has plain ReLUs and no dropout.
        self.up4 = Upsampling(128, 64)
        self.stage4 = _regular_stage(64, blocks=2, act=_relu)
        self.up5 = Upsampling(64, 16)
        self.stage5 = Bottleneck(16, _conv(4), _relu)
        self.classifier = nn.ConvTranspose2d(16, num_classes, 2, stride=2)

    def segment(self, image: Tensor) -> SegOutput:
        """Return logits at the image's size; the features are at 1/2, 1/4, 1/8 and again 1/4 and 1/2."""
        half = self.initial(image)
        down, half_indices = self.down1(half)
        quarter = self.stage1(down)
        down, quarter_indices = self.down2(quarter)
        eighth = self.stage3(self.stage2(down))
        decoded_quarter = self.stage4(self.up4(eighth, quarter_indices, quarter))
        decoded_half = self.stage5(self.up5(decoded_quarter, half_indices, half))
        logits = self.classifier(decoded_half)
        # Half of an odd height was rounded up, so twice that is one too many.
        logits = logits[..., : image.shape[-2], : image.shape[-1]]
        return SegOutput(logits, (half, quarter, eighth, decoded_quarter, decoded_half), None)


class Initial(nn.Module):
    """A strided convolution, and beside its output the maxima of the image itself."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs - inputs, 3, stride=2, padding=1)
        self.bn = _norm(outputs)
        self.act = nn.PReLU(outputs)

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H / 2, W / 2), rounded up."""
        # Rounded up, as the padded convolution is.
        maxima = F.max_pool2d(image, 2, ceil_mode=True)
        out: Tensor = self.act(self.bn(torch.cat([self.conv(image), maxima], dim=1)))
        return out


class Bottleneck(nn.Module):
    """A branch of a quarter of the channels, added to its input."""

    def __init__(self, channels: int, middle: nn.Module, act: Activation, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.branch = _branch(channels, channels, middle=middle, act=act, dropout=dropout)
        self.act = act(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, h, w) to the same shape."""
        out: Tensor = self.act(x + self.branch(x))
        return out


class Downsampling(nn.Module):
    """A branch that strides, added to the maxima of its input, to which it adds empty channels."""

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.empty_channels = outputs - inputs
        middle = _conv(outputs // REDUCTION)
        self.branch = _branch(inputs, outputs, middle=middle, act=nn.PReLU, dropout=dropout, stride=2)
        self.act = nn.PReLU(outputs)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, inputs, h, w) to (B, outputs, h / 2, w / 2), rounded up, and the maxima's indices in h * w."""
        maxima, indices = F.max_pool2d(x, 2, ceil_mode=True, return_indices=True)
        # One row and one column more, which only a map of odd size has a use for: its last 2x2 window is half empty.
        branch = self.branch(F.pad(x, (0, 1, 0, 1)))
        shortcut = F.pad(maxima, (0, 0, 0, 0, 0, self.empty_channels))
        return self.act(shortcut + branch), indices


class Upsampling(nn.Module):
    """A branch that doubles the size, added to what the input has where the encoder's maxima were."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        width = outputs // REDUCTION
        doubling = nn.ConvTranspose2d(width, width, 3, stride=2, padding=1, output_padding=1)
        self.branch = _branch(inputs, outputs, middle=doubling, act=_relu)
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), _norm(outputs))
        self.act = _relu(outputs)

    def forward(self, x: Tensor, indices: Tensor, like: Tensor) -> Tensor:
        """Map (B, inputs, h, w) to (B, outputs, H, W), the size of `like`, given the indices (B, outputs, h, w)."""
        height, width = like.shape[-2:]
        shortcut = unpool(self.shortcut(x), indices, like)
        branch = self.branch(x)[..., :height, :width]  # doubled, an odd size is one too large
        out: Tensor = self.act(shortcut + branch)
        return out


def unpool(x: Tensor, indices: Tensor, like: Tensor) -> Tensor:
    """Return a map as large as `like`, zero but at the indices, which have x's values.

    It is what `F.max_unpool2d` returns, without its scattering, which cannot be exported.

    Args:
        x: (B, D, h, w), one value for each 2x2 window of the result.
        indices: (B, D, h, w), of the value in the H * W positions of the result; each lies in its window.
        like: (B, any channels, H, W).
    """
    height, width = like.shape[-2:]
    rows = torch.arange(height, device=x.device)
    columns = torch.arange(width, device=x.device)
    # Each value goes to all four positions of its window, and is kept at the one that the index names.
    spread = F.interpolate(x, size=(height, width), mode="nearest")
    is_maximum = indices[..., rows // 2, :][..., columns // 2] == rows[:, None] * width + columns
    return spread * is_maximum


def _regular_stage(channels: int, *, blocks: int, act: Activation, dropout: float = 0.0) -> nn.Sequential:
    """Return bottlenecks around plain 3x3 convolutions."""
    width = channels // REDUCTION
    return nn.Sequential(*(Bottleneck(channels, _conv(width), act, dropout=dropout) for _ in range(blocks)))


def _deep_stage(dropout: float) -> nn.Sequential:
    """Return eight bottlenecks at 1/8, each of which sees farther than the one two places before it."""
    middles = [
        _conv(32),
        _conv(32, dilation=2),
        _asymmetric(32),
        _conv(32, dilation=4),
        _conv(32),
        _conv(32, dilation=8),
        _asymmetric(32),
        _conv(32, dilation=16),
    ]
    return nn.Sequential(*(Bottleneck(128, middle, nn.PReLU, dropout=dropout) for middle in middles))


def _branch(
    inputs: int,
    outputs: int,
    *,
    middle: nn.Module,
    act: Activation,
    dropout: float = 0.0,
    stride: int = 1,
) -> nn.Sequential:
    """Return what a bottleneck adds: reduced to a quarter of the outputs, seen by the middle layer, and expanded."""
    width = outputs // REDUCTION
    return nn.Sequential(
        nn.Conv2d(inputs, width, stride, stride=stride, bias=False),
        _norm(width),
        act(width),
        middle,
        _norm(width),
        act(width),
        nn.Conv2d(width, outputs, 1, bias=False),
        _norm(outputs),
        nn.Dropout2d(dropout),
    )


def _conv(width: int, *, dilation: int = 1) -> nn.Module:
    return nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)


def _asymmetric(width: int) -> nn.Module:
    """Return a 5x5 convolution in two: along the rows, then along the columns."""
    along_rows = nn.Conv2d(width, width, (1, 5), padding=(0, 2), bias=False)
    along_columns = nn.Conv2d(width, width, (5, 1), padding=(2, 0))
    return nn.Sequential(along_rows, along_columns)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=BATCH_NORM_EPS)


def _relu(_: int) -> nn.Module:
    return nn.ReLU(inplace=True)
