"""Several processes under torchrun: set-up, ranks, sums across them. With one process, nothing happens."""

import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from segdistill.errors import ResourceError, SegdistillError, UsageError
from segdistill.signals import end_at_once
from segdistill.types import Batch

PATIENCE = timedelta(hours=2)
"""How long processes wait for each other: for validations and checkpoints, that is. See `from_each`."""
BEAT = 30.0
"""Seconds between two signs of life of a process for which the others wait."""
GRACE = 30.0
"""Seconds that a process has to save and stop when torchrun is gone."""
GONE = (
    *("Connection closed by peer", "Connection reset by peer", "Connection refused", "Broken pipe", "Socket closed"),
    *(
        "Application timeout",
        "Timed out waiting",
        "Socket Timeout",
        "remote process exited",
        "collective operation timeout",
    ),
)
"""How Gloo, NCCL and PyTorch's store say that another process does not answer."""
_members: list[tuple[str, int]] = []
"""Machine and process number of each process, by rank."""
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
    if "TORCHELASTIC_RUN_ID" in os.environ:
        _watch_agent()
    try:
        _members[:] = gather((platform.node(), os.getpid()))
        with losses_told():
            yield
    finally:
        _members.clear()
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


def is_first_here() -> bool:
    """Whether this is the first process of its machine, as far as it is known which share one."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


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


def from_main(work: Callable[[], T]) -> T:
    """Return in all processes what the first one alone does; where it is refused, all of them are.

    Raises:
        SegdistillError: as `work` does; in the other processes, marked as told elsewhere.
    """
    if not dist.is_initialized():
        return work()
    result, failure = same_for_all(_outcome(work) if is_main() else None)
    if failure is not None:
        raise for_all(failure)
    return cast(T, result)


def from_each(work: Callable[[], T]) -> list[T]:
    """Do something in all processes that may take longer than they wait for each other; return what each one found.

    Raises:
        SegdistillError: in all processes, as `work` does in the first of them that is refused.
    """
    if not dist.is_initialized():
        return [work()]
    over, device = threading.Event(), torch.cuda.current_device() if torch.cuda.is_initialized() else None

    def tell_that_it_works() -> None:
        if device is not None:
            torch.cuda.set_device(device)
        while not all(gather(over.is_set())):
            over.wait(BEAT)

    thread = threading.Thread(target=tell_that_it_works, daemon=True)
    thread.start()
    outcome = _outcome(work)
    over.set()
    thread.join()
    outcomes = gather(outcome)
    for number, (_, failure) in enumerate(outcomes):
        if failure is not None:
            failure.what = failure.what if number == 0 else f"Process {number}: {failure.what}"
            raise for_all(failure)
    return [result for result, _ in outcomes]


def for_all(error: SegdistillError) -> SegdistillError:
    """Return an error that is raised in all processes, of which the first one tells it."""
    error.elsewhere = not is_main()
    return error


def _outcome(work: Callable[[], T]) -> tuple[T | None, SegdistillError | None]:
    try:
        return work(), None
    except SegdistillError as error:
        return None, error


@contextmanager
def losses_told(command: str = "") -> Iterator[None]:
    """Put into words what a library says where another process is gone.

    Args:
        command: what continues the run.
    """
    try:
        yield
    except RuntimeError as error:
        if not _members or not any(sign in str(error) for sign in GONE):
            raise
        dead = _dead()
        which = f"process {', '.join(map(str, dead))} is dead" if dead else "another process is dead, or hangs"
        again = f"\nContinue with: {command}" if command else ""
        raise ResourceError(
            f"Process {rank()} waited for the others in vain: {which}.",
            f"What that one said last is above, or in the log of its machine; one that was killed says nothing.{again}",
        ) from error


def _dead() -> list[int]:
    """Return which processes of this machine are no more; one that is about to end is waited for."""
    end = time.monotonic() + 2
    while True:
        here = [(number, pid) for number, (machine, pid) in enumerate(_members) if machine == platform.node()]
        dead = [number for number, pid in here if not _is_alive(pid)]
        if dead or time.monotonic() > end:
            return dead
        time.sleep(0.1)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except OSError:  # no /proc, or somebody else's
        return True


def _watch_agent() -> None:
    """Stop where torchrun is gone: first as SIGTERM does, then at once. Nobody else would end what is left."""
    agent = os.getppid()

    def watch() -> None:
        while os.getppid() == agent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        end_at_once(
            signal.SIGTERM, f"torchrun is gone, and process {rank()} did not come to a stop within {GRACE:g} s."
        )

    threading.Thread(target=watch, daemon=True).start()


def same_for_all(value: Any) -> Any:
    """Return the first process's value in all of them."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]
