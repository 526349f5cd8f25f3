"""Several processes under torchrun: set-up, ranks, sums across them. With one process, nothing happens."""

import os
import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from segdistill.errors import SegdistillError, UsageError
from segdistill.runtime.lost_peers import known_peers, watch_agent
from segdistill.types import Batch

TIMEOUT = timedelta(hours=2)
"""Longest time that processes wait for each other: for validations and checkpoints, that is. See `run_on_all`."""
HEARTBEAT_SECONDS = 30.0
"""Time between two signs of life of a process for which the others wait."""
T = TypeVar("T")


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the other processes that torchrun started, with NCCL on GPUs and Gloo on CPUs, and leave them at the end."""
    if "RANK" not in os.environ or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)  # objects that processes exchange travel by the current device
        dist.init_process_group("nccl", timeout=TIMEOUT, device_id=device)
    else:
        dist.init_process_group("gloo", timeout=TIMEOUT)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        watch_agent()
    try:
        peers = all_gather_object((platform.node(), os.getpid()))
        with known_peers(peers):
            yield
    finally:
        dist.destroy_process_group()


def local_device(device: torch.device) -> torch.device:
    """Return this process's own GPU where torchrun started one process per GPU.

    Raises:
        UsageError: if there are more processes than GPUs.
    """
    if device.type != "cuda" or "LOCAL_RANK" not in os.environ:
        return device
    local_rank = int(os.environ["LOCAL_RANK"])
    if local_rank >= torch.cuda.device_count():
        raise UsageError(
            f"Process {local_rank} of this machine has no GPU: there are {torch.cuda.device_count()}.",
            "Start torchrun with --nproc-per-node no larger than the number of GPUs.",
        )
    return torch.device("cuda", local_rank)


def cores() -> int:
    """Return the number of this machine's cores that the process may use."""
    if hasattr(os, "sched_getaffinity"):  # macOS has none
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def rank() -> int:
    """Return this process's number; 0 logs and writes."""
    if dist.is_initialized():
        return dist.get_rank()
    return int(os.environ.get("RANK", "0"))  # before the processes have joined


def world_size() -> int:
    """Return the number of processes."""
    if dist.is_initialized():
        return dist.get_world_size()
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_world_size() -> int:
    """Return the number of processes that share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))


def is_local_main() -> bool:
    """Whether this is the first process of its machine, as far as it is known which share one."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def is_main() -> bool:
    """Whether this is the process that logs and writes."""
    return rank() == 0


def barrier() -> None:
    """Wait for the other processes."""
    if dist.is_initialized():
        dist.barrier()


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes; `tensor` itself is left alone."""
    if not dist.is_initialized():
        return tensor
    total = tensor.clone()
    dist.all_reduce(total)
    return total


def all_reduce_mean(tensors: list[Tensor]) -> None:
    """Average each tensor over all processes, in place and in one message."""
    if not dist.is_initialized() or not tensors:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    flat /= world_size()
    means = flat.split([tensor.numel() for tensor in tensors])
    for tensor, mean in zip(tensors, means, strict=True):
        tensor.copy_(mean.view_as(tensor))


def all_reduce_mean_dict(values: dict[str, Tensor]) -> dict[str, float]:
    """Return the mean of each scalar over all processes, in one message."""
    stacked = torch.stack([value.detach().float() for value in values.values()])
    means = all_reduce_sum(stacked) / world_size()
    return dict(zip(values, means.tolist(), strict=True))


def all_reduce_any(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set in any process: all of them decide alike."""
    if not dist.is_initialized():
        return flag
    return bool(all_reduce_sum(torch.tensor(int(flag), device=device)) > 0)


def all_gather_object(value: Any) -> list[Any]:
    """Return every process's value, by rank."""
    if not dist.is_initialized():
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def broadcast_object(value: Any) -> Any:
    """Return the first process's value in all of them."""
    if not dist.is_initialized():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def global_mean_weight(batch: Batch, count: Callable[[Batch], Tensor]) -> Tensor:
    """Return what turns this batch's mean into its share of the step's mean, over all micro-batches and processes.

    A mean over what `count` counts in a batch, times this weight, averaged over micro-batches and processes, is the
    mean over everything counted in the whole step: N processes and accumulated batches equal one large batch.
    """
    # float64, as float32 counts no further than 16 million pixels one by one
    batch_count = count(batch).double()
    step_count = batch_count
    if batch.parts:
        step_count = torch.stack([count(part) for part in batch.parts]).sum().double()
    averaged_over = max(len(batch.parts), 1) * world_size()
    total = all_reduce_sum(step_count)
    # Where nothing counts, the mean is 0 and so is its weight: no 0 / 0. A sum of class weights may be far below 1.
    weight = batch_count * averaged_over / total.masked_fill(total == 0, 1)
    return weight.float()


def run_on_main(work: Callable[[], T]) -> T:
    """Return in all processes what the first one alone does; where it is refused, all of them are.

    Raises:
        SegdistillError: as `work` does; in the other processes, marked as told by another.
    """
    if not dist.is_initialized():
        return work()
    result, failure = broadcast_object(_outcome(work) if is_main() else None)
    if failure is not None:
        raise collective_error(failure)
    return cast(T, result)


def run_on_all(work: Callable[[], T]) -> list[T]:
    """Do something in all processes that may take longer than they wait for each other; return all results, by rank.

    Raises:
        SegdistillError: in all processes, as `work` does in the first of them that is refused.
    """
    if not dist.is_initialized():
        return [work()]
    with _heartbeat():
        outcome = _outcome(work)
    outcomes = all_gather_object(outcome)
    for number, (_, failure) in enumerate(outcomes):
        if failure is not None:
            if number > 0:
                failure.what = f"Process {number}: {failure.what}"
            raise collective_error(failure)
    return [result for result, _ in outcomes]


def collective_error(error: SegdistillError) -> SegdistillError:
    """Return an error that all processes raise, of which the first one tells it."""
    error.told_by_another = not is_main()
    return error


@contextmanager
def _heartbeat() -> Iterator[None]:
    """Exchange messages until all processes have come to the end: a library takes a long silence for a failure."""
    done = threading.Event()
    device = torch.cuda.current_device() if torch.cuda.is_initialized() else None

    def exchange() -> None:
        if device is not None:
            torch.cuda.set_device(device)  # each thread has a current device of its own
        while not all(all_gather_object(done.is_set())):
            done.wait(HEARTBEAT_SECONDS)

    thread = threading.Thread(target=exchange, daemon=True)
    thread.start()
    yield
    # Only behind a result or a refusal: any other error ends the process, which the others then notice.
    done.set()
    thread.join()


def _outcome(work: Callable[[], T]) -> tuple[T | None, SegdistillError | None]:
    """Return a function's result or its refusal, so that it can be sent to the other processes."""
    try:
        return work(), None
    except SegdistillError as error:
        return None, error
