"""Batches: which images, in which order, with which seeds, and the workers that read them.

The order of a training is a function of the seed and the step alone. Epochs are permutations drawn from the seed,
batches run through them end to end (one may straddle two epochs), and what is random about a sample is drawn from the
seed, the epoch and its index. So a resumed run continues exactly, and neither the number of workers nor a validation in
between matters.
"""

import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import groupby
from multiprocessing.queues import Queue
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from segdistill.config import DataConfig
from segdistill.data._base import UNLABELED, Joined, Pixels, Split
from segdistill.data._image import to_size
from segdistill.distributed import processes_here
from segdistill.errors import ResourceError, SegdistillError, UsageError
from segdistill.signals import NUMBERS, Interrupted, pending
from segdistill.store import SHARED_MEMORY, free_shared_memory
from segdistill.types import IGNORE, Batch

TIMEOUT = 300.0
"""Seconds without a batch after which the workers count as stuck."""
POLL = 5.0
"""Seconds within which a dead worker, or a signal while none delivers, is noticed."""
PREFETCH = 2
"""Batches that each worker reads ahead."""
SOCKET, MAX_SOCKET_PATH = "/pymp-12345678/listener-12345678", 103
"""End of the path of a socket that multiprocessing makes in the temporary folder, and bytes of a whole one on macOS.
Linux takes 107."""


Transform = Callable[[Pixels, Pixels, int], tuple[Pixels, Pixels]]
"""From an image (H, W, 3), its label (H, W) and the sample's seed to both as a network sees them."""
Draw = tuple[int, int]
"""The index of a sample and the seed of what is random about it."""


class _Ready(NamedTuple):
    """A sample as it is batched."""

    image: Pixels
    label: Pixels
    name: str
    seed: int


class _Packed(NamedTuple):
    """A batch in as few bytes as possible, between the processes and on its way to the GPU."""

    image: Tensor | Pixels  # (B, H, W, 3) uint8
    label: Tensor | Pixels  # (B, H, W) uint8
    names: tuple[str, ...]
    seeds: Tensor | npt.NDArray[np.int64]  # (B,)

    def through_pipe(self) -> "_Packed":
        """Return it in arrays: PyTorch hands tensors to another process in shared memory, arrays go through a pipe."""
        return _Packed(np.asarray(self.image), np.asarray(self.label), self.names, np.asarray(self.seeds))


def training_batches(
    split: Split,
    config: DataConfig,
    *,
    auxiliary: Split | None = None,
    seed: int,
    steps: int,
    start_step: int = 0,
    accumulate: int = 1,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    device: torch.device | str = "cpu",
) -> Iterator[Batch]:
    """Yield the micro-batches of the steps from `start_step` up to `steps`, `accumulate` per step, on the device.

    A step's `config.batch_size` images are cut into `world` equal runs of images, one per process, and each run into
    `accumulate` micro-batches.

    Args:
        split: the images.
        config: batch size, augmentation and the auxiliary images' share of each batch.
        auxiliary: images mixed in, such as unlabelled ones: spread evenly over the batch, in an order of their own.
        seed: what the order and the augmentation are drawn from.
        steps: the length of the whole run.
        start_step: the first step not yet done.
        accumulate: micro-batches per step.
        rank: this process, of `world`.
        world: how many processes share each step.
        workers: processes that read; 0 reads in this one.
        device: where the tensors go.

    Raises:
        UsageError: if the batch cannot be divided evenly.
        DataError: on the way, if a file cannot be used.
        ResourceError: on the way, if a worker is killed or stuck.
    """
    from segdistill.data._transforms import Augment  # albumentations takes a second to load, and only training needs it

    if config.batch_size % (world * accumulate):
        raise UsageError(
            f"A batch of {config.batch_size} images cannot be divided into {world} x {accumulate} equal parts "
            "(processes x micro-batches).",
            "Change data.batch_size or optim.accumulate.",
        )
    size = config.batch_size // (world * accumulate)
    draw = _order(len(split.names), seed)
    if auxiliary is not None:
        draw = _mixed(draw, len(split.names), len(auxiliary.names), config.batch_size, config.auxiliary_images, seed)
        split = Joined((split, auxiliary))
    starts = (
        step * config.batch_size + (rank * accumulate + part) * size
        for step in range(start_step, steps)
        for part in range(accumulate)
    )
    draws = ([draw(start + i) for i in range(size)] for start in starts)
    device = torch.device(device)
    return _batches(split, Augment(config), draws, workers, device, label_device=device)


def evaluation_batches(
    split: Split,
    size: tuple[int, int] | None,
    *,
    batch_size: int = 1,
    max_pixels: int | None = None,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
) -> Iterator[Batch]:
    """Yield whole images brought to `size`, each once and in order, with labels of their own size, all on the CPU.

    Args:
        split: the images.
        size: (height, width); None leaves images at their own.
        batch_size: images of a batch, at most; all of them are of the same size.
        max_pixels: pixels of a batch, over its images, at most; a larger image is a batch of its own.
        rank: this process, of `world`, each of which gets every `world`-th image.
        world: how many processes share the images.
        workers: processes that read; 0 reads in this one.
    """
    if size is not None and max_pixels is not None:
        batch_size = min(batch_size, max(1, max_pixels // (size[0] * size[1])))
    indices = range(rank, len(split.names), world)
    draws = ([(i, _seed(0, 0, i)) for i in indices[k : k + batch_size]] for k in range(0, len(indices), batch_size))
    cpu = torch.device("cpu")
    return _batches(split, _Whole(size), draws, workers, cpu, label_device=cpu, max_pixels=max_pixels)


class _Whole:
    """The transform of an evaluation."""

    def __init__(self, size: tuple[int, int] | None) -> None:
        self.size = size

    def __call__(self, image: Pixels, label: Pixels, seed: int) -> tuple[Pixels, Pixels]:
        return (image if self.size is None else to_size(image, self.size)), label


class _Samples(Dataset[_Ready | SegdistillError]):
    """Reads and transforms. Errors are returned, not raised: PyTorch would wrap them in a text of its own."""

    def __init__(self, split: Split, transform: Transform) -> None:
        self.split = split
        self.transform = transform

    def __getitem__(self, draw: Draw) -> _Ready | SegdistillError:
        index, seed = draw
        try:
            sample = self.split.read(index)
            return _Ready(*self.transform(sample.image, sample.label, seed), sample.name, seed)
        except SegdistillError as error:
            return error
        except Exception as error:
            error.add_note(f"while reading {self.split.names[index]}")
            raise


def _batches(
    split: Split,
    transform: Transform,
    draws: Iterable[list[Draw]],
    workers: int,
    device: torch.device,
    label_device: torch.device,
    max_pixels: int | None = None,
) -> Iterator[Batch]:
    loader = DataLoader(
        _Samples(split, transform),
        batch_sampler=draws,
        num_workers=workers,
        collate_fn=_Pack(workers * processes_here(), max_pixels),
        pin_memory=device.type == "cuda",
        timeout=min(POLL, TIMEOUT) if workers else 0,
        prefetch_factor=PREFETCH if workers else None,
        worker_init_fn=_start_worker,
        # Forked workers are there at once, others import torch first. Ours touch neither CUDA nor a thread pool.
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        generator=torch.Generator(),  # without one it would draw from the global state
    )
    for packed in _watched(loader):
        if isinstance(packed, SegdistillError):
            raise packed
        for image, label, names, seeds in packed:
            ids = torch.as_tensor(label).to(label_device, non_blocking=True).long()
            yield Batch(
                torch.as_tensor(image).to(device, non_blocking=True).permute(0, 3, 1, 2).float(),
                ids.masked_fill(ids == UNLABELED, IGNORE),
                names,
                torch.as_tensor(seeds),
                valid=ids != IGNORE,
            )


def shared_memory_shortage(config: DataConfig, workers: int, parts: int) -> str | None:
    """Say what is missing where the batches of a training cannot go through the shared memory of this machine.

    They are handed over through pipes then, batch by batch, as long as there is too little.

    Args:
        config: batch size and crop.
        workers: processes that read, per training process.
        parts: micro-batches of a step, over all processes.
    """
    if workers and not _can_open_sockets():
        return (
            f"Temporary folder: the path {tempfile.gettempdir()} is too long for the sockets of loader workers. "
            "Batches go through pipes, which is slower. Set TMPDIR to a shorter path."
        )
    free = free_shared_memory()
    height, width = config.crop
    needed = _in_flight(workers * processes_here(), config.batch_size // parts * height * width * 4)
    if not workers or free is None or free >= needed:
        return None
    return (
        f"Shared memory: {SHARED_MEMORY} has {free >> 20} MiB free, the batches of {workers} loader workers need "
        f"{(needed >> 20) + 1} MiB. They go through pipes, which is slower. In a container, give it more: "
        f"docker run --shm-size={(needed >> 30) + 1}g"
    )


def _in_flight(workers: int, size: int) -> int:
    """Return the bytes of all batches that may be under way, of so many bytes each: those in use included."""
    return size * (workers * PREFETCH + 2)


def _watched(loader: DataLoader[Any]) -> Iterator[list[_Packed] | SegdistillError]:
    """Iterate; notice dead workers and signals within POLL seconds, and stuck workers after TIMEOUT.

    Raises:
        Interrupted: if a signal asks to stop while no worker delivers.
        ResourceError: if a worker is dead or stuck.
    """
    handler = signal.getsignal(signal.SIGCHLD)
    others = multiprocessing.active_children()
    iterator = iter(loader)
    workers = [child for child in multiprocessing.active_children() if child not in others]
    if signal.getsignal(signal.SIGCHLD) is not handler:
        # PyTorch's handler raises in the midst of whatever runs when a worker dies: the saving of a checkpoint, say.
        signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)
    waited = 0.0
    while True:
        try:
            packed = next(iterator, None)
        except (RuntimeError, ConnectionError, EOFError) as error:
            waited += loader.timeout
            stuck = str(error).startswith("DataLoader timed out")
            if stuck and pending() is None and waited < TIMEOUT:
                continue
            for worker in workers if stuck else ():  # PyTorch would give each of them seconds to end by itself
                worker.kill()
            if stuck and pending() is not None:
                raise Interrupted from None
            if isinstance(error, RuntimeError) and not stuck and not str(error).startswith("DataLoader worker"):
                raise
            raise ResourceError(
                f"A process that reads images {f'delivered nothing for {waited:g} s' if stuck else 'was killed'}.",
                "Most often memory ran out: use fewer --workers (0 reads in the main process). In a container, more "
                "shared memory helps too (docker run --shm-size=8g).",
            ) from error
        if packed is None:
            return
        waited = 0.0
        yield packed


def _start_worker(worker: int) -> None:
    cv2.setNumThreads(0)
    sys.excepthook = lambda *error: None  # the thread that hands batches over need not tell that nobody takes them
    # A batch that cannot be handed over would be lost with a traceback, and waited for without end.
    Queue._on_queue_feeder_error = lambda self, error, batch: os._exit(1)  # type: ignore[attr-defined]
    os.setpgid(0, 0)  # out of reach of Ctrl-C and signals to the group: the main process decides when to stop
    for number in NUMBERS:
        if number != signal.SIGTERM:  # by which PyTorch ends a worker; a batch system may send the others to everybody
            signal.signal(number, signal.SIG_IGN)


class _Pack:
    """Makes batches of samples, and sees to it that they find a way to the process that asks for them."""

    def __init__(self, workers: int, max_pixels: int | None) -> None:
        self.workers = workers  # of all processes that share this machine's shared memory
        self.max_pixels = max_pixels

    def __call__(self, samples: list[_Ready | SegdistillError]) -> list[_Packed] | SegdistillError:
        packed = _pack(samples, self.max_pixels)
        if isinstance(packed, SegdistillError) or not self.workers:
            return packed
        size = sum(array.nbytes for batch in packed for array in (batch.image, batch.label, batch.seeds))
        free = free_shared_memory()
        if not _can_open_sockets() or (free is not None and free < _in_flight(self.workers, size)):
            return [batch.through_pipe() for batch in packed]
        return packed


def _can_open_sockets() -> bool:
    """Whether the temporary folder's path is short enough for the sockets through which tensors are handed over."""
    return len(os.fsencode(tempfile.gettempdir())) + len(SOCKET) <= MAX_SOCKET_PATH


def _pack(samples: list[_Ready | SegdistillError], max_pixels: int | None = None) -> list[_Packed] | SegdistillError:
    """Stack neighbours of equal sizes, as many as have room, or return the first error."""
    ready = []
    for sample in samples:
        if isinstance(sample, SegdistillError):
            return sample
        ready.append(sample)
    groups: list[list[_Ready]] = []
    for _, equal in groupby(ready, key=lambda s: (s.image.shape, s.label.shape)):
        group = list(equal)
        pixels = group[0].image.shape[0] * group[0].image.shape[1]
        most = len(group) if max_pixels is None else max(1, max_pixels // pixels)
        groups += [group[start : start + most] for start in range(0, len(group), most)]
    return [
        _Packed(
            torch.from_numpy(np.stack([sample.image for sample in group])),
            torch.from_numpy(np.stack([sample.label for sample in group])),
            tuple(sample.name for sample in group),
            torch.tensor([sample.seed for sample in group]),
        )
        for group in groups
    ]


def _order(images: int, seed: int, first: int = 0) -> Callable[[int], Draw]:
    """Return the function from a position in the endless run of epochs to the sample there, counted from `first`."""

    @lru_cache(maxsize=1)
    def permutation(epoch: int) -> list[int]:
        kind = [0, seed, epoch] if first == 0 else [2, seed, epoch]  # two orders of the same length are not the same
        order: list[int] = np.random.default_rng(kind).permutation(images).tolist()
        return order

    def draw(position: int) -> Draw:
        epoch, place = divmod(position, images)
        index = first + permutation(epoch)[place]
        return index, _seed(seed, epoch, index)

    return draw


def _mixed(
    draw: Callable[[int], Draw], images: int, others: int, batch: int, share: int, seed: int
) -> Callable[[int], Draw]:
    """Return the order in which `share` of each `batch` images come from the `others`, evenly spread."""
    draw_other = _order(others, seed, first=images)

    def mixed(position: int) -> Draw:
        step, slot = divmod(position, batch)
        before, after = slot * share // batch, (slot + 1) * share // batch
        return draw_other(step * share + before) if after > before else draw(step * (batch - share) + slot - before)

    return mixed


def _seed(seed: int, epoch: int, index: int) -> int:
    """Return the seed of a sample, non-negative in 63 bits. The leading 1 keeps it apart from the permutations' 0."""
    return int(np.random.SeedSequence([1, seed, epoch, index]).generate_state(1, np.uint64)[0] >> np.uint64(1))
