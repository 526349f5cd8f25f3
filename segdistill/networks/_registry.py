"""Networks by the names that users type."""

import re
from collections import Counter
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from segdistill.config.registry import components, load
from segdistill.config.schema import InputConfig, NetworkConfig
from segdistill.errors import UsageError, nearest
from segdistill.networks._base import SegNetwork
from segdistill.networks._costs import count_macs, count_parameters
from segdistill.networks._resnet import OPTIONS as RESNET_OPTIONS
from segdistill.networks._timm import full_timm_name

BACKBONE = re.compile("[a-z]{3}")
"""Beginning of a variant that names a backbone: resnet18, not 1.3 or s."""
COMMON_OPTIONS = {"network", "output_stride", "aux", "align_corners", "input"}
"""Fields of a `NetworkConfig` that every network has."""


def network_names() -> list[str]:
    """Return the full names of all networks, such as pspnet-resnet18."""
    names = []
    for architecture in components("networks"):
        variants = _module(architecture).BACKBONES
        names += [f"{architecture}-{variant}" if variant else architecture for variant in variants]
    return names


def list_networks(size: tuple[int, int], num_classes: int, part: str = "") -> list[dict[str, Any]]:
    """Return name, output stride, parameters, MACs and FLOPs of every network as published, without auxiliary head.

    Args:
        size: (H, W) of the image that the MACs are for.
        num_classes: C.
        part: of the names that are listed; or timm:NAME, which none of the list is.

    Raises:
        UsageError: if no name has that part.
    """
    timm_name = full_timm_name(part)
    names = [timm_name] if timm_name else [name for name in network_names() if part in name]
    if not names:
        raise UsageError(f"No network's name has {part!r} in it.", nearest(part, network_names()))
    entries = []
    for name in names:
        # Publications do not count the auxiliary head, which is not shipped.
        config = resolve(NetworkConfig(network=name, aux=False))
        network = meta_network(config, num_classes)
        macs = count_macs(network, size)
        entries.append(
            {
                "name": name,
                "output_stride": config.output_stride,
                "parameters": count_parameters(network),
                "macs": macs,
                "flops": 2 * macs,
            }
        )
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
    timm_name = full_timm_name(text)
    if timm_name:
        return timm_name
    names = network_names()
    spellings = _backbones_alone(names, default_decoder.partition("-")[0])
    spellings |= {name.replace("-resnet", ""): name for name in names}
    # Last, so that no short form hides the full name of another network.
    spellings |= {name: name for name in names}
    if text not in spellings:
        raise UsageError(f"Unknown network {text!r}.", nearest(text, spellings))
    return spellings[text]


def _backbones_alone(names: list[str], default_architecture: str) -> dict[str, str]:
    """Return which network is meant by each backbone's name."""
    owners = Counter(name.partition("-")[2] for name in names)
    network_of: dict[str, str] = {}
    for name in names:
        architecture, _, variant = name.partition("-")
        if not BACKBONE.match(variant):
            continue
        # PSPNet is the network of most presets, so a backbone of several networks alone means that.
        is_usual = owners[variant] == 1 or architecture == "pspnet"
        is_asked_for = architecture == default_architecture
        if is_asked_for or (is_usual and variant not in network_of):
            network_of[variant] = name
    return network_of


def resolve(config: NetworkConfig) -> NetworkConfig:
    """Return the configuration with the network's full name, its output stride and what it wants of images.

    Raises:
        UsageError: if there is no such network, or it does not have an option that is set.
    """
    name = resolve_name(config.network)
    config = config.model_copy(update={"network": name})
    missing = missing_options(config)
    if missing:
        reasons = "; ".join(f"{option}: {reason}" for option, reason in missing.items())
        raise UsageError(f"{name} cannot be built so: {reasons}.", "Leave that out, or choose another network.")
    choices = {
        "output_stride": config.output_stride or _module(name).STRIDES[0],
        "align_corners": bool(config.align_corners),
        "input": config.input or InputConfig(),
    }
    return config.model_copy(update=choices)


def missing_options(config: NetworkConfig) -> dict[str, str]:
    """Return the options that are set and that the network, given by its full name, does not have, and why."""
    module = _module(config.network)
    default = NetworkConfig(network=config.network)
    options = {*module.OPTIONS}
    if "timm:" in config.network:
        # PSPNet's own options are its head's; the others are of its usual backbone, which is not there.
        options.difference_update(RESNET_OPTIONS)
    missing = {}
    for name in NetworkConfig.model_fields.keys() - COMMON_OPTIONS - options:
        if getattr(config, name) != getattr(default, name):
            missing[name] = "it has none to choose"
    if config.output_stride not in (None, *module.STRIDES):
        strides = " or ".join(str(stride) for stride in module.STRIDES)
        missing["output_stride"] = f"it has {strides}, not {config.output_stride}"
    return dict(sorted(missing.items()))


def build_network(config: NetworkConfig, num_classes: int, in_channels: int = 3) -> SegNetwork:
    """Build the network that the configuration names, with random weights drawn from torch's global generator.

    Raises:
        UsageError: if there is no such network, or it does not have an option that is set.
    """
    config = resolve(config)
    architecture = _module(config.network)
    network = architecture.build(config, num_classes, in_channels)
    if not isinstance(network, SegNetwork):
        raise UsageError(
            f"`build` of {config.network} returns {type(network).__name__}, not a SegNetwork.",
            "Update the package that it comes from.",
        )
    assert config.input is not None, "resolved"
    network.set_preprocessing(config.input, align_corners=bool(config.align_corners))
    return network


def meta_network(config: NetworkConfig, num_classes: int, in_channels: int = 3) -> SegNetwork:
    """Build the names and shapes of a network, without numbers: no memory is taken and nothing drawn.

    Raises:
        UsageError: as `build_network`.
    """
    with torch.device("meta"), _NoInPlaceFunctions():
        return build_network(config, num_classes, in_channels)


class _NoInPlaceFunctions(TorchFunctionMode):
    """Leaves out what works in place, such as the drawing of first weights; without numbers it has nothing to do.

    It would take as long as with numbers, and move the generator of whoever draws next.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        is_in_place = func.__name__.endswith("_") and not func.__name__.endswith("__")
        if not is_in_place:
            return func(*args, **kwargs)
        return args[0] if args else kwargs["tensor"]  # as the functions of nn.init pass it on


def _module(name: str) -> Any:
    """Return the module of the architecture that a network's name begins with."""
    return load("networks", name.partition("-")[0], "architecture")
