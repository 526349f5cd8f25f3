"""What names and shapes of a checkpoint's tensors tell about the network: its outputs, its depth and its parts."""

import re
from collections.abc import Mapping
from typing import Any, TypeGuard

from torch import Tensor

from segdistill.checkpoints.key_maps import KeyMap
from segdistill.config.schema import NetworkConfig
from segdistill.networks import SegNetwork, meta_network, missing_options
from segdistill.networks.espnet import Q_BY_VARIANT
from segdistill.networks.espnetv2 import WIDTHS

PROBE_CLASSES = 7
"""Outputs of a network that only gives its names and shapes: more than the five channels that ESPNet's decoder has at
least."""
RAW_SKIP_CHANNELS = 16
"""Channels beside the logits' that the last convolution of an ESPNet sees where its skip is raw."""
ESPNET_BLOCK = re.compile(r"(?:encoder\.)?level3\.(\d+)\.")
"""Beginnings of the names in an ESPNet's blocks at 1/8, in all key maps."""
ESPNETV2_LAST_SLOPES = re.compile(r"(?:base_net|backbone)\.level4_0\.act\.weight")
"""Name of an ESPNetv2's tensor that has as many numbers as its encoder has channels, in all key maps."""


def with_variant_of(config: NetworkConfig, weights: Mapping[str, Tensor]) -> NetworkConfig:
    """Return the variant of an ESPNet or ESPNetv2 that a checkpoint's tensors tell, where it was left open."""
    if config.network in ("espnet", "espnet-c"):
        return _with_depth_of(config, weights)
    if config.network == "espnetv2":
        return _with_scale_of(config, weights)
    return config


def _with_depth_of(config: NetworkConfig, weights: Mapping[str, Tensor]) -> NetworkConfig:
    """Return the ESPNet that has as many blocks as the checkpoint."""
    blocks = set()
    for name in weights:
        match = ESPNET_BLOCK.match(name)
        if match:
            blocks.add(match[1])
    for variant, num_blocks in Q_BY_VARIANT.items():
        if num_blocks == len(blocks):
            return config.model_copy(update={"network": f"{config.network}-{variant}"})
    return config


def _with_scale_of(config: NetworkConfig, weights: Mapping[str, Tensor]) -> NetworkConfig:
    """Return the ESPNetv2 that has as many channels as the checkpoint."""
    widths = {tensor.numel() for name, tensor in weights.items() if ESPNETV2_LAST_SLOPES.fullmatch(name)}
    for scale, channels in WIDTHS.items():
        if scale and widths == {channels[-1]}:
            return config.model_copy(update={"network": f"{config.network}-{scale}"})
    return config


def with_shapes_of(
    config: NetworkConfig, key_map: KeyMap, *, skeleton: SegNetwork, weights: Mapping[str, Tensor]
) -> NetworkConfig:
    """Return a configuration with the choices that key map, names and shapes tell, but for those made before.

    Args:
        config: as it was asked for.
        key_map: the checkpoint's, with the choices that its publication made.
        skeleton: the network that the configuration describes.
        weights: the checkpoint's tensors, by our names.
    """
    proposals = dict(key_map.options) | _parts(skeleton, weights) | _widths(skeleton, weights)
    requested = config.model_fields_set
    for option, value in proposals.items():
        proposed = config.model_copy(update={option: value})
        # A network without such a choice is not given one: its tensors then tell by themselves that they do not fit.
        if option not in requested and not missing_options(proposed):
            config = proposed
    return config


def count_outputs(config: NetworkConfig, weights: Mapping[str, Tensor]) -> int:
    """Return how many outputs a checkpoint has; `PROBE_CLASSES` where nothing tells.

    Args:
        config: the network, with the depth of the checkpoint.
        weights: the checkpoint's tensors, by our names.
    """
    # An axis that is one longer in a network of one more class is as long as there are outputs.
    probe = meta_network(config, PROBE_CLASSES).state_dict()
    larger = meta_network(config, PROBE_CLASSES + 1).state_dict()
    counts = []
    for name in probe.keys() & weights.keys():
        if weights[name].dim() != probe[name].dim():
            continue
        for axis, sizes in enumerate(zip(probe[name].shape, larger[name].shape, strict=True)):
            if sizes == (PROBE_CLASSES, PROBE_CLASSES + 1):
                counts.append(weights[name].shape[axis])
    # The least: a decoder of ESPNet's can be wider than its outputs.
    return min(counts, default=PROBE_CLASSES)


def _parts(skeleton: SegNetwork, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the choices that tell themselves by parts which are there, or are not."""
    choices: dict[str, Any] = {}
    if "backbone.conv3.weight" in weights:
        # the output of one is as wide as the first stage, that of the other twice as wide
        is_narrow = weights["backbone.conv3.weight"].shape[0] == _stage_width(weights)
        choices["stem"] = "deep-narrow" if is_narrow else "deep"
    if not _has_prefix(weights, "aspp.branches.1."):
        choices["aspp"] = False
    if _has_prefix(skeleton.state_dict(), skeleton.training_only) and not _has_prefix(weights, skeleton.training_only):
        choices["aux"] = False
    return choices


def _stage_width(weights: Mapping[str, Tensor]) -> int | None:
    """Return the channels that a ResNet's first block computes in."""
    norm = weights.get("backbone.layer1.0.bn1.weight")
    return None if norm is None else norm.numel()


def _widths(skeleton: SegNetwork, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the choices that tell themselves by numbers of channels."""
    choices: dict[str, Any] = {}
    classifier = weights.get("classifier.weight")
    usual_classifier = skeleton.state_dict().get("classifier.weight")
    if _is_convolution(classifier) and usual_classifier is not None:
        width = classifier.shape[1]
        if width != usual_classifier.shape[1]:
            choices["head_width"] = width
    decoder = weights.get("conv.conv.weight")
    if _is_convolution(decoder):
        outputs, inputs = decoder.shape[:2]
        if inputs - outputs == RAW_SKIP_CHANNELS:
            choices["skip"] = "raw"
    return choices


def _has_prefix(weights: Mapping[str, Tensor], prefix: str | tuple[str, ...]) -> bool:
    return any(name.startswith(prefix) for name in weights)


def _is_convolution(weight: Tensor | None) -> TypeGuard[Tensor]:
    return weight is not None and weight.dim() == 4
