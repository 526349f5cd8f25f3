"""DeepLab-v2 (Chen et al., TPAMI 2018), without its CRF and its multi-scale inputs.

ASPP-L is the sum of four classifiers on the last stage, 3x3 convolutions with rates 6, 12, 18 and 24. The authors'
network is a ResNet-101 of stride 8 with `dilation = "early"`, as in their Caffe files; theirs strides in the first 1x1
convolution of a stage, ours in the 3x3 (v1.5), and batch norm is trained here.
"""

import torch
from torch import Tensor, nn

from segdistill.config.schema import NetworkConfig
from segdistill.networks import _resnet
from segdistill.networks._base import SegNetwork
from segdistill.types import SegOutput

BACKBONES = tuple(_resnet.VARIANTS)
STRIDES = _resnet.STRIDES
OPTIONS = _resnet.OPTIONS
RATES = (6, 12, 18, 24)


def build(config: NetworkConfig, num_classes: int, in_channels: int) -> SegNetwork:
    """Build the network that `config.network` names in full, such as deeplabv2-resnet101."""
    return DeepLabV2(config, num_classes, in_channels)


class DeepLabV2(SegNetwork):
    """A backbone and the classifiers, without an auxiliary head."""

    backbone: _resnet.ResNet

    def __init__(self, config: NetworkConfig, num_classes: int, in_channels: int) -> None:
        super().__init__(num_classes, in_channels)
        self.backbone = _resnet.resnet(config, in_channels)
        width = self.backbone.channels[-1]
        classifiers = [nn.Conv2d(width, num_classes, 3, padding=rate, dilation=rate) for rate in RATES]
        for classifier in classifiers:  # as in the authors' training files
            nn.init.normal_(classifier.weight, std=0.01)
            assert classifier.bias is not None
            nn.init.zeros_(classifier.bias)
        self.classifiers = nn.ModuleList(classifiers)

    def segment(self, image: Tensor) -> SegOutput:
        """Return logits at the backbone's stride; the features are the four stages."""
        stages = self.backbone(image)
        by_rate = [classifier(stages[-1]) for classifier in self.classifiers]
        logits = torch.stack(by_rate).sum(dim=0)
        return SegOutput(logits, stages, None)
