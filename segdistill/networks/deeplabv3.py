"""DeepLabV3 (Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017).

As torchvision and CIRKD (github.com/winycg/CIRKD) have it, with a 3x3 convolution between ASPP and classifier. The head
is 256 wide; on ResNet-18 and -34 it is 128, as in CIRKD of 2022 (`head_width = 512` is that of 2025, on all). Without
`aspp` the atrous convolutions are missing: what remains sees the last stage and the image's mean.
"""

from torch import Tensor, nn

from segdistill.config.schema import NetworkConfig
from segdistill.networks import _resnet
from segdistill.networks._aspp import ASPP, atrous_rates
from segdistill.networks._base import SegNetwork
from segdistill.networks._layers import conv_bn_relu, fcn_head
from segdistill.types import SegOutput

BACKBONES = tuple(_resnet.VARIANTS)
STRIDES = _resnet.STRIDES
OPTIONS = (*_resnet.OPTIONS, "dropout", "head_width", "aspp")


def build(config: NetworkConfig, num_classes: int, in_channels: int) -> SegNetwork:
    """Build the network that `config.network` names in full, such as deeplabv3-resnet101."""
    return DeepLabV3(config, num_classes, in_channels)


class DeepLabV3(SegNetwork):
    """A backbone, ASPP, a 3x3 convolution, a 1x1 classifier, and in training an auxiliary head on stage 3."""

    backbone: _resnet.ResNet

    def __init__(self, config: NetworkConfig, num_classes: int, in_channels: int) -> None:
        super().__init__(num_classes, in_channels)
        assert config.output_stride is not None, "resolved"
        self.backbone = _resnet.resnet(config, in_channels)
        *_, third, last = self.backbone.channels
        width = config.head_width or min(256, last // 4)
        dropout = config.dropout_or(0.1)
        # None is the default, which is yes.
        rates = () if config.aspp is False else atrous_rates(config.output_stride)
        self.aspp = ASPP(last, width, rates, dropout=0.5)  # so in both
        self.fuse = conv_bn_relu(width, width, 3)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        self.auxiliary = fcn_head(third, num_classes, nn.Dropout(dropout)) if config.aux else None

    def segment(self, image: Tensor) -> SegOutput:
        """Return logits at the backbone's stride; the features are the four stages and what feeds the classifier."""
        stages = self.backbone(image)
        fused = self.fuse(self.aspp(stages[-1]))
        logits = self.classifier(self.dropout(fused))
        aux = None
        if self.training and self.auxiliary is not None:
            aux = self.auxiliary(stages[-2])
        return SegOutput(logits, (*stages, fused), aux)
