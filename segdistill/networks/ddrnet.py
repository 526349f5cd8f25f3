"""DDRNet-23-slim (Hong et al., "Deep Dual-resolution Networks for Real-time [...] Segmentation", arXiv 2101.06085).

Structure and tensor names are those of the authors' code, ydhongHIT/DDRNet. The strides are fixed, there is no dropout.
"""

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
    stage,
    stem,
)
from segdistill.types import SegOutput

BACKBONES = ("23-slim",)
STRIDES = (8,)
OPTIONS = ()


def build(config: NetworkConfig, num_classes: int, in_channels: int) -> SegNetwork:
    """Build DDRNet-23-slim."""
    return DDRNet(num_classes, in_channels, width=32, aux=config.aux)


class DDRNet(SegNetwork):
    """After 1/8, a branch that stays there and one that goes down to 1/64 tell each other what they see."""

    training_only = ("seghead_extra.",)

    def __init__(self, num_classes: int, in_channels: int, *, width: int, aux: bool) -> None:
        super().__init__(num_classes, in_channels)
        high = 2 * width
        self.conv1 = stem(in_channels, width)
        self.layer1 = stage(width, width, 2)
        self.layer2 = stage(width, 2 * width, 2, stride=2)
        self.layer3 = stage(2 * width, 4 * width, 2, stride=2)
        self.layer4 = stage(4 * width, 8 * width, 2, stride=2)
        self.compression3 = conv_norm(4 * width, high, 1)
        self.compression4 = conv_norm(8 * width, high, 1)
        self.down3 = conv_norm(high, 4 * width, 3, stride=2)
        halved = conv_norm(high, 4 * width, 3, stride=2)
        self.down4 = nn.Sequential(*halved, nn.ReLU(inplace=True), *conv_norm(4 * width, 8 * width, 3, stride=2))
        self.layer3_ = stage(high, high, 2)
        self.layer4_ = stage(high, high, 2)
        self.layer5_ = bottlenecks(high, high, 1)
        self.layer5 = bottlenecks(8 * width, 8 * width, 1, stride=2)
        self.spp = DAPPM(16 * width, 128, 4 * width)
        self.seghead_extra = SegmentationHead(high, 64, num_classes) if aux else None
        self.final_layer = SegmentationHead(4 * width, 64, num_classes)
        draw_convolutions(self)

    def segment(self, image: Tensor) -> SegOutput:
        """Return logits at 1/8; the features are at 1/8, 1/16 and 1/32, both branches together, and the head's."""
        shared = F.relu(self.layer2(F.relu(self.layer1(self.conv1(image)))))

        low3, high = self.layer3(shared), self.layer3_(shared)
        low = F.relu(low3 + self.down3(F.relu(high)))
        high = third = high + at_size(self.compression3(F.relu(low3)), shared)

        low4, high = self.layer4(low), self.layer4_(F.relu(high))
        deepest = F.relu(low4 + self.down4(F.relu(high)))
        high = F.relu(high + at_size(self.compression4(F.relu(low4)), shared))

        both = self.layer5_(high) + at_size(self.spp(self.layer5(deepest)), shared)
        last, logits = self.final_layer(both)
        aux = self.seghead_extra(third)[1] if self.training and self.seghead_extra is not None else None
        return SegOutput(logits, (shared, low, deepest, both, last), aux)


class DAPPM(AveragePyramid):
    """Deep aggregation: each scale is processed together with all smaller ones."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__(inputs, width, outputs)
        self.process1 = norm_relu_conv(width, width, 3)
        self.process2 = norm_relu_conv(width, width, 3)
        self.process3 = norm_relu_conv(width, width, 3)
        self.process4 = norm_relu_conv(width, width, 3)

    def processed(self, first: Tensor, pooled: list[Tensor]) -> list[Tensor]:
        """Return four maps of `width` channels."""
        out = [first]
        for process, scale in zip((self.process1, self.process2, self.process3, self.process4), pooled, strict=True):
            out.append(process(scale + out[-1]))
        return out[1:]
