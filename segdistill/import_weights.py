"""Published checkpoints as model files: every tensor is used, or named with the reason why it is not.

The layout is recognised by the tensors' names. What their shapes tell, they decide: how many outputs there are, the
stem, the head's width, whether there is an auxiliary head. What no shape tells (output stride, dilation, what the
network expects of images) is as published, unless it is asked for otherwise.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from safetensors import safe_open
from torch import Tensor

from segdistill.checkpoint import ModelInfo, save_model, widest_type
from segdistill.config import InputConfig, NetworkConfig, validated
from segdistill.data import DataSource, load_data
from segdistill.data.voc import colors
from segdistill.errors import ModelError, UsageError
from segdistill.layouts import Layout, as_published, layouts_of, renamed
from segdistill.networks import SegNetwork, blank_network, build_network, missing_options, resolve
from segdistill.networks._base import count_parameters
from segdistill.networks._weights import FEW, UNCOUNTED, mismatch, read_weights
from segdistill.record import versions
from segdistill.store import check_folder, open_run, seal
from segdistill.talk import Rows, Talk
from segdistill.types import MOST_CLASSES

WRAPPED = re.compile(r"^(?:module\.|model\.|_orig_mod\.)+")
"""What DataParallel, torch.compile, and modules that hold a network and its loss, put before the names."""
SOME = 7
"""Outputs of a network that is only looked at: more than the five channels that ESPNet's decoder has at least."""
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Request:
    """What is to be imported, and as what; None leaves a choice to the checkpoint and its layout."""

    file: Path
    network: NetworkConfig
    """With its full name; what is set in it is not for the shapes to decide."""
    data: str | None = None
    classes: int | None = None
    void_output: int | None = None
    mean: Triple | None = None
    """In the order in which the network sees the channels."""
    std: Triple | None = None
    """The same."""
    divide: float | None = None
    order: Literal["rgb", "bgr"] | None = None


class Loaded(NamedTuple):
    """A network with the tensors of a checkpoint."""

    network: SegNetwork
    config: NetworkConfig
    layout: Layout
    used: int
    filled: int
    """Tensors that the checkpoint lacks, all of them counts of batches."""
    left_out: tuple[str, ...]
    """What else the checkpoint holds, and why it has no place here, in words."""


def import_weights(request: Request, out: Path, talk: Talk, *, overwrite: bool) -> None:
    """Write a folder that the other commands take like a run's; nothing is written before all is checked.

    Raises:
        UsageError: if the folder is not empty, or what is asked for is not what the checkpoint holds.
        ModelError: if the file cannot be read, or does not hold that network.
    """
    if not overwrite and out.is_dir() and any(entry.name != ".lock" for entry in out.iterdir()):
        raise UsageError(f"{out} is not empty.", "Add --overwrite to replace what is there, or choose another --out.")
    check_folder(out, resume=False, overwrite=overwrite)
    data = None if request.data is None else load_data(request.data)
    loaded = load_published(request.file, request.network)
    outputs = loaded.network.num_classes
    if outputs - (request.void_output is not None) > MOST_CLASSES:
        raise ModelError(f"{request.file} has {outputs} outputs; label maps tell {MOST_CLASSES} classes.")
    classes = _classes(request, outputs, data)
    info = ModelInfo(
        network=_as_published(request, loaded, talk),
        classes=classes,
        palette=colors(range(1, len(classes) + 1)) if data is None else data.palette,
        role="teacher",
        void_output=request.void_output,
        size=None,
        data="" if data is None else data.name,
        preset="import-weights",
        steps=0,
        versions=versions(),
    )
    talk.banner(f"{info.network.network} from {request.file.name}", _report(loaded, info))
    with open_run(out, resume=False, overwrite=overwrite) as folder:
        save_model(folder / "model.safetensors", loaded.network, info)
        seal(out)


def load_published(file: Path, config: NetworkConfig) -> Loaded:
    """Read a checkpoint into the network that it was made from.

    Raises:
        UsageError: if there is no such file, or it is a model file of ours.
        ModelError: if it is damaged, or its tensors are not this network's.
    """
    weights, left_out = _read(file)
    blank = blank_network(config, SOME)
    known = blank.state_dict()
    layout = max(layouts_of(config.network), key=lambda layout: len(known.keys() & renamed(weights, layout).keys()))
    left_out += _take_out(weights, layout.left_out)
    weights = renamed(weights, layout)
    if not config.aux:
        left_out += _take_out(weights, dict.fromkeys(blank.training_only, "the auxiliary head, in training only"))
    outputs = _outputs(known, blank_network(config, SOME + 1).state_dict(), weights)
    config = _as_shaped(config, blank, weights)
    network = build_network(config, outputs).to(widest_type(weights))
    own = network.state_dict()
    if problem := mismatch(as_published(own, layout), as_published(weights, layout)):
        names = "" if not layout.names else f", by the names of {layout.source}"
        raise ModelError(
            f"{file} does not hold the tensors of {config.network}{names}: {problem}",
            "Give the --network that it holds, as `segdistill networks` lists them. --set KEY=VALUE makes the choices "
            "that a network has, such as stem=deep or head_width=512.",
        )
    network.load_state_dict(weights, strict=False)
    return Loaded(network, config, layout, len(weights), len(own) - len(weights), tuple(left_out))


def _read(file: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Return a checkpoint's tensors without what wraps their names, and what else is in the file, in words."""
    wrapped, beside = read_weights(file)
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as content:
            if "segdistill" in (content.metadata() or {}):
                use = f"Use it as it is: segdistill infer {file} IMAGES --out LABELS"
                raise UsageError(f"{file} is a model file already.", use)
    if bad := [name for name, tensor in wrapped.items() if not tensor.isfinite().all()]:
        raise ModelError(
            f"{file} holds {len(bad)} tensors that are not finite, {bad[0]} among them.",
            "Its training had failed when it was written. Take an earlier one.",
        )
    names = Counter(WRAPPED.sub("", name) for name in wrapped)
    if twice := [name for name, count in names.items() if count > 1]:
        raise ModelError(f"{file} holds several tensors {twice[0]}, which only what wraps their names tells apart.")
    weights = {WRAPPED.sub("", name): tensor for name, tensor in wrapped.items()}
    others = [f"{name}: other weights ({tensors} tensors)" for name, tensors in beside.items() if tensors]
    none = ", ".join(name for name, tensors in beside.items() if not tensors)
    return weights, others + ([f"{none}: no weights"] if none else [])


def _take_out(weights: dict[str, Tensor], reasons: Mapping[str, str]) -> list[str]:
    """Remove the tensors whose names begin in one of these ways; return which, and why."""
    told = []
    for start, why in reasons.items():
        names = [name for name in weights if name.startswith(start)]
        for name in names:
            del weights[name]
        if names:
            told.append(f"{', '.join(names) if len(names) <= FEW else f'{start}* ({len(names)} tensors)'}: {why}")
    return told


def _as_shaped(config: NetworkConfig, blank: SegNetwork, found: Mapping[str, Tensor]) -> NetworkConfig:
    """Return a configuration with the choices that names and shapes tell, but for those that were made before.

    Args:
        config: as it was asked for.
        blank: the network that it describes.
        found: the checkpoint's tensors.
    """

    def lacks(start: str | tuple[str, ...]) -> bool:
        return not any(name.startswith(start) for name in found)

    known = blank.state_dict()
    head, usual = found.get("classifier.weight"), known.get("classifier.weight")
    proposals: dict[str, Any] = {}
    if "backbone.conv3.weight" in found:
        proposals["stem"] = "deep"
    if lacks("aspp.branches.1."):
        proposals["aspp"] = False
    if lacks(blank.training_only) and any(name.startswith(blank.training_only) for name in known):
        proposals["aux"] = False
    if head is not None and usual is not None and head.dim() == 4 and head.shape[1] != usual.shape[1]:
        proposals["head_width"] = head.shape[1]
    for option, value in proposals.items():
        proposed = config.model_copy(update={option: value})
        if option not in config.model_fields_set and not missing_options(proposed):
            config = proposed
    return config


def _outputs(some: Mapping[str, Tensor], more: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> int:
    """Return how many outputs a checkpoint has: the size of what changes with them, or `SOME` where nothing tells.

    The least, where there are several: a decoder of ESPNet's can be wider.

    Args:
        some: the tensors of a network of `SOME` outputs.
        more: those of one with one more.
        found: the checkpoint's.
    """
    counts = [
        found[name].shape[axis]
        for name in some.keys() & found.keys()
        for axis, sizes in enumerate(zip(some[name].shape, more[name].shape, strict=True))
        if sizes == (SOME, SOME + 1) and found[name].dim() == some[name].dim()
    ]
    return min(counts, default=SOME)


def _classes(request: Request, outputs: int, data: DataSource | None) -> tuple[str, ...]:
    """Return the names of the classes, which for want of data are the numbers of their outputs."""
    void = request.void_output
    if void is not None and void >= outputs:
        raise UsageError(f"--void-output {void}: {request.file} has the outputs 0 to {outputs - 1}.")
    numbers = tuple(str(output) for output in range(outputs) if output != void)
    wanted = {} if data is None else {data.name: len(data.classes)}
    wanted |= {} if request.classes is None else {"--classes": request.classes}
    for who, count in wanted.items():
        if count != len(numbers):
            found = f"{outputs} outputs" + ("" if void is None else f", {len(numbers)} classes and void")
            hint = "Classes are counted without void. Leave --classes out, or give the data of the checkpoint."
            if void is None and outputs == count + 1:
                hint = f"If one output stands for void, say which: --void-output {count} for the last one."
            raise UsageError(f"{request.file} has {found}; {who} has {count} classes.", hint)
    return numbers if data is None else data.classes


def _as_published(request: Request, loaded: Loaded, talk: Talk) -> NetworkConfig:
    """Return the configuration with what the network expects of images and enlarged maps, unless asked for."""
    layout, asked, outputs = loaded.layout, loaded.config, loaded.network.num_classes
    published = layout.images_by_outputs.get(outputs, layout.images)
    images = published if asked.input is None else asked.input.over(published)
    told = request.mean is not None or (asked.input is not None and "mean" in asked.input.model_fields_set)
    if layout.images_by_outputs and outputs not in layout.images_by_outputs and not told:
        talk.warn(
            f"No published {asked.network} has {outputs} outputs, so that the statistics of its images are not known: "
            "ImageNet's are taken. Give --mean and --std."
        )
    order = request.order or images.order
    seen: dict[str, Any] = {"mean": request.mean, "std": request.std}
    if order == "bgr":
        seen = {key: values and values[::-1] for key, values in seen.items()}
    own = {key: value for key, value in (seen | {"divide": request.divide}).items() if value is not None}
    images = validated(InputConfig, images.model_dump() | own | {"order": order}, "--mean, --std or --divide")
    corners = layout.align_corners if asked.align_corners is None else asked.align_corners
    return resolve(asked.model_copy(update={"input": images, "align_corners": corners}))


def _report(loaded: Loaded, info: ModelInfo) -> Rows:
    """Return what was made of a checkpoint, in words."""
    network, images = info.network, info.network.input
    assert images is not None, "resolved"
    choices = [
        f"{key} = {getattr(network, key)}"
        for key in ("stem", "head_width", "aspp")
        if getattr(network, key) is not None
    ]

    def seen(values: Triple) -> str:
        return " ".join(f"{value:g}" for value in (values[::-1] if images.order == "bgr" else values))

    divided = "" if images.divide == 1 else f", then divided by {images.divide:g}"
    void = "" if info.void_output is None else f" and void, which is output {info.void_output}"
    filled = f"{loaded.filled} *.{UNCOUNTED} with 0: old checkpoints lack them" if loaded.filled else "nothing"
    return [
        ("layout", loaded.layout.source),
        ("network", ", ".join([f"{count_parameters(loaded.network) / 1e6:.3f} M parameters", *choices])),
        ("outputs", f"{len(info.classes)} classes{void}"),
        ("images", f"{images.order.upper()}, mean {seen(images.mean)}, deviation {seen(images.std)}{divided}"),
        ("logits", f"enlarged with {'corners' if network.align_corners else 'areas'} aligned"),
        ("used", f"{loaded.used} tensors"),
        ("filled in", filled),
        *(("left out", text) for text in loaded.left_out or ("nothing",)),
    ]
