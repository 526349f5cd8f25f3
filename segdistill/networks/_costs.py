"""The costs of a network: multiply-adds and parameters, as publications count them."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from segdistill.networks._base import SegNetwork
from segdistill.networks._inference import InferenceWrapper


def count_macs(network: SegNetwork, size: tuple[int, int]) -> int:
    """Return the multiply-adds of one image (H, W) through the deployed network; FLOPs are twice as many."""
    from torch.utils.flop_counter import FlopCounterMode  # late: it imports a compiler

    was_training = network.training
    image = torch.zeros(1, network.mean.shape[1], *size, device=network.mean.device)
    # Fake tensors have shapes and no numbers: nothing is computed. Those of a meta network have none anyway.
    without_numbers: AbstractContextManager[Any] = FakeTensorMode(allow_non_fake_inputs=True)
    if network.mean.is_meta:
        without_numbers = nullcontext()
    with without_numbers, FlopCounterMode(display=False) as counter, torch.no_grad(), _NoBatchNorm():
        InferenceWrapper(network)(image)
    network.train(was_training)  # the wrapper switched it to eval mode
    # The counter takes a multiplication and an addition for two.
    return int(counter.get_total_flops()) // 2


def countable_macs(network: SegNetwork, size: tuple[int, int]) -> int | None:
    """Return the multiply-adds of somebody else's network; None where it does not run on tensors without numbers."""
    try:
        return count_macs(network, size)
    except Exception:  # whatever that leads to in code that is not ours
        return None


def count_parameters(network: SegNetwork) -> int:
    """Return the number of parameters that are shipped: without the auxiliary head."""
    count = 0
    for name, parameter in network.named_parameters():
        if not name.startswith(network.training_only):
            count += parameter.numel()
    return count


class _NoBatchNorm(TorchFunctionMode):
    """Leaves out batch norm, which has no multiply-adds once deployed and, without numbers, takes longest of all."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.batch_norm:
            return args[0]
        return func(*args, **(kwargs or {}))
