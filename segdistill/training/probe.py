"""The cost of one training step, found by trying."""

import resource
import sys
import time
from typing import NamedTuple

import torch

from segdistill.runtime.convolutions import ConvolutionKind, is_right, replaced_kinds
from segdistill.runtime.distributed import world_size
from segdistill.runtime.precision import Precision
from segdistill.training.engine import backward, to_device
from segdistill.training.state import Training
from segdistill.types import Batch, Stage

PROBE_PASSES = 3
"""Passes after which a probe ends: the first sets things up, and of two more the faster one is hardly disturbed."""
PROBE_SECONDS = 5.0
"""Seconds of passes after which a probe ends before that; several processes, which must do alike, go on."""


class Probe(NamedTuple):
    """Costs of one step."""

    seconds: float
    """Seconds of all micro-batches of a step, without loader and optimizer."""
    peak_bytes: int
    """Most memory so far, as `peak_bytes` has it."""
    in_float32: frozenset[ConvolutionKind]
    """Convolutions that are computed in float32, because their bf16 kernels are wrong or unsafe here."""


def probe(stage: Stage, crop: tuple[int, int], num_classes: int, images: int, precision: Precision) -> Probe:
    """Run forward and backward passes on noise and leave everything as it was.

    The first pass of a process sets things up and can take ten times as long, so the fastest counts; one in which
    convolutions were checked does not.

    Args:
        stage: what is going to be trained.
        crop: (H, W) of the images.
        num_classes: C.
        images: images of one step in this process, over all its micro-batches.
        precision: device and autocast type.
    """
    device = precision.device
    training = Training(stage, precision)
    was_training = stage.model.training
    training.train_module.train()
    training.remember_buffers()
    micro_batch = images // stage.optim.accumulate
    cuda_devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda_devices), replaced_kinds() as in_float32:
        batch = to_device(noise(micro_batch, crop, num_classes), device)
        seconds = _time_passes(training, batch, precision)
    training.restore_buffers()
    training.train_module.train(was_training)
    return Probe(min(seconds) * stage.optim.accumulate, peak_bytes(device), frozenset(in_float32))


def peak_bytes(device: torch.device) -> int:
    """Return the most memory used so far: of the GPU, or of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes on macOS, and KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def noise(images: int, crop: tuple[int, int], num_classes: int) -> Batch:
    """Return images of noise with labels of noise: without void, so every term computes on all pixels."""
    image = torch.rand(images, 3, *crop) * 255
    label = torch.randint(num_classes, (images, *crop))
    return Batch(image, label, names=("noise",) * images, seeds=torch.arange(images))


def _time_passes(training: Training, batch: Batch, precision: Precision) -> list[float]:
    """Return the seconds of each pass in which no convolution was checked, at least one."""
    times: list[float] = []
    is_alone = world_size() == 1
    while len(times) < PROBE_PASSES:
        start = time.perf_counter()
        checks = is_right.cache_info().misses
        with precision.training():
            step = training.stage.objective(training.stage.model, batch)
        backward(training, step, batch)
        del step  # as in training: its maps would lie in memory beside the next ones
        if precision.device.type == "cuda":
            torch.cuda.synchronize(precision.device)
        # A convolution is checked when it is first met, against one in float32: that pass tells nothing of a step.
        if is_right.cache_info().misses == checks:
            times.append(time.perf_counter() - start)
        training.train_module.zero_grad()
        if is_alone and sum(times) >= PROBE_SECONDS:
            break
    return times
