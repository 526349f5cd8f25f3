"""DeepLabV3+ (Chen et al., "Encoder-Decoder with Atrous Separable Convolution", ECCV 2018).

ASPP and a decoder of separable convolutions that brings its output to stage 1, at stride 4, as in the authors' code
(github.com/tensorflow/models, research/deeplab). On ResNet-50 with `stem = "deep"` and 21 classes it has the 26.82 M
parameters of He et al. 2019's teacher, whose output stride is 8. The authors' ResNets stride at the end of a stage
where ours, torchvision's, stride at the beginning of the next.
"""

import torch
from torch import Tensor, nn

from segdistill.config.schema import NetworkConfig
from segdistill.networks import _resnet
from segdistill.networks._aspp import ASPP, atrous_rates
from segdistill.networks._base import SegNetwork
from segdistill.networks._layers import conv_bn_relu, resize_like, separable
from segdistill.types import SegOutput

BACKBONES = tuple(_resnet.VARIANTS)
STRIDES = (16, 8, 32)
OPTIONS = (*_resnet.OPTIONS, "dropout", "head_width")
SHALLOW_WIDTH = 48
"""Channels that are left of stage 1, so that it does not outweigh the others."""


def build(config: NetworkConfig, num_classes: int, in_channels: int) -> SegNetwork:
    """Build the network that `config.network` names in full, such as deeplabv3plus-resnet50."""
    return DeepLabV3Plus(config, num_classes, in_channels)


class DeepLabV3Plus(SegNetwork):
    """A backbone, ASPP, the decoder and a 1x1 classifier, without an auxiliary head."""

    backbone: _resnet.ResNet

    def __init__(self, config: NetworkConfig, num_classes: int, in_channels: int) -> None:
        super().__init__(num_classes, in_channels)
        assert config.output_stride is not None, "resolved"
        self.backbone = _resnet.resnet(config, in_channels)
        first, *_, last = self.backbone.channels
        width = config.head_width or 256
        rates = atrous_rates(config.output_stride)
        self.aspp = ASPP(last, width, rates, dropout=config.dropout_or(0.1), is_separable=True)
        self.shallow = conv_bn_relu(first, SHALLOW_WIDTH, 1)
        self.decoder = nn.Sequential(separable(width + SHALLOW_WIDTH, width), separable(width, width))
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def segment(self, image: Tensor) -> SegOutput:
        """Return logits at stride 4; the features are the four stages and the decoder's output."""
        stages = self.backbone(image)
        shallow = self.shallow(stages[0])
        deep = resize_like(self.aspp(stages[-1]), shallow, align_corners=self.align_corners)
        decoded = self.decoder(torch.cat([deep, shallow], dim=1))
        logits = self.classifier(decoded)
        return SegOutput(logits, (*stages, decoded), None)
