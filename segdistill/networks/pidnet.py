"""PIDNet-S (Xu et al., "PIDNet: A Real-time Semantic Segmentation Network Inspired by PID Controllers", CVPR 2023).

Structure and tensor names are those of the authors' code, XuJiacong/PIDNet. Their head seghead_d, which teaches the
third branch the labels' edges in training, is left out, and with it their loss on edges: here that branch learns from
the logits alone. The strides are fixed, there is no dropout.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segdistill.config.schema import NetworkConfig
from segdistill.networks._base import SegNetwork
from segdistill.networks._dual import (
    AveragePyramid,
    OpenBasicBlock,
    SegmentationHead,
    bottlenecks,
    conv_norm,
    norm_relu_conv,
    stage,
    stem,
)
from segdistill.networks._layers import initialize_convolutions, resize_like
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
        high_width = 2 * width
        # What all share, then context.
        self.conv1 = stem(in_channels, width)
        self.layer1 = stage(width, width, blocks=2)
        self.layer2 = stage(width, high_width, blocks=2, stride=2)
        self.layer3 = stage(high_width, 4 * width, blocks=3, stride=2)
        self.layer4 = stage(4 * width, 8 * width, blocks=3, stride=2)
        self.layer5 = bottlenecks(8 * width, 8 * width, blocks=2, stride=2)

        # Details, and what they take from context.
        self.compression3 = conv_norm(4 * width, high_width, 1)
        self.compression4 = conv_norm(8 * width, high_width, 1)
        self.pag3 = PixelAttention(high_width, width)
        self.pag4 = PixelAttention(high_width, width)
        self.layer3_ = stage(high_width, high_width, blocks=2)
        self.layer4_ = stage(high_width, high_width, blocks=2)
        self.layer5_ = bottlenecks(high_width, high_width, blocks=1)

        # Edges, and what they take from context.
        self.layer3_d = OpenBasicBlock(high_width, width)
        self.layer4_d = bottlenecks(width, width, blocks=1)
        self.layer5_d = bottlenecks(high_width, high_width, blocks=1)
        self.diff3 = conv_norm(4 * width, width, 3)
        self.diff4 = conv_norm(8 * width, high_width, 3)

        # All together.
        self.spp = PAPPM(16 * width, 96, 4 * width)
        self.dfm = LightBag(4 * width)
        self.seghead_p = SegmentationHead(high_width, 128, num_classes) if aux else None
        self.final_layer = SegmentationHead(4 * width, 128, num_classes)
        initialize_convolutions(self)

    def segment(self, image: Tensor) -> SegOutput:
        """Return logits at 1/8; the features are I's at 1/8, 1/16 and 1/32, all branches together, and the head's."""
        # Stages end before their ReLU, hence all those here: branches add what they take from context first.
        shared = F.relu(self.layer2(F.relu(self.layer1(self.conv1(image)))))

        context_at_16 = F.relu(self.layer3(shared))
        details_after_3 = F.relu(self.pag3(self.layer3_(shared), self.compression3(context_at_16)))
        edges = self.layer3_d(shared)
        edges = F.relu(edges + resize_like(self.diff3(context_at_16), shared, align_corners=False))

        context_at_32 = F.relu(self.layer4(context_at_16))
        details = F.relu(self.pag4(self.layer4_(details_after_3), self.compression4(context_at_32)))
        edges = self.layer4_d(edges)
        edges = F.relu(edges + resize_like(self.diff4(context_at_32), shared, align_corners=False))

        context = resize_like(self.spp(self.layer5(context_at_32)), shared, align_corners=False)
        together = self.dfm(self.layer5_(details), context, self.layer5_d(edges))
        last, logits = self.final_layer(together)
        aux = None
        if self.training and self.seghead_p is not None:
            _, aux = self.seghead_p(details_after_3)
        return SegOutput(logits, (shared, context_at_16, context_at_32, together, last), aux)


class PAPPM(AveragePyramid):
    """Parallel aggregation: one grouped convolution processes all scales at once."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__(inputs, width, outputs)
        self.scale_process = norm_relu_conv(4 * width, 4 * width, 3, groups=4)

    def process(self, first: Tensor, pooled: list[Tensor]) -> list[Tensor]:
        """Return one map of 4 * width channels."""
        scales = torch.cat([scale + first for scale in pooled], dim=1)
        return [self.scale_process(scales)]


class PixelAttention(nn.Module):
    """Details take over context where both agree (the paper's Pag)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.f_x = conv_norm(channels, width, 1)
        self.f_y = conv_norm(channels, width, 1)

    def forward(self, details: Tensor, context: Tensor) -> Tensor:
        """Return (B, channels, h, w), the size of `details`; the context may be smaller."""
        query = self.f_x(details)
        key = resize_like(self.f_y(context), details, align_corners=False)
        agreement = (query * key).sum(dim=1, keepdim=True)
        share = torch.sigmoid(agreement)
        # Where they agree the context is as good, and its channels have seen more of the image.
        return (1 - share) * details + share * resize_like(context, details, align_corners=False)


class LightBag(nn.Module):
    """Details where there are edges, context elsewhere."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_p = conv_norm(channels, channels, 1)
        self.conv_i = conv_norm(channels, channels, 1)

    def forward(self, details: Tensor, context: Tensor, edges: Tensor) -> Tensor:
        """Return (B, channels, h, w) of three maps of that shape."""
        edge = torch.sigmoid(edges)
        with_details = self.conv_p((1 - edge) * context + details)
        with_context = self.conv_i(context + edge * details)
        out: Tensor = with_details + with_context
        return out
