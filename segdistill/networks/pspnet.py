"""PSPNet (Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017): the last stage and its averages on four grids.

The channels of the head are a quarter of the last stage's, in each grid and after the fusion: 512 for the teachers
and 128 for ResNet-18 in Liu et al. 2019, whose activations leak (`head_slope = 0.01`). `head_width` is that after
the fusion: CIRKD has 256 for ResNet-101 since 2025. Images may have any size.
"""

from functools import partial

import torch
from torch import Tensor, nn

from segdistill.config.schema import NetworkConfig
from segdistill.networks import _resnet
from segdistill.networks._backbone import Backbone
from segdistill.networks._base import SegNetwork
from segdistill.networks._grids import BINS, grid_averages
from segdistill.networks._layers import conv_bn_relu, fcn_head, resize_like
from segdistill.networks._timm import timm_backbone
from segdistill.runtime.autocast import no_autocast
from segdistill.types import SegOutput

BACKBONES = tuple(_resnet.VARIANTS)
STRIDES = _resnet.STRIDES
OPTIONS = (*_resnet.OPTIONS, "dropout", "head_width", "head_slope")


def build(config: NetworkConfig, num_classes: int, in_channels: int) -> SegNetwork:
    """Build the network that `config.network` names in full, such as pspnet-resnet18 or pspnet-timm:NAME."""
    return PSPNet(config, num_classes, in_channels)


class PSPNet(SegNetwork):
    """A backbone, pyramid pooling, a 1x1 classifier, and in training an auxiliary head on stage 3."""

    backbone: Backbone

    def __init__(self, config: NetworkConfig, num_classes: int, in_channels: int) -> None:
        super().__init__(num_classes, in_channels)
        build_backbone = timm_backbone if "timm:" in config.network else _resnet.resnet
        self.backbone = build_backbone(config, in_channels)
        *_, third, last = self.backbone.channels  # of timm's networks some have a map at stride 2 before them
        width = config.head_width or last // 4
        dropout = config.dropout_or(0.1)
        self.pyramid = PyramidPooling(last, width, config.head_slope or 0.0)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        self.auxiliary = fcn_head(third, num_classes, nn.Dropout2d(dropout)) if config.aux else None

    def segment(self, image: Tensor) -> SegOutput:
        """Return logits at the backbone's stride; the features are the four stages and the pyramid's output."""
        stages = self.backbone(image)
        pooled = self.pyramid(stages[-1], align_corners=self.align_corners)
        logits = self.classifier(self.dropout(pooled))
        aux = None
        if self.training and self.auxiliary is not None:
            aux = self.auxiliary(stages[-2])
        return SegOutput(logits, (*stages, pooled), aux)


class PyramidPooling(nn.Module):
    """Averages over grids of 1, 2, 3 and 6 bins a side, each reduced and brought back to size, fused with the input.

    In training, the single bin has one value per image, and batch norm needs two: give it two images or more.
    """

    def __init__(self, inputs: int, width: int, slope: float = 0.0) -> None:
        super().__init__()
        reduced = inputs // 4
        relu = partial(nn.LeakyReLU, slope) if slope else nn.ReLU
        self.branches = nn.ModuleList(conv_bn_relu(inputs, reduced, 1, relu=relu) for _ in BINS)
        concatenated = inputs + len(BINS) * reduced
        self.fuse = conv_bn_relu(concatenated, width, 3, relu=relu)

    def forward(self, x: Tensor, *, align_corners: bool = False) -> Tensor:
        """Map (B, inputs, h, w) to (B, width, h, w)."""
        with no_autocast(x):  # means of up to all positions: in float32 at least
            grids = grid_averages(x.to(torch.promote_types(x.dtype, torch.float32)))
        maps = [x]
        for branch, grid in zip(self.branches, grids, strict=True):
            maps.append(resize_like(branch(grid), x, align_corners=align_corners))
        fused: Tensor = self.fuse(torch.cat(maps, dim=1))
        return fused
