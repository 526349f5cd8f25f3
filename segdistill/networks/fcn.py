"""FCN (Long et al., CVPR 2015) on a dilated ResNet, with the head that torchvision gives it.

Qiu et al. 2024 name FCN among their networks; their code does not contain it, so this one is torchvision's.
"""

from torch import Tensor, nn

from segdistill.config.schema import NetworkConfig
from segdistill.networks import _resnet
from segdistill.networks._base import SegNetwork
from segdistill.networks._layers import fcn_head
from segdistill.types import SegOutput

BACKBONES = tuple(_resnet.VARIANTS)
STRIDES = _resnet.STRIDES
OPTIONS = (*_resnet.OPTIONS, "dropout")


def build(config: NetworkConfig, num_classes: int, in_channels: int) -> SegNetwork:
    """Build the network that `config.network` names in full, such as fcn-resnet18."""
    return FCN(config, num_classes, in_channels)


class FCN(SegNetwork):
    """A backbone, the head on its last stage, and in training another on stage 3."""

    backbone: _resnet.ResNet

    def __init__(self, config: NetworkConfig, num_classes: int, in_channels: int) -> None:
        super().__init__(num_classes, in_channels)
        self.backbone = _resnet.resnet(config, in_channels)
        *_, third, last = self.backbone.channels
        dropout = config.dropout_or(0.1)
        # Apart, because the first part's output is among the features.
        self.reduce, self.dropout, self.classifier = fcn_head(last, num_classes, nn.Dropout(dropout))
        self.auxiliary = fcn_head(third, num_classes, nn.Dropout(dropout)) if config.aux else None

    def segment(self, image: Tensor) -> SegOutput:
        """Return logits at the backbone's stride; the features are the four stages and what feeds the classifier."""
        stages = self.backbone(image)
        reduced = self.reduce(stages[-1])
        logits = self.classifier(self.dropout(reduced))
        aux = None
        if self.training and self.auxiliary is not None:
            aux = self.auxiliary(stages[-2])
        return SegOutput(logits, (*stages, reduced), aux)
