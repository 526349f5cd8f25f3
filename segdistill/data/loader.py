"""Processes that read samples: their start, what they deliver, and what happens when one is killed or stuck."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from typing import Any

import cv2
import torch
from torch._C import _remove_worker_pids
from torch.utils.data import DataLoader, Dataset

from segdistill.data.base import Pixels, Split
from segdistill.data.order import SampleKey
from segdistill.data.packing import PREFETCH, PackedBatch, PackSamples, ReadySample
from segdistill.errors import ResourceError, SegdistillError
from segdistill.runtime.library_messages import leave_out_messages
from segdistill.runtime.signals import STOP_SIGNALS, Interrupted, pending_signal

TIMEOUT = 300.0
"""Seconds without a batch after which the workers count as stuck."""
POLL = 5.0
"""Seconds within which a dead worker, or a signal while none delivers, is noticed."""

Transform = Callable[[Pixels, Pixels, int], tuple[Pixels, Pixels]]
"""From an image (H, W, 3), its label (H, W) and the sample's seed to both as a network sees them."""


def load_batches(
    split: Split,
    transform: Transform,
    keys: Iterable[list[SampleKey]],
    *,
    workers: int,
    pin_memory: bool = False,
    max_pixels: int | None = None,
) -> Iterator[PackedBatch]:
    """Yield what `keys` asks for, read and transformed, in its order.

    Args:
        split: the images.
        transform: applied to each sample where it was read.
        keys: samples of each batch; a list with images of several sizes, or too many pixels, becomes several batches.
        workers: processes that read; 0 reads in this one.
        pin_memory: deliver tensors from which a GPU copies without waiting.
        max_pixels: pixels of a batch, over its images, at most; a larger image is a batch of its own.

    Raises:
        DataError: on the way, if a file cannot be used.
        ResourceError: on the way, if a worker is killed or stuck.
        Interrupted: on the way, if a signal asks to stop while no worker delivers.
    """
    loader = DataLoader(
        _Samples(split, transform),
        batch_sampler=keys,
        num_workers=workers,
        collate_fn=PackSamples(workers, max_pixels),
        pin_memory=pin_memory,
        timeout=min(POLL, TIMEOUT) if workers else 0,
        prefetch_factor=PREFETCH if workers else None,
        worker_init_fn=_start_worker,
        # Forked workers are there at once, others import torch first. Ours touch neither CUDA nor a thread pool.
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        generator=torch.Generator(),  # without one it would draw from the global state
    )
    for delivered in _watched(loader):
        if isinstance(delivered, SegdistillError):
            raise delivered
        yield from delivered


class _Samples(Dataset[ReadySample | SegdistillError]):
    """Reads and transforms. Errors are returned, not raised: PyTorch would wrap them in a text of its own."""

    def __init__(self, split: Split, transform: Transform) -> None:
        self.split = split
        self.transform = transform

    def __getitem__(self, key: SampleKey) -> ReadySample | SegdistillError:
        try:
            sample = self.split.read(key.sample_index)
            image, label = self.transform(sample.image, sample.label, key.seed)
        except SegdistillError as error:
            return error
        except Exception as error:
            error.add_note(f"while reading {self.split.names[key.sample_index]}")
            raise
        return ReadySample(image, label, name=sample.name, seed=key.seed)


def _watched(loader: DataLoader[Any]) -> Iterator[list[PackedBatch] | SegdistillError]:
    """Iterate; notice dead workers and signals within POLL seconds, and stuck workers after TIMEOUT.

    Raises:
        Interrupted: if a signal asks to stop while no worker delivers.
        ResourceError: if a worker is dead or stuck.
    """
    iterator, workers = _start_iterating(loader)
    waited = 0.0
    while True:
        try:
            delivered = next(iterator, None)
        except (RuntimeError, ConnectionError, EOFError) as error:
            waited += loader.timeout
            _give_up_or_wait_on(error, waited, workers)
            continue
        if delivered is None:
            return
        waited = 0.0
        yield delivered


def _start_iterating(loader: DataLoader[Any]) -> tuple[Iterator[Any], list[BaseProcess]]:
    """Start the workers, unwatched by PyTorch's signal handler; return what they deliver, and the processes."""
    earlier_children = multiprocessing.active_children()
    iterator = iter(loader)
    workers = [child for child in multiprocessing.active_children() if child not in earlier_children]
    if workers:
        # When one of the workers that it watches dies, PyTorch's handler of SIGCHLD raises in the midst of whatever
        # runs: the saving of a checkpoint, say. It keeps watching those of the caller's own loaders.
        _remove_worker_pids(id(iterator))
        iterator._worker_pids_set = False  # type: ignore[attr-defined]  # or it would remove them again at its end
    return iterator, workers


def _give_up_or_wait_on(error: Exception, waited: float, workers: list[BaseProcess]) -> None:
    """Return if the next batch may still come; else kill the workers and raise.

    Args:
        error: what PyTorch raised in the place of a batch.
        waited: seconds without a batch.
        workers: the processes that read.

    Raises:
        Interrupted: if a signal asks to stop.
        ResourceError: if a worker is dead, or all are stuck.
    """
    message = str(error)
    if not message.startswith("DataLoader timed out"):
        # Any other RuntimeError than PyTorch's own about its workers comes out of the code that reads: a mistake of
        # ours. A connection that is gone means that the worker at its other end is.
        if isinstance(error, RuntimeError) and not message.startswith("DataLoader worker"):
            raise error
        raise _worker_error("was killed") from error
    if pending_signal() is None and waited < TIMEOUT:
        return
    for worker in workers:  # PyTorch would give each of them seconds to end by itself
        worker.kill()
    if pending_signal() is not None:
        raise Interrupted from None
    raise _worker_error(f"delivered nothing for {waited:g} s") from error


def _worker_error(what: str) -> ResourceError:
    return ResourceError(
        f"A process that reads images {what}.",
        "Most often memory ran out: use fewer --workers (0 reads in the main process). In a container, more "
        "shared memory helps too (docker run --shm-size=8g).",
    )


def _start_worker(worker: int) -> None:
    """Make a new loader process quiet, single-threaded, and deaf to signals that are meant for the training."""
    leave_out_messages()
    cv2.setNumThreads(0)  # there is a process for each core already
    sys.excepthook = lambda *error: None  # the thread that hands batches over need not tell that nobody takes them
    # A batch that cannot be handed over would be lost with a traceback, and waited for without end.
    Queue._on_queue_feeder_error = lambda self, error, batch: os._exit(1)  # type: ignore[attr-defined]
    os.setpgid(0, 0)  # out of reach of Ctrl-C and signals to the group: the main process decides when to stop
    for number in STOP_SIGNALS:
        if number != signal.SIGTERM:  # by which PyTorch ends a worker; a batch system may send the others to everybody
            signal.signal(number, signal.SIG_IGN)
