"""Several processes under torchrun: set-up, ranks, sums across them. With one process, nothing happens."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from segdistill.errors import SegdistillError, UsageError
from segdistill.types import Batch

PATIENCE = timedelta(hours=2)
"""How long processes wait for each other: for validations and checkpoints, that is. See `from_main`."""
BEAT = 30.0
"""Seconds between two signs of life of a process for which the others wait."""
STILL_AT_WORK = "still at work"
T = TypeVar("T")


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


def from_main(work: Callable[[], T], *, long: bool = False) -> T:
    """Return in all processes what the first one alone does; where it is refused, all of them are.

    Args:
        work: what to do.
        long: it may take longer than processes wait for each other, and says now and then that it is still at work.

    Raises:
        SegdistillError: as `work` does; in the other processes, marked as told elsewhere.
    """
    if not dist.is_initialized():
        return work()
    result: T | None = None
    failure: SegdistillError | None = None
    if is_main():
        try:
            with _signs_of_life() if long else nullcontext():
                result = work()
        except SegdistillError as error:
            failure = error
    told = (result, failure)
    while (told := same_for_all(told)) == STILL_AT_WORK:
        pass
    result, failure = told
    if failure is not None:
        failure.elsewhere = not is_main()
        raise failure
    return cast(T, result)


@contextmanager
def _signs_of_life() -> Iterator[None]:
    """Tell the other processes every `BEAT` seconds that this one is at work, so that none waits in vain."""
    over, device = threading.Event(), torch.cuda.current_device() if torch.cuda.is_initialized() else None

    def beat() -> None:
        if device is not None:
            torch.cuda.set_device(device)
        while not over.wait(BEAT):
            same_for_all(STILL_AT_WORK)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def same_for_all(value: Any) -> Any:
    """Return the first process's value in all of them."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]
