"""The blocks of ESPNetv2's encoder (Mehta et al., CVPR 2019): pyramids of depth-wise dilated convolutions.

Tensor names are those of the authors' code, sacmehta/EdgeNets.
"""

from itertools import accumulate

import torch
from torch import Tensor, nn

from segdistill.networks._layers import named_sequential

BRANCHES = 4
"""Dilated convolutions in a block, and groups of its 1x1 convolutions."""


class EESP(nn.Module):
    """Reduced maps seen by depth-wise convolutions of growing dilation, summed up one by one, concatenated and mixed.

    Args:
        inputs: channels; a multiple of `BRANCHES`, as the outputs.
        outputs: channels.
        last_dilation: the largest one; see `dilations`.
        stride: 1, or 2 in a block that halves the size, which has neither shortcut nor activation.
    """

    def __init__(self, inputs: int, outputs: int, *, last_dilation: int = BRANCHES, stride: int = 1) -> None:
        super().__init__()
        width = outputs // BRANCHES
        self.proj_1x1 = _conv_norm_act(inputs, width, 1, groups=BRANCHES)
        self.spp_dw = nn.ModuleList(
            named_sequential(
                conv=nn.Conv2d(width, width, 3, stride, padding=rate, dilation=rate, groups=width, bias=False)
            )
            for rate in dilations(last_dilation)
        )
        self.conv_1x1_exp = named_sequential(
            conv=nn.Conv2d(outputs, outputs, 1, groups=BRANCHES, bias=False), bn=nn.BatchNorm2d(outputs)
        )
        self.br_after_cat = named_sequential(bn=nn.BatchNorm2d(outputs), act=nn.PReLU(outputs))
        # The authors' halving blocks have one too, which they do not compute with.
        self.module_act = nn.PReLU(outputs) if stride == 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, h, w) to (B, outputs, h / stride, w / stride), rounded up."""
        reduced = self.proj_1x1(x)
        branches = [convolution(reduced) for convolution in self.spp_dw]
        merged = torch.cat(list(accumulate(branches)), dim=1)
        expanded: Tensor = self.conv_1x1_exp(self.br_after_cat(merged))
        if self.module_act is None:
            return expanded
        activated: Tensor = self.module_act(expanded + x)
        return activated


class Downsampling(nn.Module):
    """Half the size and twice the channels or more: the averaged input, a block's outputs, and the image added to both.

    Args:
        inputs: channels.
        outputs: channels, those of the averaged input among them.
        in_channels: of the images.
    """

    def __init__(self, inputs: int, outputs: int, *, in_channels: int) -> None:
        super().__init__()
        self.eesp = EESP(inputs, outputs - inputs, stride=2)
        self.avg = halving()
        mixed = named_sequential(conv=nn.Conv2d(in_channels, outputs, 1, bias=False), bn=nn.BatchNorm2d(outputs))
        self.inp_reinf = nn.Sequential(_conv_norm_act(in_channels, in_channels, 3), mixed)
        self.act = nn.PReLU(outputs)

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        """Map (B, inputs, h, w), and the images at half that size, to (B, outputs, h / 2, w / 2), rounded up."""
        halved = torch.cat([self.avg(x), self.eesp(x)], dim=1)
        out: Tensor = self.act(halved + self.inp_reinf(image))
        return out


def dilations(last: int) -> tuple[int, ...]:
    """Return the dilations of a block, in order: 1 to 4, but 1 in the place of each that is larger than the last."""
    return tuple(sorted(rate if rate <= last else 1 for rate in range(1, BRANCHES + 1)))


def halving() -> nn.AvgPool2d:
    """Return an average of 3x3 at every other position; what lies outside counts as zero."""
    return nn.AvgPool2d(3, stride=2, padding=1)


def conv_norm_act(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    """Return a 3x3 convolution, batch norm and PReLU, by the encoder's names."""
    return _conv_norm_act(inputs, outputs, 3, stride=stride)


def _conv_norm_act(inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return named_sequential(conv=convolution, bn=nn.BatchNorm2d(outputs), act=nn.PReLU(outputs))
