"""Networks by name: each file here without a leading underscore is an architecture.

An architecture's module has
    BACKBONES                                   its variants: a network is called ARCHITECTURE-VARIANT, so the
                                                architecture's own name has no dash, or ARCHITECTURE alone for ""
    STRIDES                                     the output strides it can have, that of its publication first
    OPTIONS                                     which fields of `NetworkConfig` it has, beside those that all have
    build(config, num_classes, in_channels)     of a configuration with the full name and an output stride
"""

import re
from collections import Counter
from http.client import HTTPException
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from segdistill.config import InputConfig, NetworkConfig, components, find
from segdistill.errors import ModelError, UsageError, nearest
from segdistill.networks._base import Backbone, Deployed, SegNetwork, count_macs, count_parameters
from segdistill.networks._resnet import OPTIONS as RESNET_OPTIONS
from segdistill.networks._timm import TimmBackbone, full_timm_name
from segdistill.networks._weights import mismatch, read_weights

__all__ = [
    "Deployed",
    "SegNetwork",
    "blank_network",
    "build_network",
    "downloaded",
    "list_networks",
    "load_backbone",
    "missing_options",
    "network_names",
    "resolve",
    "resolve_name",
]

BACKBONE = re.compile("[a-z]{3}")
"""How a variant begins that names a backbone: resnet18, not 1.3 or s."""
COMMON = {"network", "output_stride", "aux", "align_corners", "input"}
"""What every network has of a `NetworkConfig`."""


def network_names() -> list[str]:
    """Return the full names of all networks, such as pspnet-resnet18."""
    names = [(name, variant) for name in components("networks") for variant in _module(name).BACKBONES]
    return [f"{name}-{variant}" if variant else name for name, variant in names]


def list_networks(size: tuple[int, int], num_classes: int, part: str = "") -> list[dict[str, Any]]:
    """Return name, output stride, parameters, MACs and FLOPs of every network as published, without auxiliary head.

    Args:
        size: (H, W) of the image that the MACs are for.
        num_classes: C.
        part: of the names that are listed; or timm:NAME, which none of the list is.

    Raises:
        UsageError: if no name has that part.
    """
    entries, timm_name = [], full_timm_name(part)
    names = [timm_name] if timm_name else [name for name in network_names() if part in name]
    if not names:
        raise UsageError(f"No network's name has {part!r} in it.", nearest(part, network_names()))
    for name in names:
        config = resolve(NetworkConfig(network=name, aux=False))
        network = blank_network(config, num_classes)
        macs = count_macs(network, size)
        entry = {"name": name, "output_stride": config.output_stride, "parameters": count_parameters(network)}
        entries.append(entry | {"macs": macs, "flops": 2 * macs})
    return entries


def resolve_name(text: str, default_decoder: str = "") -> str:
    """Return a network's full name from the name a user typed.

    Args:
        text: a full name; a short one, pspnet101 for pspnet-resnet101; a backbone alone, such as resnet18: of the
            default architecture, or the only one that has it, or PSPNet; or timm:NAME, which always has PSPNet's head.
        default_decoder: the architecture that a backbone alone is meant for, or any network of that architecture.

    Raises:
        UsageError: if there is no such network, with the nearest names, or if it needs an extra that is missing.
    """
    if timm_name := full_timm_name(text):
        return timm_name
    names = network_names()
    owners = Counter(name.partition("-")[2] for name in names)
    spellings: dict[str, str] = {}
    for name in names:
        architecture, _, variant = name.partition("-")
        spellings[name.replace("-resnet", "")] = name
        if not BACKBONE.match(variant):
            continue
        known = variant in spellings or not (owners[variant] == 1 or architecture == "pspnet")
        if architecture == default_decoder.partition("-")[0] or not known:
            spellings[variant] = name
    spellings |= {name: name for name in names}
    if text not in spellings:
        raise UsageError(f"Unknown network {text!r}.", nearest(text, spellings))
    return spellings[text]


def resolve(config: NetworkConfig) -> NetworkConfig:
    """Return the configuration with the network's full name, its output stride and what it wants of images.

    Raises:
        UsageError: if there is no such network, or it does not have an option that is set.
    """
    name = resolve_name(config.network)
    config = config.model_copy(update={"network": name})
    if missing := missing_options(config):
        raise UsageError(
            f"{name} cannot be built so: " + "; ".join(f"{key}: {why}" for key, why in missing.items()) + ".",
            "Leave that out, or choose another network.",
        )
    own = {
        "output_stride": config.output_stride or _module(name).STRIDES[0],
        "align_corners": bool(config.align_corners),
        "input": config.input or InputConfig(),
    }
    return config.model_copy(update=own)


def missing_options(config: NetworkConfig) -> dict[str, str]:
    """Return the options that are set and that the network, given by its full name, does not have, and why."""
    module = _module(config.network)
    plain = NetworkConfig(network=config.network)
    options = {*module.OPTIONS} - {*RESNET_OPTIONS} if "timm:" in config.network else {*module.OPTIONS}
    missing = {
        name: "it has none to choose"
        for name in NetworkConfig.model_fields.keys() - COMMON - options
        if getattr(config, name) != getattr(plain, name)
    }
    if config.output_stride not in (None, *module.STRIDES):
        missing["output_stride"] = f"it has {' or '.join(map(str, module.STRIDES))}, not {config.output_stride}"
    return dict(sorted(missing.items()))


def build_network(config: NetworkConfig, num_classes: int, in_channels: int = 3) -> SegNetwork:
    """Build the network that the configuration names, with random weights drawn from torch's global generator.

    Raises:
        UsageError: if there is no such network, or it does not have an option that is set.
    """
    config = resolve(config)
    network: SegNetwork = _module(config.network).build(config, num_classes, in_channels)
    assert config.input is not None, "resolved"
    network.expect(config.input, align_corners=bool(config.align_corners))
    return network


def blank_network(config: NetworkConfig, num_classes: int, in_channels: int = 3) -> SegNetwork:
    """Build the names and shapes of a network, without numbers: no memory is taken and nothing drawn.

    Raises:
        UsageError: as `build_network`.
    """
    with torch.device("meta"), _Undrawn():
        return build_network(config, num_classes, in_channels)


class _Undrawn(TorchFunctionMode):
    """Leaves out what works in place, such as the drawing of first weights; without numbers it has nothing to do."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.__name__.endswith("_") and not func.__name__.endswith("__"):
            return args[0] if args else kwargs["tensor"]  # as the functions of nn.init pass it on
        return func(*args, **kwargs)


def _module(name: str) -> Any:
    """Return the module of the architecture that a network's name begins with."""
    return import_module(find("networks", name.partition("-")[0], "architecture"))


def load_backbone(network: SegNetwork, *, pretrained: bool, weights_file: Path | None) -> None:
    """Fill the network's backbone, from the file if there is one, else with torchvision's ImageNet weights if wanted.

    Raises:
        UsageError: if there are no such weights, they want other images, there is no such file, or they cannot be
            downloaded, or the network has no part that such weights could fill.
        ModelError: if the file is damaged or its tensors are not the backbone's; the network is as before.
    """
    if weights_file is None and not pretrained:
        return
    backbone = network.backbone
    if backbone is None:
        raise UsageError(
            f"{type(network).__name__} has no backbone that ImageNet weights could fill.",
            "Leave --pretrained and --backbone-weights out; --init-weights FILE starts a student from a model file.",
        )
    if weights_file is not None and isinstance(backbone, TimmBackbone):
        raise UsageError(f"{backbone.name} has timm's own weights, not those of {weights_file}.", "Give --pretrained.")
    if weights_file is None and network.images != InputConfig():
        raise UsageError(
            f"The ImageNet weights of {backbone.name} expect images otherwise than this network's `input`.",
            "Leave --pretrained or `input` out.",
        )
    file, tensors = _imagenet(backbone) if weights_file is None else (weights_file, read_weights(weights_file).tensors)
    own = backbone.state_dict()
    found = {name: tensor for name, tensor in tensors.items() if not name.startswith(backbone.beyond)}
    in_channels = network.mean.shape[1]
    for name in own.keys() & found.keys():
        if own[name].shape[1:2] == (in_channels,) and found[name].shape == own[name][:, :3].shape:
            # The first convolution: what it sees besides RGB keeps the weights it has.
            found[name] = torch.cat([found[name], own[name][:, 3:]], dim=1)
    if problem := mismatch(own, found):
        beside = " and ".join(f"{part}*" for part in backbone.beyond)
        raise ModelError(
            f"{file} does not hold the tensors of {backbone.name}: {problem}",
            f"Give the weights of a {backbone.name}: the published tensor names, and at most {beside} besides.",
        )
    backbone.load_state_dict(found, strict=False)


def _imagenet(backbone: Backbone) -> tuple[object, dict[str, Tensor]]:
    """Return where a backbone's ImageNet weights come from, for messages, and the tensors."""
    if isinstance(backbone, TimmBackbone):
        return "timm's hub", backbone.published()
    if backbone.imagenet is None:
        raise UsageError(
            f"There are no ImageNet weights for {backbone.name}.",
            "Leave --pretrained out, or give weights of your own with --backbone-weights FILE.",
        )
    from torchvision.models import get_weight  # late: a second of import time

    what = f"The ImageNet weights of {backbone.name}"
    file = downloaded(get_weight(backbone.imagenet).url, what, "--backbone-weights FILE")
    return file, read_weights(file).tensors


def downloaded(url: str, what: str, flag: str) -> Path:
    """Return the file of published weights, from torch.hub's cache or the net.

    Args:
        url: of a file whose name ends in its digest, as torchvision's do.
        what: what the weights are, for messages.
        flag: how such a file is given instead.

    Raises:
        UsageError: if it cannot be downloaded.
    """
    file = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    if not file.is_file():
        digest = file.stem.rpartition("-")[2]
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(file), digest, progress=False)
        except (OSError, HTTPException, RuntimeError) as error:
            raise UsageError(
                f"{what} cannot be downloaded from {url}: {error}",
                f"Fetch that file on another machine and give it with {flag}, or put it at {file}.",
            ) from None
    return file
