"""The network within a checkpoint: the one beginning of names under which all of its tensors are.

Whoever saves a module that holds a network, a Lightning module or one with its loss, saves the network's tensors under
the name that it has there, and beside them whatever else there was.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from segdistill.checkpoints.key_maps import KeyMap, key_maps_of, renamed
from segdistill.commands._import_choices import PROBE_CLASSES, with_variant_of
from segdistill.config.schema import NetworkConfig
from segdistill.errors import ModelError
from segdistill.networks import SegNetwork, meta_network
from segdistill.storage.weights import BATCH_COUNTER
from segdistill.wording import counted

MAX_DEPTH = 4
"""Most parts of a beginning: deeper ones are parts of networks."""


def find_network(
    file: Path, tensors: Mapping[str, Tensor], config: NetworkConfig
) -> tuple[dict[str, Tensor], list[str]] | None:
    """Return a network's tensors by the names that they have in it, and what is beside them, in words.

    Args:
        file: that they are from, for messages.
        tensors: all that it holds.
        config: the network as it was asked for.

    Returns:
        None where all tensors of the network are under no beginning of names.

    Raises:
        ModelError: if it holds several such networks.
    """
    fitting = [prefix for prefix in _prefixes(tensors, config) if _has_all(within(tensors, prefix), config)]
    if not fitting:
        return None
    if len(fitting) > 1:
        shown = " and ".join(f"{prefix}*" if prefix else "names without a beginning" for prefix in fitting)
        raise ModelError(
            f"{file} holds {config.network} {len(fitting)} times, as {shown}.",
            "Save the state dict of one network alone.",
        )
    (prefix,) = fitting
    outside = [name for name in tensors if not name.startswith(prefix)]
    reasons: dict[str, str] = {}
    for key_map in key_maps_of(config.network):
        reasons |= key_map.left_out
    return within(tensors, prefix), _beside(outside, prefix, reasons)


def needed_names(skeleton: SegNetwork, key_map: KeyMap) -> set[str]:
    """Return the names of the tensors that any checkpoint of a network has."""
    needed = set()
    for name in skeleton.state_dict():
        # Many publications leave out what is there in training only; files from before PyTorch 0.4.1 have no counts.
        if not name.endswith(BATCH_COUNTER) and not name.startswith(skeleton.training_only):
            needed.add(name)
    return needed.difference(key_map.zeros)


def prefixes_with(names: Iterable[str], at_least: int) -> list[str]:
    """Return the beginnings that so many names have, and the empty one, the shortest first."""
    counts: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")[:-1]
        counts.update(".".join(parts[:depth]) + "." for depth in range(1, min(len(parts), MAX_DEPTH) + 1))
    return ["", *sorted((prefix for prefix, count in counts.items() if count >= at_least), key=len)]


def _prefixes(tensors: Mapping[str, Tensor], config: NetworkConfig) -> list[str]:
    skeleton = meta_network(config, PROBE_CLASSES)
    fewest = min(len(needed_names(skeleton, key_map)) for key_map in key_maps_of(config.network))
    return prefixes_with(tensors, fewest)


def within(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names have a beginning, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _has_all(weights: Mapping[str, Tensor], config: NetworkConfig) -> bool:
    """Whether a network finds all of its tensors by name, by one of its key maps."""
    config = with_variant_of(config, weights)
    skeleton = meta_network(config, PROBE_CLASSES)
    return any(
        needed_names(skeleton, key_map) <= renamed(weights, key_map).keys() for key_map in key_maps_of(config.network)
    )


def _beside(names: Iterable[str], prefix: str, reasons: Mapping[str, str]) -> list[str]:
    """Return what is beside a network, in words, by the first part of its names; `reasons` are those that are known."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[name.partition(".")[0]].append(name)
    notes = []
    for first, members in groups.items():
        shown = members[0] if len(members) == 1 else f"{first}.* ({counted(len(members), 'tensor')})"
        known = next((reason for beginning, reason in reasons.items() if members[0].startswith(beginning)), "")
        notes.append(f"{shown}: {known or f'beside the network, whose names begin with {prefix}'}")
    return notes
