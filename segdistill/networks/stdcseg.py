"""STDC-Seg (Fan et al., "Rethinking BiSeNet for Real-time Semantic Segmentation", CVPR 2021).

The STDC network under BiSeNet's context path. Structure and tensor names are those of the authors' code,
MichaelFan01/STDC-Seg, where STDC1 is called STDCNet813 and STDC2 STDCNet1446. Their heads normalize with InPlaceABN
without activation, which multiplies by |weight| + 1e-5; here it is plain batch norm, and an import converts the
weights.

Their backbone keeps the classifier's last 1x1 convolution, conv_last (1024 to max(1024, 16 * base) = 1024 channels,
batch norm, ReLU), in every checkpoint. With use_conv_last=True their map at 1/32 passes it before the context path
sees it, and everything that follows has the same shapes either way. Off is the default of their train.py and
evaluation.py, and evaluation.py leaves it there for the four published networks.

What they have in training only: two auxiliary heads, of which one is here, since a `SegOutput` has room for one:
conv_out16, whose gradient passes through the whole context path. And the heads that learn details from the labels'
edges, which are left out: the weights that are shipped do not need them. The strides are fixed, there is no dropout.
"""

from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segdistill.config.schema import NetworkConfig
from segdistill.networks._base import SegNetwork
from segdistill.networks._layers import initialize_convolutions, named_sequential
from segdistill.types import SegOutput

BLOCKS = {"stdc1": (2, 2, 2), "stdc2": (4, 5, 3)}
"""Number of blocks at 1/8, 1/16 and 1/32; the first of each halves the size."""
BACKBONES = tuple(BLOCKS)
STRIDES = (8,)
OPTIONS = ("conv_last", "classifier_bias")
STAGE_WIDTHS = (64, 256, 512, 1024)
"""Channels at 1/4, 1/8, 1/16 and 1/32."""
CONTEXT_WIDTH = 128
"""Channels of the context path."""


def build(config: NetworkConfig, num_classes: int, in_channels: int) -> SegNetwork:
    """Build the network that `config.network` names in full, such as stdcseg-stdc1."""
    blocks = BLOCKS[config.network.removeprefix("stdcseg-")]
    backbone = STDC(blocks, in_channels, conv_last=bool(config.conv_last))
    return STDCSeg(backbone, num_classes, in_channels, aux=config.aux, bias=bool(config.classifier_bias))


class STDCSeg(SegNetwork):
    """A backbone and its context path, fused at 1/8, and two convolutions to the logits."""

    training_only = ("conv_out16.",)

    def __init__(self, backbone: "STDC", num_classes: int, in_channels: int, *, aux: bool, bias: bool) -> None:
        super().__init__(num_classes, in_channels)
        _, at8, _, _ = STAGE_WIDTHS
        self.cp = ContextPath(backbone)
        self.ffm = FeatureFusion(at8 + CONTEXT_WIDTH, 256)
        self.conv_out = Head(256, 256, num_classes, bias=bias)
        self.conv_out16 = Head(CONTEXT_WIDTH, 64, num_classes, bias=bias) if aux else None
        initialize_convolutions(self)

    def segment(self, image: Tensor) -> SegOutput:
        """Return logits at 1/8; the features are the backbone's from 1/4 to 1/32, and the last one at 1/8."""
        stages = self.cp.backbone(image)
        context = self.cp(stages)
        last, logits = self.conv_out(self.ffm(stages[1], context))
        aux = None
        if self.training and self.conv_out16 is not None:
            _, aux = self.conv_out16(context)
        return SegOutput(logits, (*stages, last), aux)


class STDC(nn.Module):
    """Two strided convolutions and three stages of blocks."""

    def __init__(self, blocks: tuple[int, int, int], in_channels: int, *, conv_last: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv(in_channels, 32, 3, stride=2), _conv(32, STAGE_WIDTHS[0], 3, stride=2)]
        for count, (inputs, outputs) in zip(blocks, pairwise(STAGE_WIDTHS), strict=True):
            layers.append(Block(inputs, outputs, stride=2))
            layers += [Block(outputs, outputs) for _ in range(count - 1)]
        self.features = nn.Sequential(*layers)
        self.conv_last = _conv(STAGE_WIDTHS[-1], STAGE_WIDTHS[-1], 1) if conv_last else None
        # Behind the two convolutions and behind each stage.
        self.ends = tuple(accumulate(blocks, initial=2))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the maps at 1/4, 1/8, 1/16 and 1/32 of (B, in_channels, H, W)."""
        stages = [self.features[:2](image)]
        for start, end in pairwise(self.ends):
            stages.append(self.features[start:end](stages[-1]))
        if self.conv_last is not None:
            stages[-1] = self.conv_last(stages[-1])
        return tuple(stages)


class Block(nn.Module):
    """Four convolutions in a row, each narrower than the one before it, and the outputs of all (the paper's STDC)."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1) -> None:
        super().__init__()
        half, quarter, eighth = outputs // 2, outputs // 4, outputs // 8
        self.conv_list = nn.ModuleList(
            [
                _conv(inputs, half, 1),
                _conv(half, quarter, 3),
                _conv(quarter, eighth, 3),
                _conv(eighth, eighth, 3),
            ]
        )
        self.avd_layer = self.skip = None
        if stride == 2:
            depthwise = nn.Conv2d(half, half, 3, stride=2, padding=1, groups=half, bias=False)
            self.avd_layer = nn.Sequential(depthwise, nn.BatchNorm2d(half))
            self.skip = nn.AvgPool2d(3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, h, w) to (B, outputs, h / stride, w / stride), rounded up."""
        first, *others = self.conv_list
        out = first(x)
        # Of a block that strides, all outputs have half the size: the first is pooled, and strided for the others.
        outs = [out if self.skip is None else self.skip(out)]
        if self.avd_layer is not None:
            out = self.avd_layer(out)
        for convolution in others:
            out = convolution(out)
            outs.append(out)
        return torch.cat(outs, dim=1)


class ContextPath(nn.Module):
    """The path of context: the map at 1/32 and its mean flow into the map at 1/16, and both to 1/8."""

    def __init__(self, backbone: STDC) -> None:
        super().__init__()
        _, _, at16, at32 = STAGE_WIDTHS
        self.backbone = backbone
        self.arm16 = AttentionRefinement(at16, CONTEXT_WIDTH)
        self.arm32 = AttentionRefinement(at32, CONTEXT_WIDTH)
        self.conv_head32 = _conv(CONTEXT_WIDTH, CONTEXT_WIDTH, 3)
        self.conv_head16 = _conv(CONTEXT_WIDTH, CONTEXT_WIDTH, 3)
        self.conv_avg = _conv(at32, CONTEXT_WIDTH, 1)

    def forward(self, stages: tuple[Tensor, ...]) -> Tensor:
        """Return the context (B, 128, h, w) at 1/8 of the backbone's four maps."""
        _, at8, at16, at32 = stages
        # Enlarged by the nearest position, as in the authors' code: a 3x3 convolution smooths each afterwards.
        deep = self.arm32(at32) + self.conv_avg(_spatial_mean(at32))
        deep = self.conv_head32(F.interpolate(deep, size=at16.shape[-2:], mode="nearest"))
        context = self.arm16(at16) + deep
        out: Tensor = self.conv_head16(F.interpolate(context, size=at8.shape[-2:], mode="nearest"))
        return out


class AttentionRefinement(nn.Module):
    """A convolution whose channels are weighted by what they are on average."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = _conv(inputs, outputs, 3)
        self.conv_atten = nn.Conv2d(outputs, outputs, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, h, w) to (B, outputs, h, w)."""
        x = self.conv(x)
        weights = torch.sigmoid(self.bn_atten(self.conv_atten(_spatial_mean(x))))
        return x * weights


class FeatureFusion(nn.Module):
    """The backbone's map at 1/8 and the context, mixed, and their channels weighted."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convblk = _conv(inputs, outputs, 1)
        self.conv1 = nn.Conv2d(outputs, outputs // 4, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs // 4, outputs, 1, bias=False)

    def forward(self, spatial: Tensor, context: Tensor) -> Tensor:
        """Return (B, outputs, h, w) of two maps whose channels make `inputs` together."""
        x: Tensor = self.convblk(torch.cat([spatial, context], dim=1))
        reduced = F.relu(self.conv1(_spatial_mean(x)))
        weights = torch.sigmoid(self.conv2(reduced))
        return x + x * weights


class Head(nn.Module):
    """A 3x3 convolution and the 1x1 classifier."""

    def __init__(self, inputs: int, width: int, num_classes: int, *, bias: bool) -> None:
        super().__init__()
        self.conv = _conv(inputs, width, 3)
        self.conv_out = nn.Conv2d(width, num_classes, 1, bias=bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what feeds the classifier, (B, width, h, w), and the logits."""
        feature = self.conv(x)
        return feature, self.conv_out(feature)


def _conv(inputs: int, outputs: int, kernel: int, *, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
    return named_sequential(conv=conv, bn=nn.BatchNorm2d(outputs), relu=nn.ReLU(inplace=True))


def _spatial_mean(x: Tensor) -> Tensor:
    """Return the mean over all positions: (B, D, 1, 1)."""
    return x.mean(dim=(2, 3), keepdim=True)
