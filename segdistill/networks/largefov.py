"""DeepLab-LargeFOV (Chen et al., ICLR 2015) on MobileNetV1: the student of Xie et al. 2018.

VGG's fully connected layers as convolutions: 3x3 with rate 12, then 1x1, 1024 channels each, with ReLU and dropout and
without batch norm. Xie et al. published no code, and no source we found says at which output stride they ran it, nor
why Liu et al. 2019 count 14.35 M parameters where this network has 13.71 M. At stride 16 it takes 239 GFLOPs for
1024x2048, where the authors of HRNet list 240; so that is the default.
"""

from torch import Tensor, nn

from segdistill.config.schema import NetworkConfig
from segdistill.networks._base import SegNetwork
from segdistill.networks._mobilenet import MobileNetV1
from segdistill.types import SegOutput

BACKBONES = ("mobilenetv1",)
STRIDES = (16, 8, 32)
OPTIONS = ("dropout",)
WIDTH = 1024
RATE = 12


def build(config: NetworkConfig, num_classes: int, in_channels: int) -> SegNetwork:
    """Build the network that `config.network` names in full, such as largefov-mobilenetv1."""
    return LargeFOV(config, num_classes, in_channels)


class LargeFOV(SegNetwork):
    """A backbone, two wide convolutions and a 1x1 classifier, without an auxiliary head."""

    backbone: MobileNetV1

    def __init__(self, config: NetworkConfig, num_classes: int, in_channels: int) -> None:
        super().__init__(num_classes, in_channels)
        assert config.output_stride is not None, "resolved"
        self.backbone = MobileNetV1(config.output_stride, in_channels)
        self.fc6 = nn.Conv2d(self.backbone.channels[-1], WIDTH, 3, padding=RATE, dilation=RATE)
        self.fc7 = nn.Conv2d(WIDTH, WIDTH, 1)
        self.fc8 = nn.Conv2d(WIDTH, num_classes, 1)
        self.dropout = nn.Dropout(config.dropout_or(0.5))

    def segment(self, image: Tensor) -> SegOutput:
        """Return logits at the backbone's stride; the features are its four maps and what feeds the classifier."""
        maps = self.backbone(image)
        wide = self.fc6(maps[-1]).relu()
        wide = self.fc7(self.dropout(wide)).relu()
        logits = self.fc8(self.dropout(wide))
        return SegOutput(logits, (*maps, wide), None)
