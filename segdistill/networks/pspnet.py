"""PSPNet (Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017): the last stage and its averages on four grids.

The channels of the head are a quarter of the last stage's, in each grid and after the fusion: 512 for the teachers
and 128 for ResNet-18 in Liu et al. 2019, here with plain batch norm and ReLU. Images may have any size.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segdistill.config import NetworkConfig
from segdistill.networks._base import Backbone, SegNetwork, auxiliary_head, conv_bn_relu
from segdistill.networks._resnet import VARIANTS, ResNet
from segdistill.networks._timm import timm_backbone
from segdistill.types import SegOutput

BACKBONES = tuple(VARIANTS)
BINS = (1, 2, 3, 6)


def build(config: NetworkConfig, num_classes: int, in_channels: int) -> SegNetwork:
    """Build the network that `config.network` names in full, such as pspnet-resnet18 or pspnet-timm:NAME."""
    backbone: Backbone
    if "timm:" in config.network:
        backbone = timm_backbone(config, in_channels)
    else:
        backbone = ResNet(config.network.removeprefix("pspnet-"), config.output_stride, in_channels)
    return PSPNet(backbone, num_classes, in_channels, aux=config.aux, dropout=config.dropout)


class PSPNet(SegNetwork):
    """A backbone, pyramid pooling, a 1x1 classifier, and in training an auxiliary head on stage 3."""

    backbone: Backbone

    def __init__(self, backbone: Backbone, num_classes: int, in_channels: int, *, aux: bool, dropout: float) -> None:
        super().__init__(num_classes, in_channels)
        *_, third, last = backbone.channels
        self.backbone = backbone
        self.pyramid = PyramidPooling(last, last // 4)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(last // 4, num_classes, 1)
        self.auxiliary = auxiliary_head(third, num_classes, dropout) if aux else None

    def segment(self, image: Tensor) -> SegOutput:
        """Return logits at the backbone's stride; the features are the four stages and the pyramid's output."""
        stages = self.backbone(image)
        pooled = self.pyramid(stages[-1])
        logits = self.classifier(self.dropout(pooled))
        aux = self.auxiliary(stages[-2]) if self.training and self.auxiliary is not None else None
        return SegOutput(logits, (*stages, pooled), aux)


class PyramidPooling(nn.Module):
    """Averages over grids of 1, 2, 3 and 6 bins a side, each reduced and brought back to size, fused with the input.

    In training, the single bin has one value per image, and batch norm needs two: give it two images or more.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(conv_bn_relu(inputs, width, 1) for _ in BINS)
        self.fuse = conv_bn_relu(inputs + len(BINS) * width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, h, w) to (B, width, h, w)."""
        with torch.autocast(x.device.type, enabled=False):  # means of up to all positions: in float32
            grids = grid_averages(x.float())
        # A 1x1 map has lost its memory format, and one NCHW part would make the whole concatenation NCHW.
        layout = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
        context = [
            F.interpolate(branch(grid), size=x.shape[-2:], mode="bilinear", align_corners=False)
            for branch, grid in zip(self.branches, grids, strict=True)
        ]
        fused: Tensor = self.fuse(torch.cat([x, *(part.contiguous(memory_format=layout) for part in context)], dim=1))
        return fused


def grid_averages(x: Tensor) -> list[Tensor]:
    """Average (B, D, h, w) over grids of n x n for each n in BINS: (B, D, n, n), as `F.adaptive_avg_pool2d` does.

    One matrix product, because the ONNX export of adaptive pooling is wrong at sizes other than the traced one, and
    its backward pass is ten times slower on channels_last memory.
    """
    batch, channels, height, width = x.shape
    matrix = torch.cat([_outer(averaging_matrix(height, n, x), averaging_matrix(width, n, x)) for n in BINS])
    averages = matrix @ x.flatten(2).mT  # (B, sum of n * n, D)
    parts = averages.split_with_sizes([n * n for n in BINS], dim=1)
    return [part.mT.reshape(batch, channels, n, n) for n, part in zip(BINS, parts, strict=True)]


def averaging_matrix(size: int, bins: int, like: Tensor) -> Tensor:
    """Return (bins, size): row i averages the positions that overlap the i-th of `bins` equal parts of `size`."""
    position = torch.arange(size, device=like.device)
    i = torch.arange(bins, device=like.device).unsqueeze(1)
    inside = ((position + 1) * bins > i * size) & (position * bins < (i + 1) * size)
    return inside.to(like.dtype) / inside.sum(dim=1, keepdim=True)


def _outer(rows: Tensor, columns: Tensor) -> Tensor:
    """Return (n * n, h * w) from (n, h) and (n, w)."""
    return (rows[:, None, :, None] * columns[None, :, None, :]).flatten(2).flatten(0, 1)
