"""Layers that several networks are made of."""

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def resize_like(x: Tensor, like: Tensor, *, align_corners: bool) -> Tensor:
    """Return maps at the size of `like`, bilinear, and in its memory format.

    A 1x1 map has lost its format, and one part in NCHW would make a whole concatenation NCHW.
    """
    is_channels_last = like.is_contiguous(memory_format=torch.channels_last)
    memory_format = torch.channels_last if is_channels_last else torch.contiguous_format
    resized = F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=align_corners)
    return resized.contiguous(memory_format=memory_format)


def conv_bn_relu(
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    relu: Callable[..., nn.Module] = nn.ReLU,
) -> nn.Sequential:
    """Return a convolution that keeps the size at stride 1, batch norm and ReLU."""
    conv = nn.Conv2d(
        inputs,
        outputs,
        kernel,
        stride=stride,
        padding=kernel // 2 * dilation,
        dilation=dilation,
        groups=groups,
        bias=False,
    )
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), relu(inplace=True))


def separable(inputs: int, outputs: int, *, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Return a 3x3 convolution of each channel by itself and a 1x1 of all, each with batch norm and ReLU."""
    depthwise = conv_bn_relu(inputs, inputs, 3, stride=stride, dilation=dilation, groups=inputs)
    pointwise = conv_bn_relu(inputs, outputs, 1)
    # One flat row, as the published tensors are numbered.
    return nn.Sequential(*depthwise, *pointwise)


def fcn_head(inputs: int, num_classes: int, dropout: nn.Module) -> nn.Sequential:
    """Return a 3x3 convolution to a quarter of the channels, dropout, and the classifier.

    FCN's own head in torchvision, and the auxiliary head on stage 3 that helps other networks in training.
    """
    width = inputs // 4
    return nn.Sequential(conv_bn_relu(inputs, width, 3), dropout, nn.Conv2d(width, num_classes, 1))


def named_sequential(**layers: nn.Module) -> nn.Sequential:
    """Return layers in a row whose tensors have names, as published checkpoints call them.

    `named_sequential(conv=..., bn=...)` has the tensors conv.weight, bn.weight and so on.
    """
    return nn.Sequential(OrderedDict(layers))


def initialize_convolutions(network: nn.Module) -> None:
    """Draw the weights of all convolutions as He et al. 2015 do, by the number of their outputs."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
