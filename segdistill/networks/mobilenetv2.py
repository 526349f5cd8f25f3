"""MobileNetV2 as a segmentation network: its own form of DeepLabV3, without atrous convolutions and decoder.

Sandler et al. (CVPR 2018, section 6.3); at output stride 16 the student of He et al. 2019, whose 2.11 M parameters it
has with 21 classes. From the authors' code (github.com/tensorflow/models, research/deeplab): a 1x1 convolution and the
image's mean, 256 channels each, projected to 256.
"""

from torch import Tensor, nn

from segdistill.config.schema import NetworkConfig
from segdistill.networks._aspp import ASPP
from segdistill.networks._base import SegNetwork
from segdistill.networks._mobilenet import V2_STEPS, MobileNetV2
from segdistill.types import SegOutput

BACKBONES = ("", "1.3", "1.4")
"""Width multipliers; 1 has no name."""
STRIDES = (16, 8, 32)
OPTIONS = ("dropout", "head_width")


def build(config: NetworkConfig, num_classes: int, in_channels: int) -> SegNetwork:
    """Build the network that `config.network` names in full, such as mobilenetv2-1.4."""
    return MobileNetV2Segmentation(config, num_classes, in_channels)


class MobileNetV2Segmentation(SegNetwork):
    """A backbone, the projection and a 1x1 classifier, without an auxiliary head."""

    backbone: MobileNetV2

    def __init__(self, config: NetworkConfig, num_classes: int, in_channels: int) -> None:
        super().__init__(num_classes, in_channels)
        assert config.output_stride is not None, "resolved"
        multiplier = float(config.network.partition("-")[2] or 1)
        self.backbone = MobileNetV2(V2_STEPS[config.output_stride], multiplier, in_channels)
        width = config.head_width or 256
        no_rates = ()
        self.project = ASPP(self.backbone.channels[-1], width, no_rates, dropout=config.dropout_or(0.1))
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def segment(self, image: Tensor) -> SegOutput:
        """Return logits at the backbone's stride; the features are its seven groups' and the projection."""
        maps = self.backbone(image)
        projected = self.project(maps[-1])
        logits = self.classifier(projected)
        return SegOutput(logits, (*maps, projected), None)
