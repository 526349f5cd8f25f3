"""PIDNet-S (Xu et al., "PIDNet: A Real-time Semantic Segmentation Network Inspired by PID Controllers", CVPR 2023).

Structure and tensor names are those of the authors' code, XuJiacong/PIDNet. Their head seghead_d, which teaches the
third branch the labels' edges in training, is left out, and with it their loss on edges: here that branch learns from
the logits alone. The strides are fixed, there is no dropout.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segdistill.config import NetworkConfig
from segdistill.networks._base import SegNetwork, draw_convolutions
from segdistill.networks._dual import (
    AveragePyramid,
    SegmentationHead,
    at_size,
    bottlenecks,
    conv_norm,
    norm_relu_conv,
    open_block,
    stage,
    stem,
)
from segdistill.types import SegOutput

BACKBONES = ("s",)
STRIDES = (8,)
OPTIONS = ()


def build(config: NetworkConfig, num_classes: int, in_channels: int) -> SegNetwork:
    """Build PIDNet-S."""
    return PIDNet(num_classes, in_channels, width=32, aux=config.aux)


class PIDNet(SegNetwork):
    """After 1/8 three branches: details (P) and edges (D), which stay there, and context (I), down to 1/64."""

    training_only = ("seghead_p.",)

    def __init__(self, num_classes: int, in_channels: int, *, width: int, aux: bool) -> None:
        super().__init__(num_classes, in_channels)
        high = 2 * width
        self.conv1 = stem(in_channels, width)
        self.layer1 = stage(width, width, 2)
        self.layer2 = stage(width, high, 2, stride=2)
        self.layer3 = stage(high, 4 * width, 3, stride=2)
        self.layer4 = stage(4 * width, 8 * width, 3, stride=2)
        self.layer5 = bottlenecks(8 * width, 8 * width, 2, stride=2)

        self.compression3 = conv_norm(4 * width, high, 1)
        self.compression4 = conv_norm(8 * width, high, 1)
        self.pag3 = PixelAttention(high, width)
        self.pag4 = PixelAttention(high, width)
        self.layer3_ = stage(high, high, 2)
        self.layer4_ = stage(high, high, 2)
        self.layer5_ = bottlenecks(high, high, 1)

        self.layer3_d = open_block(high, width)
        self.layer4_d = bottlenecks(width, width, 1)
        self.layer5_d = bottlenecks(high, high, 1)
        self.diff3 = conv_norm(4 * width, width, 3)
        self.diff4 = conv_norm(8 * width, high, 3)

        self.spp = PAPPM(16 * width, 96, 4 * width)
        self.dfm = LightBag(4 * width)
        self.seghead_p = SegmentationHead(high, 128, num_classes) if aux else None
        self.final_layer = SegmentationHead(4 * width, 128, num_classes)
        draw_convolutions(self)

    def segment(self, image: Tensor) -> SegOutput:
        """Return logits at 1/8; the features are I's at 1/8, 1/16 and 1/32, all branches together, and the head's."""
        shared = F.relu(self.layer2(F.relu(self.layer1(self.conv1(image)))))

        i3 = F.relu(self.layer3(shared))
        p3 = F.relu(self.pag3(self.layer3_(shared), self.compression3(i3)))
        d = F.relu(self.layer3_d(shared) + at_size(self.diff3(i3), shared))

        i4 = F.relu(self.layer4(i3))
        p = F.relu(self.pag4(self.layer4_(p3), self.compression4(i4)))
        d = F.relu(self.layer4_d(d) + at_size(self.diff4(i4), shared))

        i = at_size(self.spp(self.layer5(i4)), shared)
        together = self.dfm(self.layer5_(p), i, self.layer5_d(d))
        last, logits = self.final_layer(together)
        aux = self.seghead_p(p3)[1] if self.training and self.seghead_p is not None else None
        return SegOutput(logits, (shared, i3, i4, together, last), aux)


class PAPPM(AveragePyramid):
    """Parallel aggregation: one grouped convolution processes all scales at once."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__(inputs, width, outputs)
        self.scale_process = norm_relu_conv(4 * width, 4 * width, 3, groups=4)

    def processed(self, first: Tensor, pooled: list[Tensor]) -> list[Tensor]:
        """Return one map of 4 * width channels."""
        return [self.scale_process(torch.cat([scale + first for scale in pooled], dim=1))]


class PixelAttention(nn.Module):
    """Details take over context where both agree (the paper's Pag)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.f_x = conv_norm(channels, width, 1)
        self.f_y = conv_norm(channels, width, 1)

    def forward(self, detail: Tensor, context: Tensor) -> Tensor:
        """Return (B, channels, h, w), the size of `detail`; the context may be smaller."""
        alike = (self.f_x(detail) * at_size(self.f_y(context), detail)).sum(dim=1, keepdim=True)
        share = torch.sigmoid(alike)
        return (1 - share) * detail + share * at_size(context, detail)


class LightBag(nn.Module):
    """Details where there are edges, context elsewhere."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_p = conv_norm(channels, channels, 1)
        self.conv_i = conv_norm(channels, channels, 1)

    def forward(self, p: Tensor, i: Tensor, d: Tensor) -> Tensor:
        """Return (B, channels, h, w) of three maps of that shape: details, context and edges."""
        edge = torch.sigmoid(d)
        out: Tensor = self.conv_p((1 - edge) * i + p) + self.conv_i(i + edge * p)
        return out
