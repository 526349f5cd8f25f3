"""The network that a checkpoint holds, where it is not the one that was asked for."""

import re
from collections.abc import Mapping

from torch import Tensor

from segdistill.checkpoints.key_maps import key_maps_of, renamed
from segdistill.commands._import_choices import PROBE_CLASSES
from segdistill.commands._import_prefix import needed_names, prefixes_with, within
from segdistill.config.schema import NetworkConfig
from segdistill.networks import meta_network, network_names, resolve
from segdistill.storage.weights import BATCH_COUNTER

CHOICES = "--set KEY=VALUE makes the choices that a network has, such as stem=deep or head_width=512."
TEACH = "It can teach: built by its own code, --teacher py:MODULE:FUNCTION; exported by that, --teacher onnx:FILE"
FOREIGN_NETWORKS = {
    r"decode_head\.sep_bottleneck\.": "mmsegmentation's DeepLabV3+, which fuses its branches by a 3x3 convolution: "
    "deeplabv3plus-* here have a 1x1 there, as the authors'",
    r"decode_head\.aspp_modules\.": "mmsegmentation's DeepLabV3, which fuses its branches by one 3x3 convolution: "
    "deeplabv3-* here have a 1x1 and a 3x3 there, as torchvision's",
    r"decode_head\.conv_cat\.": "mmsegmentation's FCN, which has two 3x3 convolutions and one more over them and their "
    "input: fcn-* here have one, as torchvision's",
    r"backbone\.layer\d\.0\.downsample\.2\.": "a ResNet-D, whose shortcuts average before their 1x1 convolution: the "
    "ResNets here do not",
    r"decode_head\.psp_modules\.": "mmsegmentation's PSPNet on a backbone that is not here",
    r"decode_head\.": "mmsegmentation's, with a head that is not here",
    r"segmentation_head\.0\.": "segmentation_models.pytorch's, and none of its Unets on a ResNet",
}
"""Networks that are not here, by the beginning of a name that gives them away, and how they differ from ours."""


def network_advice(published: Mapping[str, Tensor], requested: str) -> str:
    """Return in a sentence which `--network` a checkpoint holds.

    Args:
        published: all of its tensors, by their published names.
        requested: full name of the network that was asked for, whose shapes do not fit.
    """
    if _count_alike(published, requested):
        return f"Give the --network that it holds, as `segdistill networks` lists them. {CHOICES}"
    counts = {name: _count_alike(published, name) for name in network_names()}
    most = max(counts.values())
    if not most:
        return _foreign_network(published)
    nearest = [name for name, count in counts.items() if count == most]
    return f"Its tensors have names and shapes of {' and '.join(nearest)}: give --network {nearest[0]}. {CHOICES}"


def _foreign_network(published: Mapping[str, Tensor]) -> str:
    """Return which network that is not here a checkpoint holds, and what can be done with it."""
    for names, network in FOREIGN_NETWORKS.items():
        pattern = re.compile(rf"(?:.*\.)?{names}")
        if any(pattern.match(name) for name in published):
            return f"By its names it is {network}. {TEACH}"
    return (
        "No network of `segdistill networks`, as published, has tensors of these names: it may be one that is not "
        f"here. {TEACH}"
    )


def _count_alike(published: Mapping[str, Tensor], network: str) -> int:
    """Return how many tensors of a network a checkpoint has, shape included; 0 where one lacks even by name."""
    skeleton = meta_network(resolve(NetworkConfig(network=network)), PROBE_CLASSES)
    # Files from before PyTorch 0.4.1 have no counts of batches.
    known = {name: tensor for name, tensor in skeleton.state_dict().items() if not name.endswith(BATCH_COUNTER)}
    best = 0
    for key_map in key_maps_of(network):
        needed = needed_names(skeleton, key_map)
        for prefix in prefixes_with(published, len(needed)):
            weights = renamed(within(published, prefix), key_map)
            if needed <= weights.keys():
                best = max(best, _count_equal_shapes(weights, known))
    return best


def _count_equal_shapes(weights: Mapping[str, Tensor], known: Mapping[str, Tensor]) -> int:
    return sum(weights[name].shape == known[name].shape for name in known.keys() & weights.keys())
