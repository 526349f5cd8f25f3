"""The network that a checkpoint holds, where it is not the one that was asked for."""

from collections.abc import Mapping

from torch import Tensor

from segdistill.checkpoints.key_maps import key_maps_of, renamed
from segdistill.commands._import_choices import PROBE_CLASSES
from segdistill.config.schema import NetworkConfig
from segdistill.networks import meta_network, network_names, resolve
from segdistill.storage.weights import BATCH_COUNTER


def network_advice(published: Mapping[str, Tensor], requested: str) -> str:
    """Return in a sentence which `--network` a checkpoint holds.

    Args:
        published: all of its tensors, by their published names.
        requested: full name of the network that was asked for, whose shapes do not fit.
    """
    if _count_alike(published, requested):
        return "Give the --network that it holds, as `segdistill networks` lists them."
    counts = {name: _count_alike(published, name) for name in network_names()}
    most = max(counts.values())
    if not most:
        return (
            "No network of `segdistill networks`, as published, has tensors of these names: it may be one that is not "
            "here."
        )
    nearest = [name for name, count in counts.items() if count == most]
    return f"Its tensors have names and shapes of {' and '.join(nearest)}: give --network {nearest[0]}."


def _count_alike(published: Mapping[str, Tensor], network: str) -> int:
    """Return how many tensors of a network a checkpoint has, shape included; 0 where one lacks even by name."""
    skeleton = meta_network(resolve(NetworkConfig(network=network)), PROBE_CLASSES)
    known = {}
    needed_names = set()
    for name, tensor in skeleton.state_dict().items():
        # Files from before PyTorch 0.4.1 have no counts of batches.
        if name.endswith(BATCH_COUNTER):
            continue
        known[name] = tensor
        # Many publications leave out what is there in training only.
        if not name.startswith(skeleton.training_only):
            needed_names.add(name)
    best = 0
    for key_map in key_maps_of(network):
        weights = renamed(published, key_map)
        if needed_names <= weights.keys():
            best = max(best, _count_equal_shapes(weights, known))
    return best


def _count_equal_shapes(weights: Mapping[str, Tensor], known: Mapping[str, Tensor]) -> int:
    return sum(weights[name].shape == known[name].shape for name in known.keys() & weights.keys())
