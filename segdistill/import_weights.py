"""Published checkpoints as model files: every tensor is used, or named with the reason why it is not.

The layout is recognised by the tensors' names. What their shapes tell, they decide: how many outputs there are, the
stem, the head's width, an ESPNet's depth and form, whether there is an auxiliary head. What no shape tells (output
stride, dilation, what the network expects of images) is as published, unless it is asked for otherwise. What was
published now so, now so, or is not known at all, must be told: nothing is guessed.
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
from segdistill.inputs import Input, data_inputs, refuse_run_over
from segdistill.layouts import IMAGENET, Layout, Preprocessing, as_published, layouts_of, renamed
from segdistill.networks import SegNetwork, blank_network, build_network, missing_options, network_names, resolve
from segdistill.networks._base import count_parameters
from segdistill.networks._weights import FEW, UNCOUNTED, mismatch, read_weights
from segdistill.networks.espnet import Q_BY_VARIANT
from segdistill.record import versions
from segdistill.store import check_folder, open_run, seal
from segdistill.talk import Rows, Talk
from segdistill.types import MOST_CLASSES

WRAPPED = re.compile(r"^(?:module\.|model\.|_orig_mod\.)+")
"""What DataParallel, torch.compile, and modules that hold a network and its loss, put before the names."""
SOME = 7
"""Outputs of a network that is only looked at: more than the five channels that ESPNet's decoder has at least."""
RAW_SKIP = 16
"""Channels beside the logits' that the last convolution of an ESPNet sees where its skip is raw."""
BLOCK = re.compile(r"(?:encoder\.)?level3\.(\d+)\.")
"""The names of an ESPNet's blocks at 1/8, in all layouts."""
COLORS = 3
FLAGS = {"mean": "--mean A,B,C", "std": "--std A,B,C", "order": "--bgr or --rgb", "divide": "--divide F"}
"""What tells each key of `InputConfig`."""
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
    size: tuple[int, int] | None = None
    """To which images (height, width) are brought; None leaves them at their own."""
    drop_label_channel: bool = False
    """Leave out the fourth channel of the first convolution, which for a student of LAD's is always 0."""


class Loaded(NamedTuple):
    """A network with the tensors of a checkpoint."""

    network: SegNetwork
    config: NetworkConfig
    layout: Layout
    used: int
    filled: int
    """Tensors that the checkpoint lacks, all of them counts of batches."""
    converted: tuple[str, ...]
    """Tensors whose numbers were changed, and to what, in words."""
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
    read = [Input("FILE", request.file)]
    if data is not None:
        read += data_inputs(data, str(request.data))
    refuse_run_over(out, read)
    loaded = load_published(request.file, request.network, drop_label_channel=request.drop_label_channel)
    outputs = loaded.network.num_classes
    if outputs - (request.void_output is not None) > MOST_CLASSES:
        raise ModelError(f"{request.file} has {outputs} outputs; label maps tell {MOST_CLASSES} classes.")
    classes = _classes(request, outputs, data)
    expected, network = _as_published(request, loaded)
    info = ModelInfo(
        network=network,
        classes=classes,
        palette=colors(range(1, len(classes) + 1)) if data is None else data.palette,
        role="teacher",
        void_output=request.void_output,
        size=request.size,
        data="" if data is None else data.name,
        preset="import-weights",
        steps=0,
        versions=versions(),
    )
    talk.banner(f"{info.network.network} from {request.file.name}", _report(loaded, info, expected))
    with open_run(out, resume=False, overwrite=overwrite) as folder:
        save_model(folder / "model.safetensors", loaded.network, info)
        seal(folder.path)
        folder.promote()


def load_published(file: Path, config: NetworkConfig, *, drop_label_channel: bool = False) -> Loaded:
    """Read a checkpoint into the network that it was made from.

    Raises:
        UsageError: if there is no such file, it is a model file of ours, or leaves a choice open that was not made.
        ModelError: if it is damaged, or its tensors are not this network's.
    """
    weights, left_out = _read(file)
    published = dict(weights)
    config = _as_deep(config, weights)
    blank = blank_network(config, SOME)
    known = blank.state_dict()
    layout = max(layouts_of(config.network), key=lambda layout: len(known.keys() & renamed(weights, layout).keys()))
    _check_questions(file, config, layout, weights)
    computed = tuple(start for start in layout.left_out if any(name.startswith(start) for name in known))
    left_out += _take_out(weights, {start: why for start, why in layout.left_out.items() if start not in computed})
    weights = renamed(weights, layout)
    if not config.aux:
        left_out += _take_out(weights, dict.fromkeys(blank.training_only, "the auxiliary head, in training only"))
    left_out += _without_label_channel(file, weights, layout, wanted=drop_label_channel)
    outputs = _outputs(known, blank_network(config, SOME + 1).state_dict(), weights)
    config = _as_shaped(config, layout, blank, weights)
    network = build_network(config, outputs).to(widest_type(weights))
    own = network.state_dict()
    if problem := mismatch(as_published(own, layout), as_published(weights, layout)):
        names = "" if not layout.names else f" (by the names of {layout.source})"
        raise ModelError(
            f"{file} does not hold the tensors of {config.network}: {problem}{names}.",
            f"{_network_advice(published, config.network)} --set KEY=VALUE makes the choices that a network has, such "
            "as stem=deep or head_width=512.",
        )
    converted = _convert(weights, layout)
    network.load_state_dict(weights, strict=False)
    return Loaded(network, config, layout, len(weights), len(own) - len(weights), converted, tuple(left_out))


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


def _network_advice(published: Mapping[str, Tensor], asked: str) -> str:
    """Say which --network a checkpoint holds, where that is not the one that was asked for."""
    if _alike(published, asked):
        return "Give the --network that it holds, as `segdistill networks` lists them."
    alike = {name: _alike(published, name) for name in network_names()}
    most = max(alike.values())
    if not most:
        return (
            "No network of `segdistill networks`, as published, has tensors of these names: it may be one that is not "
            "here."
        )
    likest = [name for name, count in alike.items() if count == most]
    return f"Its tensors have names and shapes of {' and '.join(likest)}: give --network {likest[0]}."


def _alike(published: Mapping[str, Tensor], network: str) -> int:
    """Return how many tensors of a network a checkpoint has, shape included; 0 where one lacks even by name."""
    blank = blank_network(resolve(NetworkConfig(network=network)), SOME)
    known = {name: tensor for name, tensor in blank.state_dict().items() if not name.endswith(UNCOUNTED)}
    needed = {name for name in known if not name.startswith(blank.training_only)}
    best = 0
    for layout in layouts_of(network):
        found = renamed(published, layout)
        if needed <= found.keys():
            best = max(best, sum(found[name].shape == known[name].shape for name in known.keys() & found.keys()))
    return best


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


def _as_deep(config: NetworkConfig, found: Mapping[str, Tensor]) -> NetworkConfig:
    """Return the variant of an ESPNet that has as many blocks as the checkpoint, where its depth was left open."""
    if config.network not in ("espnet", "espnet-c"):
        return config
    blocks = {match[1] for match in map(BLOCK.match, found) if match}
    variants = {q: f"{config.network}-{variant}" for variant, q in Q_BY_VARIANT.items()}
    return config.model_copy(update={"network": variants.get(len(blocks), config.network)})


def _check_questions(file: Path, config: NetworkConfig, layout: Layout, found: Mapping[str, Tensor]) -> None:
    """Refuse a checkpoint that leaves a choice open which was not made.

    Raises:
        UsageError: naming the choices there are.
    """
    for option, question in layout.questions.items():
        raised = any(name.startswith(question.tensors) for name in found)
        if raised and option not in config.model_fields_set:
            raise UsageError(f"{file} holds {question.tensors}*, {question.problem}.", question.answers)


def _without_label_channel(file: Path, weights: dict[str, Tensor], layout: Layout, *, wanted: bool) -> list[str]:
    """Cut the label's channel off the convolution that sees images; return what that was, in words.

    Raises:
        UsageError: if there is one and that is not wanted, or the reverse.
    """
    name = layout.label_convolution
    convolution = weights.get(name)
    has_label = convolution is not None and convolution.dim() == 4 and convolution.shape[1] == COLORS + 1
    if not has_label and wanted:
        raise UsageError(f"--drop-label-channel: {file} has no such channel.", "Leave it out.")
    if convolution is None or not has_label:
        return []
    (published,) = as_published({name: convolution}, layout)
    if not wanted:
        raise UsageError(
            f"{file}: {published} sees 4 channels, where an image has 3. The networks of LAD (Qiu et al. 2024) have "
            "the label in the fourth.",
            "A student of theirs always has 0 there: --drop-label-channel leaves that channel out, and the network "
            "computes the same. A teacher of theirs cannot be imported: it wants labels in its authors' codes.",
        )
    weights[name] = convolution[:, :COLORS]
    return [f"{published}, fourth channel: the label's, which is always 0"]


def _convert(weights: dict[str, Tensor], layout: Layout) -> tuple[str, ...]:
    """Bring tensors to what our networks compute with; return which and to what, in words."""
    told = []
    for conversion in layout.conversions:
        names = [name for name in weights if conversion.names.fullmatch(name)]
        for name in names:
            weights[name] = conversion.convert(weights[name])
        if names:
            told.append(f"{len(names)} {conversion.tensors}, {conversion.reason}")
    return tuple(told)


def _as_shaped(config: NetworkConfig, layout: Layout, blank: SegNetwork, found: Mapping[str, Tensor]) -> NetworkConfig:
    """Return a configuration with the choices that layout, names and shapes tell, but for those that were made before.

    Args:
        config: as it was asked for.
        layout: the checkpoint's.
        blank: the network that the configuration describes.
        found: the checkpoint's tensors.
    """

    def lacks(start: str | tuple[str, ...]) -> bool:
        return not any(name.startswith(start) for name in found)

    known = blank.state_dict()
    head, usual = found.get("classifier.weight"), known.get("classifier.weight")
    decoder = found.get("conv.conv.weight")
    proposals = dict(layout.options)
    if "backbone.conv3.weight" in found:
        proposals["stem"] = "deep"
    if lacks("aspp.branches.1."):
        proposals["aspp"] = False
    if lacks(blank.training_only) and any(name.startswith(blank.training_only) for name in known):
        proposals["aux"] = False
    if head is not None and usual is not None and head.dim() == 4 and head.shape[1] != usual.shape[1]:
        proposals["head_width"] = head.shape[1]
    if decoder is not None and decoder.dim() == 4 and decoder.shape[1] - decoder.shape[0] == RAW_SKIP:
        proposals["skip"] = "raw"
    chosen = config.model_fields_set
    for option, value in proposals.items():
        proposed = config.model_copy(update={option: value})
        if option not in chosen and not missing_options(proposed):
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


def _as_published(request: Request, loaded: Loaded) -> tuple[Preprocessing | None, NetworkConfig]:
    """Return what is known of the checkpoint, and its configuration with what it expects, unless asked for.

    Raises:
        UsageError: if what it expects of images is not known, and was not told.
    """
    asked = loaded.config
    known = loaded.layout.preprocessing_of(loaded.network.num_classes)
    expected = known or _agreed(request, loaded)
    images = expected.images if asked.input is None else asked.input.over(expected.images)
    order = request.order or images.order
    seen: dict[str, Any] = {"mean": request.mean, "std": request.std}
    if order == "bgr":
        seen = {key: values and values[::-1] for key, values in seen.items()}
    own = {key: value for key, value in (seen | {"divide": request.divide}).items() if value is not None}
    images = validated(InputConfig, images.model_dump() | own | {"order": order}, "--mean, --std or --divide")
    corners = expected.align_corners if asked.align_corners is None else asked.align_corners
    return known, resolve(asked.model_copy(update={"input": images, "align_corners": corners}))


def _agreed(request: Request, loaded: Loaded) -> Preprocessing:
    """Return what all published checkpoints of the layout expect alike, for one of which the rest was told.

    Mean and deviation are never taken from another checkpoint. Where none is known, images are RGB and nothing else
    divides them, unless told otherwise.

    Raises:
        UsageError: if it was not, with the flags and what is known of this network.
    """
    layout, config = loaded.layout, loaded.config
    known = layout.known()
    needed = {"mean", "std"} | {key for key in FLAGS if len({getattr(one.images, key) for one in known}) > 1}
    given = {key for key in FLAGS if getattr(request, key) is not None}
    given |= set() if config.input is None else config.input.model_fields_set
    if missing := [FLAGS[key] for key in FLAGS if key in needed - given]:
        raise UsageError(
            f"{request.file}: the statistics of its images are not known. No published checkpoint that is known here "
            f"has {loaded.network.num_classes} outputs and the tensor names of {layout.source}.",
            f"Give {' '.join(missing)}, of channels in 0..255 in the order in which the network sees them. "
            f"Checkpoints of this architecture expect, as flags of import-weights:\n{_known(config)}",
        )
    images = known[0].images if known else IMAGENET
    corners = bool(known) and all(one.align_corners for one in known)
    return Preprocessing("told", images, corners)


def _known(config: NetworkConfig) -> str:
    """Return a line of flags for each way in which published checkpoints of an architecture expect images."""
    every = [one for layout in layouts_of(config.network) for one in layout.known()]
    every.append(Preprocessing("ImageNet's statistics, the default of our own", IMAGENET))
    return "\n".join(f"  {one.publication}: {_flags(one)}" for one in every)


def _flags(expected: Preprocessing) -> str:
    """Return what `import-weights` would be given for that."""
    images = expected.images
    mean, std = (_seen(values, images.order).replace(" ", ",") for values in (images.mean, images.std))
    divide = "" if images.divide == 1 else f" --divide {images.divide:g}"
    corners = " --set align_corners=true" if expected.align_corners else ""
    return f"--{images.order} --mean {mean} --std {std}{divide}{corners}"


def _seen(values: Triple, order: str) -> str:
    """Return numbers of red, green and blue in the order in which the network sees the channels."""
    return " ".join(f"{value:.12g}" for value in (values[::-1] if order == "bgr" else values))


def _hints(loaded: Loaded, info: ModelInfo, expected: Preprocessing | None) -> list[str]:
    """Return what differs from the way in which a publication's scores were taken, in words."""
    if expected is None:
        corners = {one.align_corners for one in loaded.layout.known()}
        if loaded.config.align_corners is None and len(corners) > 1:
            return ["some publications of this network align corners, which no tensor tells: --set align_corners=true"]
        return []
    hints = []
    if expected.void_output is not None and info.void_output is None:
        void = expected.void_output
        hints.append(f"output {void} is void in what {expected.publication}, publish: --void-output {void}")
    if expected.scored_at and info.size is None:
        hints.append(f"published scores are of images at {expected.scored_at}: give it as --size if yours are larger")
    return hints


def _report(loaded: Loaded, info: ModelInfo, expected: Preprocessing | None) -> Rows:
    """Return what was made of a checkpoint, in words."""
    network, images = info.network, info.network.input
    assert images is not None, "resolved"
    choices = [
        f"{key} = {getattr(network, key)}"
        for key in ("stem", "dilation", "stem_pool", "head_width", "head_slope", "aspp", "skip", "conv_last")
        if getattr(network, key) is not None
    ]
    mean, std = _seen(images.mean, images.order), _seen(images.std, images.order)
    source = "as told" if expected is None or images != expected.images else f"as {expected.publication}"
    size = "their own size" if info.size is None else "{}x{}".format(*info.size)
    divided = "" if images.divide == 1 else f", then divided by {images.divide:g}"
    void = "" if info.void_output is None else f" and void, which is output {info.void_output}"
    filled = f"{loaded.filled} *.{UNCOUNTED} with 0: old checkpoints lack them" if loaded.filled else "nothing"
    return [
        ("layout", loaded.layout.source),
        ("network", ", ".join([f"{count_parameters(loaded.network) / 1e6:.3f} M parameters", *choices])),
        ("outputs", f"{len(info.classes)} classes{void}"),
        ("images", f"{images.order.upper()}, mean {mean}, deviation {std}{divided}; {source}; at {size}"),
        ("logits", f"enlarged with {'corners' if network.align_corners else 'areas'} aligned"),
        ("used", f"{loaded.used} tensors"),
        ("filled in", filled),
        *(("converted", text) for text in loaded.converted),
        *(("left out", text) for text in loaded.left_out or ("nothing",)),
        *(("hint", text) for text in _hints(loaded, info, expected)),
    ]
