"""The efficient pyramid of ESPNetv2's decoder: one depth-wise convolution at each of five sizes of a map."""

from fractions import Fraction
from math import gcd
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segdistill.networks._grids import averaging_matrix
from segdistill.networks._layers import resize_like

SCALES = (Fraction(2), Fraction(3, 2), Fraction(1), Fraction(1, 2), Fraction(1, 10))
"""Sizes at which a map is seen, as fractions of its own."""
MIN_SIDE = 5
"""Height and width that a map has at least, at any scale but its own."""


class PyramidOfScales(nn.Module):
    """A reduced map seen at five sizes, brought back to its own and merged; tensor names as in the authors' code.

    Args:
        inputs: channels.
        width: channels of the reduced map.
        outputs: channels.
        is_last: whether it is the classifier: a bias in the place of batch norm and PReLU.
    """

    def __init__(self, inputs: int, width: int, outputs: int, *, is_last: bool = False) -> None:
        super().__init__()
        self.stages = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False) for _ in SCALES)
        self.projection_layer = _named("cbr", *_conv_norm_act(inputs, width, 1))
        self.merge_layer = nn.Sequential(
            _named("br", *_norm_act(width * len(SCALES))),
            Interleaving(len(SCALES)),
            _named("cbr", *_conv_norm_act(width * len(SCALES), width, 3, groups=width)),
            nn.Conv2d(width, outputs, 1, bias=is_last),
        )
        self.br = None if is_last else _named("br", *_norm_act(outputs))
        self.averages_by_matrices = False

    def prepare_for_export(self) -> None:
        """Average by matrices: the ONNX export of adaptive pooling is wrong at sizes other than the traced one."""
        self.averages_by_matrices = True

    def forward(self, x: Tensor, *, align_corners: bool) -> Tensor:
        """Map (B, inputs, h, w) to (B, outputs, h, w)."""
        reduced = self.projection_layer(x)
        maps = []
        for scale, convolution in zip(SCALES, self.stages, strict=True):
            scaled = convolution(self._at_scale(reduced, scale, align_corners=align_corners))
            maps.append(self._back(scaled, reduced, scale, align_corners=align_corners))
        merged: Tensor = self.merge_layer(torch.cat(maps, dim=1))
        if self.br is None:
            return merged
        activated: Tensor = self.br(merged)
        return activated

    def _at_scale(self, x: Tensor, scale: Fraction, *, align_corners: bool) -> Tensor:
        if scale == 1:
            return x
        height, width = (scaled_side(side, scale) for side in x.shape[-2:])
        if scale > 1:
            return F.interpolate(x, (height, width), mode="bilinear", align_corners=align_corners)
        return self._average(x, height, width)

    def _back(self, x: Tensor, like: Tensor, scale: Fraction, *, align_corners: bool) -> Tensor:
        if scale == 1:
            return x
        if scale > 1:
            return self._average(x, like.shape[-2], like.shape[-1])
        return resize_like(x, like, align_corners=align_corners)

    def _average(self, x: Tensor, height: int, width: int) -> Tensor:
        if self.averages_by_matrices:
            return averaging_matrix(x.shape[-2], height, x) @ x @ averaging_matrix(x.shape[-1], width, x).mT
        return F.adaptive_avg_pool2d(x, (height, width))


class Interleaving(nn.Module):
    """Channels of several maps of equal width in turns: the first of each, then the second of each, and so on."""

    def __init__(self, num_maps: int) -> None:
        super().__init__()
        self.num_maps = num_maps

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, num_maps * D, h, w) to the same shape."""
        by_map: Tensor = x.unflatten(1, (self.num_maps, -1))
        return by_map.transpose(1, 2).flatten(1, 2)


class GatedConvolution(nn.Module):
    """A grouped 3x3 convolution of an encoder's map, weighted by a gate that sees the mean of the whole map."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        gate = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.wt_layer = nn.Sequential(MeanOfMap(), gate, nn.Sigmoid())
        self.expansion_layer = _named("cbr", *_conv_norm_act(inputs, outputs, 3, groups=gcd(inputs, outputs)))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, h, w) to (B, outputs, h, w)."""
        weighted: Tensor = self.expansion_layer(x) * self.wt_layer(x)
        return weighted


class MeanOfMap(nn.Module):
    """The mean over all positions; a module of its own, as the tensors behind it are numbered by their places."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, D, h, w) to (B, D, 1, 1)."""
        return x.mean(dim=(2, 3), keepdim=True)


def scaled_side(side: int, scale: Fraction) -> int:
    """Return a height or width at a scale: rounded up, and `MIN_SIDE` at least."""
    # In an exported graph, division of a negative number would round towards zero.
    rounded_up = (side * scale.numerator + scale.denominator - 1) // scale.denominator
    # max() would make the size at which a graph is traced part of it.
    return cast(int, torch.sym_max(rounded_up, MIN_SIDE))


def norm_act(channels: int) -> nn.Sequential:
    """Return batch norm and PReLU, numbered."""
    return nn.Sequential(*_norm_act(channels))


def _norm_act(channels: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels), nn.PReLU(channels)]


def _conv_norm_act(inputs: int, outputs: int, kernel: int, *, groups: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
    return [convolution, *_norm_act(outputs)]


def _named(name: str, *layers: nn.Module) -> nn.Sequential:
    """Return numbered layers below a name, as the authors' blocks have them: cbr.0, cbr.1 and so on."""
    outer = nn.Sequential()
    outer.add_module(name, nn.Sequential(*layers))
    return outer
