"""Atrous spatial pyramid pooling (Chen et al., "Rethinking Atrous Convolution", 2017), the head of three networks."""

from functools import partial

import torch
from torch import Tensor, nn

from segdistill.networks._base import conv_bn_relu, enlarged, separable


def atrous_rates(output_stride: int) -> tuple[int, ...]:
    """Return the published rates: 6, 12 and 18 on a map of stride 16, on a finer one as far apart in the image."""
    return tuple(96 // output_stride * k for k in (1, 2, 3))


class ASPP(nn.Module):
    """A 1x1 convolution, one 3x3 per rate, and the image's mean, all of one width, projected to that width.

    In training the mean has one value per image and channel, and batch norm needs two: give it two images or more.
    """

    def __init__(
        self, inputs: int, width: int, rates: tuple[int, ...], *, dropout: float, separately: bool = False
    ) -> None:
        super().__init__()
        atrous = separable if separately else partial(conv_bn_relu, kernel=3)
        convolutions = (atrous(inputs, width, dilation=rate) for rate in rates)
        self.branches = nn.ModuleList([conv_bn_relu(inputs, width, 1), *convolutions])
        self.pool = conv_bn_relu(inputs, width, 1)
        self.project = conv_bn_relu((2 + len(rates)) * width, width, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, h, w) to (B, width, h, w)."""
        mean = enlarged(self.pool(x.mean(dim=(2, 3), keepdim=True)), x, align_corners=False)
        branches = [branch(x) for branch in self.branches]
        projected: Tensor = self.dropout(self.project(torch.cat([*branches, mean], dim=1)))
        return projected
