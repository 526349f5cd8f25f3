"""Networks by name, untrained or on ImageNet weights of their backbone."""

from typing import Any

from segdistill import networks
from segdistill.config.checking import validated
from segdistill.config.schema import NetworkConfig
from segdistill.networks import SegNetwork


def list_networks(part: str = "") -> list[str]:
    """Return the names of all networks, such as pspnet-resnet18.

    Args:
        part: of the names that are returned; the empty text returns all.
    """
    return [name for name in networks.network_names() if part in name]


def create_network(network: str, *, num_classes: int, pretrained: bool = False, **options: Any) -> SegNetwork:
    """Build a network: RGB images (B, 3, H, W) in 0..255, of any size, to a `SegOutput`.

    Its weights are drawn from torch's generator. It normalizes its images itself: to feed it images that are normalized
    already, give `input={"mean": [0, 0, 0], "std": [1, 1, 1]}`.

    Args:
        network: its name, as `list_networks` has it; timm:NAME for PSPNet's head on a backbone of timm.
        num_classes: number of outputs, C.
        pretrained: take ImageNet weights for the backbone, downloaded once.
        options: what else can be chosen, with the keys of [student] in a preset: output_stride, aux, dropout, ...

    Raises:
        UsageError: if there is no such network, or it has no such option.
    """
    config = validated(NetworkConfig, options | {"network": network}, f"the options of {network}")
    if pretrained:
        config = networks.with_published_images(config)
    built = networks.build_network(config, num_classes)
    networks.load_backbone(built, pretrained=pretrained, weights_file=None)
    return built
