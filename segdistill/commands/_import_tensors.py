"""A published checkpoint, read into the network that it was made from.

The key map, which says how a publication names a network's tensors, is recognized by the names.
"""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from segdistill.checkpoints.key_maps import KeyMap, as_published, key_maps_of, renamed
from segdistill.checkpoints.tensors import widest_type
from segdistill.commands._import_advice import TEACH, network_advice
from segdistill.commands._import_choices import PROBE_CLASSES, count_outputs, with_shapes_of, with_variant_of
from segdistill.commands._import_prefix import find_network
from segdistill.config.schema import NetworkConfig
from segdistill.errors import ModelError, UsageError
from segdistill.networks import SegNetwork, build_network, meta_network
from segdistill.storage.weights import MAX_TENSORS, mismatch, read_weights
from segdistill.wording import counted

PREFIXES = re.compile(r"^(?:module\.|model\.|_orig_mod\.)+")
"""Beginnings of names that DataParallel, torch.compile, and modules that hold a network and its loss add."""
IMAGE_CHANNELS = 3
"""Channels of an image, as the first convolution sees it."""


class LoadedCheckpoint(NamedTuple):
    """A network with the tensors of a checkpoint."""

    network: SegNetwork
    config: NetworkConfig
    """The network as names and shapes tell it, without what it expects of images."""
    key_map: KeyMap
    used: int
    """Tensors that were used."""
    filled: int
    """Tensors that the checkpoint lacks, all of them counts of batches."""
    converted: tuple[str, ...]
    """Tensors whose numbers were changed, and to what, in words."""
    left_out: tuple[str, ...]
    """Tensors and other content without a place here, and why, in words."""


def load_published(file: Path, config: NetworkConfig, *, drop_label_channel: bool = False) -> LoadedCheckpoint:
    """Read a checkpoint into the network that it was made from.

    Args:
        file: .safetensors, or .pth with nothing but tensors.
        config: the network as it was asked for.
        drop_label_channel: leave out the label's channel of a student of LAD (Qiu et al. 2024).

    Raises:
        UsageError: if there is no such file, it is a model file of ours, or leaves a choice open that was not made.
        ModelError: if it is damaged, or its tensors are not this network's.
    """
    weights, left_out = _read_tensors(file, config)
    # What follows renames and removes tensors; advice is by what the file holds.
    published = dict(weights)
    config = with_variant_of(config, weights)
    skeleton = meta_network(config, PROBE_CLASSES)
    key_map = _best_key_map(config, skeleton, weights)
    _check_questions(file, config, key_map=key_map, weights=weights)
    _check_alike(file, config, key_map)

    left_out += _remove(weights, _unused_reasons(key_map, skeleton))
    weights = renamed(weights, key_map)
    if not config.aux:
        left_out += _remove(weights, dict.fromkeys(skeleton.training_only, "the auxiliary head, in training only"))
    left_out += _remove_label_channel(file, weights, key_map, is_wanted=drop_label_channel)

    outputs = count_outputs(config, weights)
    config = with_shapes_of(config, key_map, skeleton=skeleton, weights=weights)
    # Numbers stay as they are: a checkpoint in float64 is kept so.
    network = build_network(config, outputs).to(widest_type(weights))
    num_tensors = len(network.state_dict())
    added = _add_zeros(weights, network, key_map)
    problem = mismatch(as_published(network.state_dict(), key_map), as_published(weights, key_map))
    if problem:
        raise _other_network(file, config, key_map=key_map, problem=problem, published=published)
    converted = (*_convert(weights, key_map), *added)
    # Not strict, for the counts of batches alone: `mismatch` has refused all else that is missing.
    network.load_state_dict(weights, strict=False)
    return LoadedCheckpoint(
        network=network,
        config=config,
        key_map=key_map,
        used=len(weights),
        filled=num_tensors - len(weights),
        converted=converted,
        left_out=tuple(left_out),
    )


def _read_tensors(file: Path, config: NetworkConfig) -> tuple[dict[str, Tensor], list[str]]:
    """Return a network's tensors without prefixes of their names, and what else is in the file, in words."""
    tensors, other_entries = read_weights(file)
    _refuse_model_file(file)
    # NaN would spread over the whole output, and no score would say why.
    not_finite = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if not_finite:
        raise ModelError(
            f"{file} holds {counted(len(not_finite), 'tensor')} with NaN or infinity, {not_finite[0]} among them.",
            "Its training had failed when it was written. Take an earlier one.",
        )
    plain = _without_prefixes(file, tensors)
    found = find_network(file, tensors, config)
    if found is None:  # by the names without the usual beginnings it is told what the file holds
        return plain, _describe_others(other_entries)
    return found[0], [*found[1], *_describe_others(other_entries)]


def _refuse_model_file(file: Path) -> None:
    """Refuse a file that is a model already: the other commands take it as it is."""
    if file.suffix != ".safetensors":
        return
    with safe_open(file, framework="pt") as content:
        metadata = content.metadata() or {}
    if "segdistill" in metadata:
        raise UsageError(f"{file} is a model file already.", f"Use it: segdistill infer {file} IMAGES --out LABELS")


def _without_prefixes(file: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # Two networks in one state dict, such as a student and its average, may differ by the prefix alone.
    counts = Counter(PREFIXES.sub("", name) for name in tensors)
    for name, count in counts.items():
        if count > 1:
            raise ModelError(
                f"{file} holds a duplicate tensor name, {name}, after removing prefixes (module., model.).",
                "Save the state dict of one network alone.",
            )
    return {PREFIXES.sub("", name): tensor for name, tensor in tensors.items()}


def _describe_others(entries: Mapping[str, int]) -> list[str]:
    """Return what a file holds beside its weights, in words: entries with tensors each, the others together."""
    with_tensors = []
    without = []
    for name, num_tensors in entries.items():
        if num_tensors:
            with_tensors.append(f"{name}: other weights ({counted(num_tensors, 'tensor')})")
        else:
            without.append(name)
    if without:
        return [*with_tensors, f"{', '.join(without)}: no weights"]
    return with_tensors


def _best_key_map(config: NetworkConfig, skeleton: SegNetwork, weights: Mapping[str, Tensor]) -> KeyMap:
    """Return the key map by which most of a checkpoint's tensors have a name that the network knows."""
    known_names = skeleton.state_dict().keys()

    def count_known(key_map: KeyMap) -> int:
        return len(known_names & renamed(weights, key_map).keys())

    # Of those with equally many, `max` takes the first: their order in `key_maps_of` decides.
    return max(key_maps_of(config.network), key=count_known)


def _check_questions(file: Path, config: NetworkConfig, *, key_map: KeyMap, weights: Mapping[str, Tensor]) -> None:
    """Refuse a checkpoint that leaves a choice open which was not made.

    Raises:
        UsageError: naming the choices there are.
    """
    for option, question in key_map.questions.items():
        is_raised = any(name.startswith(question.tensors) for name in weights)
        if is_raised and option not in config.model_fields_set:
            raise UsageError(f"{file} holds {question.tensors}*, {question.problem}.", question.answers)


def _check_alike(file: Path, config: NetworkConfig, key_map: KeyMap) -> None:
    """Refuse a checkpoint whose tensors fit, and whose network computes something else with them.

    Raises:
        ModelError: with the difference.
    """
    for ending, difference in key_map.unlike.items():
        if config.network.endswith(f"-{ending}"):
            raise ModelError(
                f"{file} has the tensors of {config.network} by the names of {key_map.source}, which is another "
                f"network: {difference}.",
                TEACH,
            )


def _unused_reasons(key_map: KeyMap, skeleton: SegNetwork) -> dict[str, str]:
    """Return the beginnings of published names that have no place here, and why.

    A network may compute with some of them all the same, where that was chosen.
    """
    known_names = skeleton.state_dict().keys()

    def is_computed(prefix: str) -> bool:
        return any(name.startswith(prefix) for name in known_names)

    return {prefix: reason for prefix, reason in key_map.left_out.items() if not is_computed(prefix)}


def _remove(weights: dict[str, Tensor], reasons: Mapping[str, str]) -> list[str]:
    """Remove the tensors whose names begin with one of these prefixes, in place; return which, and why, in words."""
    notes = []
    for prefix, reason in reasons.items():
        names = [name for name in weights if name.startswith(prefix)]
        for name in names:
            del weights[name]
        if names:
            shown = ", ".join(names) if len(names) <= MAX_TENSORS else f"{prefix}* ({len(names)} tensors)"
            notes.append(f"{shown}: {reason}")
    return notes


def _remove_label_channel(file: Path, weights: dict[str, Tensor], key_map: KeyMap, *, is_wanted: bool) -> list[str]:
    """Cut the label's channel off the convolution that sees images, in place; return what that was, in words.

    Raises:
        UsageError: if there is one and that is not wanted, or the reverse.
    """
    name = key_map.label_convolution
    convolution = weights.get(name)
    if convolution is None or not _has_label_channel(convolution):
        if is_wanted:
            raise UsageError(f"--drop-label-channel: {file} has no such channel.", "Leave --drop-label-channel out.")
        return []
    (published_name,) = as_published({name: convolution}, key_map)
    if not is_wanted:
        raise UsageError(
            f"{file}: {published_name} sees 4 channels, where an image has 3. The networks of LAD (Qiu et al. 2024) "
            "have the label in the fourth.",
            "A student of theirs always has 0 there: --drop-label-channel leaves that channel out, and the network "
            "computes the same. A teacher of theirs cannot be imported: it wants labels in its authors' codes.",
        )
    weights[name] = convolution[:, :IMAGE_CHANNELS]
    return [f"{published_name}, fourth channel: the label's, which is always 0"]


def _has_label_channel(convolution: Tensor) -> bool:
    return convolution.dim() == 4 and convolution.shape[1] == IMAGE_CHANNELS + 1


def _add_zeros(weights: dict[str, Tensor], network: SegNetwork, key_map: KeyMap) -> tuple[str, ...]:
    """Add the biases that a publication's network does not have, in place; return which, in words."""
    skeleton = network.state_dict()
    missing = [name for name in key_map.zeros if name not in weights]
    for name in missing:
        weights[name] = torch.zeros_like(skeleton[name])
    if not missing:
        return ()
    return (f"{', '.join(missing)}, to 0: {key_map.source} has no such biases",)


def _convert(weights: dict[str, Tensor], key_map: KeyMap) -> tuple[str, ...]:
    """Bring tensors to what our networks compute with, in place; return which and to what, in words."""
    notes = []
    for conversion in key_map.conversions:
        names = [name for name in weights if conversion.names.fullmatch(name)]
        for name in names:
            weights[name] = conversion.convert(weights[name])
        if names:
            notes.append(f"{len(names)} {conversion.tensors}, {conversion.reason}")
    return tuple(notes)


def _other_network(
    file: Path, config: NetworkConfig, *, key_map: KeyMap, problem: str, published: Mapping[str, Tensor]
) -> ModelError:
    """Return the error for tensors that are not this network's, with the network that they may be of."""
    naming = f" (by the names of {key_map.source})" if key_map.names else ""
    return ModelError(
        f"{file} does not hold the tensors of {config.network}: {problem}{naming}.",
        network_advice(published, config.network),
    )
