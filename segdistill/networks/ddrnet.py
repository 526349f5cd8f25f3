"""DDRNet-23-slim (Hong et al., "Deep Dual-resolution Networks for Real-time [...] Segmentation", arXiv 2101.06085).

Structure and tensor names are those of the authors' code, ydhongHIT/DDRNet. The strides are fixed, there is no dropout.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from segdistill.config.schema import NetworkConfig
from segdistill.networks._base import SegNetwork
from segdistill.networks._dual import (
    AveragePyramid,
    SegmentationHead,
    bottlenecks,
    conv_norm,
    norm_relu_conv,
    stage,
    stem,
)
from segdistill.networks._layers import initialize_convolutions, resize_like
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
        high_width = 2 * width
        self.conv1 = stem(in_channels, width)
        self.layer1 = stage(width, width, blocks=2)
        self.layer2 = stage(width, 2 * width, blocks=2, stride=2)
        # The branch that goes down, and what it tells the other.
        self.layer3 = stage(2 * width, 4 * width, blocks=2, stride=2)
        self.layer4 = stage(4 * width, 8 * width, blocks=2, stride=2)
        self.compression3 = conv_norm(4 * width, high_width, 1)
        self.compression4 = conv_norm(8 * width, high_width, 1)
        # The branch that stays at 1/8, and what it tells the other.
        self.down3 = conv_norm(high_width, 4 * width, 3, stride=2)
        self.down4 = nn.Sequential(
            *conv_norm(high_width, 4 * width, 3, stride=2),
            nn.ReLU(inplace=True),
            *conv_norm(4 * width, 8 * width, 3, stride=2),
        )
        self.layer3_ = stage(high_width, high_width, blocks=2)
        self.layer4_ = stage(high_width, high_width, blocks=2)
        self.layer5_ = bottlenecks(high_width, high_width, blocks=1)
        # Both together.
        self.layer5 = bottlenecks(8 * width, 8 * width, blocks=1, stride=2)
        self.spp = DAPPM(16 * width, 128, 4 * width)
        self.seghead_extra = SegmentationHead(high_width, 64, num_classes) if aux else None
        self.final_layer = SegmentationHead(4 * width, 64, num_classes)
        initialize_convolutions(self)

    def segment(self, image: Tensor) -> SegOutput:
        """Return logits at 1/8; the features are at 1/8, 1/16 and 1/32, both branches together, and the head's."""
        # Stages end before their ReLU, hence all those here: a branch adds what the other tells it first.
        shared = F.relu(self.layer2(F.relu(self.layer1(self.conv1(image)))))

        low = self.layer3(shared)
        high = self.layer3_(shared)
        low_at_16 = F.relu(low + self.down3(F.relu(high)))
        high_after_3 = high + resize_like(self.compression3(F.relu(low)), shared, align_corners=False)

        low = self.layer4(low_at_16)
        high = self.layer4_(F.relu(high_after_3))
        low_at_32 = F.relu(low + self.down4(F.relu(high)))
        high = F.relu(high + resize_like(self.compression4(F.relu(low)), shared, align_corners=False))

        details = self.layer5_(high)
        context = self.spp(self.layer5(low_at_32))
        together = details + resize_like(context, shared, align_corners=False)
        last, logits = self.final_layer(together)
        # The authors' auxiliary head sees the branch of details after its first exchange.
        aux = None
        if self.training and self.seghead_extra is not None:
            _, aux = self.seghead_extra(high_after_3)
        return SegOutput(logits, (shared, low_at_16, low_at_32, together, last), aux)


class DAPPM(AveragePyramid):
    """Deep aggregation: each scale is processed together with all smaller ones."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__(inputs, width, outputs)
        self.process1 = norm_relu_conv(width, width, 3)
        self.process2 = norm_relu_conv(width, width, 3)
        self.process3 = norm_relu_conv(width, width, 3)
        self.process4 = norm_relu_conv(width, width, 3)

    def process(self, first: Tensor, pooled: list[Tensor]) -> list[Tensor]:
        """Return four maps of `width` channels."""
        convolutions = (self.process1, self.process2, self.process3, self.process4)
        processed = []
        before = first
        for convolution, scale in zip(convolutions, pooled, strict=True):
            before = convolution(scale + before)
            processed.append(before)
        return processed
