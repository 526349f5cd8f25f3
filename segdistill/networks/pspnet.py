"""PSPNet (Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017): the last stage and its averages on four grids.

The channels of the head are a quarter of the last stage's, in each grid and after the fusion: 512 for the teachers
and 128 for ResNet-18 in Liu et al. 2019, whose activations leak (`head_slope = 0.01`). `head_width` is that after
the fusion: CIRKD has 256 for ResNet-101 since 2025. Images may have any size.
"""

from functools import partial

import torch
from torch import Tensor, nn

from segdistill.autocast import no_autocast
from segdistill.config import NetworkConfig
from segdistill.networks import _resnet
from segdistill.networks._base import Backbone, SegNetwork, conv_bn_relu, enlarged, fcn_head
from segdistill.networks._timm import timm_backbone
from segdistill.types import SegOutput

BACKBONES = tuple(_resnet.VARIANTS)
STRIDES = _resnet.STRIDES
OPTIONS = (*_resnet.OPTIONS, "dropout", "head_width", "head_slope")
BINS = (1, 2, 3, 6)


def build(config: NetworkConfig, num_classes: int, in_channels: int) -> SegNetwork:
    """Build the network that `config.network` names in full, such as pspnet-resnet18 or pspnet-timm:NAME."""
    return PSPNet(config, num_classes, in_channels)


class PSPNet(SegNetwork):
    """A backbone, pyramid pooling, a 1x1 classifier, and in training an auxiliary head on stage 3."""

    backbone: Backbone

    def __init__(self, config: NetworkConfig, num_classes: int, in_channels: int) -> None:
        super().__init__(num_classes, in_channels)
        self.backbone = (timm_backbone if "timm:" in config.network else _resnet.resnet)(config, in_channels)
        *_, third, last = self.backbone.channels
        width = config.head_width or last // 4
        self.pyramid = PyramidPooling(last, width, config.head_slope or 0.0)
        self.dropout = nn.Dropout2d(config.dropout_or(0.1))
        self.classifier = nn.Conv2d(width, num_classes, 1)
        self.auxiliary = fcn_head(third, num_classes, nn.Dropout2d(config.dropout_or(0.1))) if config.aux else None

    def segment(self, image: Tensor) -> SegOutput:
        """Return logits at the backbone's stride; the features are the four stages and the pyramid's output."""
        stages = self.backbone(image)
        pooled = self.pyramid(stages[-1], align_corners=self.align_corners)
        logits = self.classifier(self.dropout(pooled))
        aux = self.auxiliary(stages[-2]) if self.training and self.auxiliary is not None else None
        return SegOutput(logits, (*stages, pooled), aux)


class PyramidPooling(nn.Module):
    """Averages over grids of 1, 2, 3 and 6 bins a side, each reduced and brought back to size, fused with the input.

    In training, the single bin has one value per image, and batch norm needs two: give it two images or more.
    """

    def __init__(self, inputs: int, width: int, slope: float = 0.0) -> None:
        super().__init__()
        each = inputs // 4
        relu = partial(nn.LeakyReLU, slope) if slope else nn.ReLU
        self.branches = nn.ModuleList(conv_bn_relu(inputs, each, 1, relu=relu) for _ in BINS)
        self.fuse = conv_bn_relu(inputs + len(BINS) * each, width, 3, relu=relu)

    def forward(self, x: Tensor, *, align_corners: bool = False) -> Tensor:
        """Map (B, inputs, h, w) to (B, width, h, w)."""
        with no_autocast(x):  # means of up to all positions: in float32 at least
            grids = grid_averages(x.to(torch.promote_types(x.dtype, torch.float32)))
        context = [
            enlarged(branch(grid), x, align_corners=align_corners)
            for branch, grid in zip(self.branches, grids, strict=True)
        ]
        fused: Tensor = self.fuse(torch.cat([x, *context], dim=1))
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
