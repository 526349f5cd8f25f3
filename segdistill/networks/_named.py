"""Layers in a row whose tensors have names, as published checkpoints call them."""

from collections import OrderedDict

from torch import nn


def named(**layers: nn.Module) -> nn.Sequential:
    """Return the layers in a row: `named(conv=..., bn=...)` has the tensors conv.weight, bn.weight and so on."""
    return nn.Sequential(OrderedDict(layers))
