"""Networks by name with seeded weights, and images for them."""

import torch
from torch import Tensor, nn

from segdistill.config.schema import NetworkConfig
from segdistill.networks import SegNetwork, build_network

CLASSES = 5


def make(name: str, seed: int = 0, in_channels: int = 3, **options: object) -> SegNetwork:
    torch.manual_seed(seed)
    config = NetworkConfig.model_validate({"network": name, **options})
    return build_network(config, CLASSES, in_channels).eval()


def settled(network: SegNetwork) -> SegNetwork:
    """Return the network with the statistics of some images in its batch norms: without, deep ones say nothing."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()(images(4, network.mean.shape[1], 64, 64, seed=7))
    for norm in norms:
        norm.momentum = 0.1
    return network.eval()


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 255
