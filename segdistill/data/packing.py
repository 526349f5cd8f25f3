"""How samples become batches, and how batches get from the loader processes to the one that asks for them."""

import os
import tempfile
from collections.abc import Iterable
from itertools import groupby
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from segdistill.config.schema import DataConfig
from segdistill.data.base import Pixels
from segdistill.errors import SegdistillError
from segdistill.runtime.distributed import local_world_size
from segdistill.runtime.shared_memory import SHARED_MEMORY, free_shared_memory

PREFETCH = 2
"""Batches that each worker reads ahead."""
SOCKET = "/pymp-12345678/listener-12345678"
"""End of the path of a socket that multiprocessing makes in the temporary folder."""
MAX_SOCKET_PATH = 103
"""Bytes of the path of a socket on macOS; Linux takes 107."""
BYTES_PER_PIXEL = 4
"""Bytes that a pixel takes in a packed batch: three of the image, one of the label."""


class ReadySample(NamedTuple):
    """A sample as it is batched."""

    image: Pixels
    """(H, W, 3)."""
    label: Pixels
    """(H, W)."""
    name: str
    seed: int


class PackedBatch(NamedTuple):
    """A batch in as few bytes as possible, between the processes and on its way to the GPU."""

    image: Tensor | Pixels
    """(B, H, W, 3) uint8."""
    label: Tensor | Pixels
    """(B, H, W) uint8."""
    names: tuple[str, ...]
    seeds: Tensor | npt.NDArray[np.int64]
    """(B,)."""

    @property
    def byte_count(self) -> int:
        """Number of bytes of the arrays."""
        return sum(array.nbytes for array in (self.image, self.label, self.seeds))

    def through_pipe(self) -> "PackedBatch":
        """Return it in arrays: PyTorch hands tensors to another process in shared memory, arrays go through a pipe."""
        return PackedBatch(
            np.asarray(self.image), np.asarray(self.label), names=self.names, seeds=np.asarray(self.seeds)
        )


class PackSamples:
    """Makes batches of samples, and sees to it that they find a way to the process that asks for them."""

    def __init__(self, workers: int, max_pixels: int | None) -> None:
        self.workers = workers * local_world_size()  # they all share this machine's shared memory
        self.max_pixels = max_pixels

    def __call__(self, samples: list[ReadySample | SegdistillError]) -> list[PackedBatch] | SegdistillError:
        """Return batches of samples of one size each, or the first error among the samples."""
        ready = []
        for sample in samples:
            if isinstance(sample, SegdistillError):
                return sample
            ready.append(sample)
        batches = [_pack(group) for group in _groups_of_one_size(ready, self.max_pixels)]
        if self.workers and not self._fits_shared_memory(batches):
            return [batch.through_pipe() for batch in batches]
        return batches

    def _fits_shared_memory(self, batches: Iterable[PackedBatch]) -> bool:
        """Whether there is room for as many batches of this size as may be under way, and a way to hand them over."""
        if not _can_open_sockets():
            return False
        free = free_shared_memory()
        return free is None or free >= _bytes_in_flight(self.workers, sum(batch.byte_count for batch in batches))


def shared_memory_shortage(config: DataConfig, workers: int, parts: int) -> str | None:
    """Say what is missing where the batches of a training cannot go through the shared memory of this machine.

    They are handed over through pipes then, batch by batch, as long as there is too little.

    Args:
        config: batch size and crop.
        workers: processes that read, per training process.
        parts: micro-batches of a step, over all processes.
    """
    if not workers:
        return None
    if not _can_open_sockets():
        return (
            f"Temporary folder: the path {tempfile.gettempdir()} is too long for the sockets of loader workers. "
            "Batches go through pipes, which is slower. Set TMPDIR to a shorter path."
        )
    free = free_shared_memory()
    height, width = config.crop
    batch_bytes = config.batch_size // parts * height * width * BYTES_PER_PIXEL
    needed = _bytes_in_flight(workers * local_world_size(), batch_bytes)
    if free is None or free >= needed:
        return None
    return (
        f"Shared memory: {SHARED_MEMORY} has {free >> 20} MiB free, the batches of {workers} loader workers need "
        f"{(needed >> 20) + 1} MiB. They go through pipes, which is slower. In a container, give it more: "
        f"docker run --shm-size={(needed >> 30) + 1}g"
    )


def _bytes_in_flight(workers: int, batch_bytes: int) -> int:
    """Return the bytes of all batches that may be under way: one in use and one on its way, beside those read ahead."""
    return batch_bytes * (workers * PREFETCH + 2)


def _can_open_sockets() -> bool:
    """Whether the temporary folder's path is short enough for the sockets through which tensors are handed over."""
    return len(os.fsencode(tempfile.gettempdir())) + len(SOCKET) <= MAX_SOCKET_PATH


def _groups_of_one_size(samples: list[ReadySample], max_pixels: int | None) -> list[list[ReadySample]]:
    """Cut samples into runs of neighbors of equal sizes, of as many images as have room in `max_pixels`."""
    groups = []
    for _, neighbors in groupby(samples, key=lambda sample: (sample.image.shape, sample.label.shape)):
        run = list(neighbors)
        room = len(run)
        if max_pixels is not None:
            height, width = run[0].image.shape[:2]
            room = max(1, max_pixels // (height * width))  # a larger image is a batch of its own
        groups += [run[start : start + room] for start in range(0, len(run), room)]
    return groups


def _pack(samples: list[ReadySample]) -> PackedBatch:
    return PackedBatch(
        image=torch.from_numpy(np.stack([sample.image for sample in samples])),
        label=torch.from_numpy(np.stack([sample.label for sample in samples])),
        names=tuple(sample.name for sample in samples),
        seeds=torch.tensor([sample.seed for sample in samples]),
    )
