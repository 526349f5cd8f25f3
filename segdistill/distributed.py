"""Several processes under torchrun: set-up, ranks, sums across them. With one process, nothing happens."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from segdistill.errors import UsageError
from segdistill.types import Batch

PATIENCE = timedelta(hours=2)
"""How long processes wait for each other: the first one reads every image before a run."""


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the other processes that torchrun started, with NCCL on GPUs and Gloo on CPUs, and leave them at the end."""
    if "RANK" not in os.environ or dist.is_initialized():
        yield
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)  # objects that processes exchange travel by the current device
    dist.init_process_group(backend, timeout=PATIENCE, device_id=device if backend == "nccl" else None)
    try:
        yield
    finally:
        dist.destroy_process_group()


def local_device(device: torch.device) -> torch.device:
    """Return this process's own GPU where torchrun started one process per GPU."""
    if device.type != "cuda" or "LOCAL_RANK" not in os.environ:
        return device
    local = int(os.environ["LOCAL_RANK"])
    if local >= torch.cuda.device_count():
        raise UsageError(
            f"Process {local} of this machine has no GPU: there are {torch.cuda.device_count()}.",
            "Start torchrun with --nproc-per-node no larger than the number of GPUs.",
        )
    return torch.device("cuda", local)


def cores() -> int:
    """Return the number of this machine's cores that the process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def rank() -> int:
    """Return this process's number; 0 logs and writes."""
    return dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else int(os.environ.get("WORLD_SIZE", "1"))


def processes_here() -> int:
    """Return the number of processes that share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))


def is_main() -> bool:
    """Whether this is the process that logs and writes."""
    return rank() == 0


def barrier() -> None:
    """Wait for the other processes."""
    if dist.is_initialized():
        dist.barrier()


def sum_across(tensor: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes; `tensor` itself is left alone."""
    if not dist.is_initialized():
        return tensor
    total = tensor.clone()
    dist.all_reduce(total)
    return total


def average(tensors: list[Tensor]) -> None:
    """Average each tensor over all processes, in place and in one message."""
    if not dist.is_initialized() or not tensors:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    flat /= world_size()
    for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))


def share_of_step(batch: Batch, count: Callable[[Batch], Tensor]) -> Tensor:
    """Return what turns this batch's mean into its share of the step's mean, over all micro-batches and processes.

    A mean over what `count` counts in a batch, times this share, averaged over micro-batches and processes, is the
    mean over everything counted in the whole step: N processes and accumulated batches equal one large batch.
    """
    own = count(batch).double()
    total = torch.stack([count(part) for part in batch.parts]).sum().double() if batch.parts else own
    share = own * (max(len(batch.parts), 1) * world_size()) / sum_across(total).clamp(min=1)
    return share.float()


def mean_across(values: dict[str, Tensor]) -> dict[str, float]:
    """Return the mean of each scalar over all processes, in one message."""
    stacked = sum_across(torch.stack([value.detach().float() for value in values.values()])) / world_size()
    return dict(zip(values, stacked.tolist(), strict=True))


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set in any process: all of them decide alike."""
    if not dist.is_initialized():
        return flag
    return bool(sum_across(torch.tensor(int(flag), device=device)) > 0)


def gather(value: Any) -> list[Any]:
    """Return every process's value, by rank."""
    if not dist.is_initialized():
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def same_for_all(value: Any) -> Any:
    """Return the first process's value in all of them."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]
