"""ImageNet weights for a network's backbone."""

from pathlib import Path

import torch
from torch import Tensor

from segdistill.config.schema import NetworkConfig
from segdistill.errors import ModelError, UsageError
from segdistill.networks._backbone import Backbone, PublishedWeights
from segdistill.networks._base import SegNetwork
from segdistill.networks._timm import timm_images
from segdistill.storage.weights import mismatch


def load_backbone(network: SegNetwork, *, pretrained: bool, weights_file: Path | None) -> None:
    """Fill the network's backbone, from the file if there is one, else with published ImageNet weights if wanted.

    Raises:
        UsageError: if there are no such weights, they want other images, there is no such file, or they cannot be
            downloaded, or the network has no part that such weights could fill.
        ModelError: if the file is damaged or its tensors are not the backbone's; the network is as before.
    """
    if weights_file is None and not pretrained:
        return
    if network.backbone is None:
        raise UsageError(
            f"{type(network).__name__} has no backbone that ImageNet weights could fill.",
            "Leave --pretrained and --backbone-weights out; --init-weights FILE starts a student from a model file.",
        )
    backbone = network.backbone
    published = _published(network, backbone) if weights_file is None else backbone.weights_of_file(weights_file)
    expected = backbone.state_dict()
    prefixes = backbone.classifier_prefixes
    tensors = {name: tensor for name, tensor in published.tensors.items() if not name.startswith(prefixes)}
    _add_further_channels(tensors, expected, in_channels=network.mean.shape[1])
    problem = mismatch(expected, tensors)
    if problem:
        optional = " and ".join(f"{prefix}*" for prefix in prefixes)
        raise ModelError(
            f"{published.source} does not hold the tensors of {backbone.name}: {problem}",
            f"Give the weights of a {backbone.name}: the published tensor names, and at most {optional} besides.",
        )
    # Not strict: files of ancient versions lack batch norm's counters, which `mismatch` knows and nothing needs.
    backbone.load_state_dict(tensors, strict=False)
    backbone.weights_source = published.source


def with_published_images(config: NetworkConfig) -> NetworkConfig:
    """Return a configuration that takes images as its backbone's ImageNet weights, unless it says otherwise.

    Only weights of timm differ in that; all others are of ImageNet's mean and deviation, the default.

    Raises:
        UsageError: if timm has no such network.
    """
    _, marker, timm_name = config.network.partition("timm:")
    if not marker or config.input is not None:
        return config
    return config.model_copy(update={"input": timm_images(timm_name)})


def _published(network: SegNetwork, backbone: Backbone) -> PublishedWeights:
    # A network that wants other images than the weights would be fed wrong ones.
    expected = backbone.published_images()
    if network.images != expected:
        raise UsageError(
            f"The ImageNet weights of {backbone.name} were trained with another normalization (mean {expected.mean}, "
            f"std {expected.std}, {expected.order.upper()}) than the network's `input`.",
            "Leave --pretrained or `input` out.",
        )
    return backbone.published_weights()


def _add_further_channels(tensors: dict[str, Tensor], expected: dict[str, Tensor], *, in_channels: int) -> None:
    """Complete the first convolution of weights for RGB: what it sees besides keeps the weights that it has.

    Args:
        tensors: published weights, which are changed.
        expected: the backbone's own tensors.
        in_channels: of the images; the first convolution is the one that takes as many.
    """
    for name in expected.keys() & tensors.keys():
        # Others may have as many inputs by chance; of these the published one has as many too, and fits as it is.
        takes_images = expected[name].shape[1:2] == (in_channels,)
        if takes_images and tensors[name].shape == expected[name][:, :3].shape:
            tensors[name] = torch.cat([tensors[name], expected[name][:, 3:]], dim=1)
