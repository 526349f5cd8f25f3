"""Atrous spatial pyramid pooling (Chen et al., "Rethinking Atrous Convolution", 2017), the head of three networks."""

import torch
from torch import Tensor, nn

from segdistill.networks._layers import conv_bn_relu, resize_like, separable


def atrous_rates(output_stride: int) -> tuple[int, ...]:
    """Return the published rates: 6, 12 and 18 on a map of stride 16, on a finer one as far apart in the image."""
    first = 96 // output_stride
    return (first, 2 * first, 3 * first)


class ASPP(nn.Module):
    """A 1x1 convolution, one 3x3 per rate, and the image's mean, all of one width, projected to that width.

    In training the mean has one value per image and channel, and batch norm needs two: give it two images or more.
    """

    def __init__(
        self, inputs: int, width: int, rates: tuple[int, ...], *, dropout: float, is_separable: bool = False
    ) -> None:
        super().__init__()
        branches = [conv_bn_relu(inputs, width, 1)]
        for rate in rates:
            if is_separable:
                branches.append(separable(inputs, width, dilation=rate))
            else:
                branches.append(conv_bn_relu(inputs, width, 3, dilation=rate))
        self.branches = nn.ModuleList(branches)
        self.pool = conv_bn_relu(inputs, width, 1)
        concatenated = (len(branches) + 1) * width
        self.project = conv_bn_relu(concatenated, width, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, h, w) to (B, width, h, w)."""
        mean = self.pool(x.mean(dim=(2, 3), keepdim=True))
        mean = resize_like(mean, x, align_corners=False)  # a constant map, whatever the corners
        branches = [branch(x) for branch in self.branches]
        projected: Tensor = self.dropout(self.project(torch.cat([*branches, mean], dim=1)))
        return projected
