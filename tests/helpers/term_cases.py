"""Terms with networks and batches for them."""

import torch
from torch import Tensor, nn

from helpers.tiny import CLASSES, one_batch
from segdistill.config.schema import NetworkConfig
from segdistill.networks import SegNetwork, build_network
from segdistill.terms import TermContext
from segdistill.types import Batch, SegOutput


def network(name: str, seed: int) -> SegNetwork:
    torch.manual_seed(seed)
    return build_network(NetworkConfig(network=name), len(CLASSES)).eval()


def pair() -> TermContext:
    """Return two real networks with different channels; both want gradients."""
    return TermContext(network("pspnet-resnet18-half", 0), network("pspnet-resnet18", 1), len(CLASSES))


def batch_of(images: int) -> Batch:
    return one_batch(images, crop=(40, 56))


def largest(module: nn.Module) -> float:
    return max((float(p.grad.abs().max()) for p in module.parameters() if p.grad is not None), default=0.0)


def outputs(logits: Tensor) -> SegOutput:
    return SegOutput(logits, (), None)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
