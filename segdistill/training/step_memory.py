"""Whether a training step fits into memory: tried on a GPU, estimated on a CPU, whose system would kill the process."""

import gc

import torch
from torch import Tensor

from segdistill.errors import ResourceError, out_of_memory
from segdistill.runtime.distributed import local_world_size
from segdistill.runtime.machine_memory import usable_memory
from segdistill.runtime.precision import Precision
from segdistill.training.probe import noise, probe
from segdistill.types import Stage

MAX_SHARE = {"cpu": 0.5, "cuda": 0.9}
"""Share of the memory that a step may take: the rest is for loader processes, validation and what else is at work."""
COPIES = 4
"""Times that parameters are in memory: weights, gradients, and up to two averages of an optimizer."""
TRIED_IMAGES = (2, 4)
"""Images of the passes whose maps are counted: batch norm needs two."""


def fits(stage: Stage, crop: tuple[int, int], num_classes: int, images: int, precision: Precision) -> bool:
    """Return whether a step of this many images fits; the stage is of no use afterwards.

    Args:
        stage: what is going to be trained.
        crop: (H, W) of the images.
        num_classes: C.
        images: images of one step in this process, over all its micro-batches.
        precision: device and autocast type.
    """
    device = precision.device
    limit = MAX_SHARE[device.type]
    if device.type == "cuda":
        return _fits_gpu(stage, crop, num_classes, images, precision=precision, limit=limit)
    usable = usable_memory()
    if usable is None:
        return True
    parameters = sum(parameter.nbytes for parameter in stage.model.parameters())
    # Of two sizes, as some is kept however many images there are: weights in another precision.
    few, many = (kept_bytes(stage, crop, num_classes, precision, tried) for tried in TRIED_IMAGES)
    per_image = (many - few) / (TRIED_IMAGES[1] - TRIED_IMAGES[0])
    needed = COPIES * parameters + few + per_image * (images / stage.optim.accumulate - TRIED_IMAGES[0])
    return needed <= limit * usable / local_world_size()


def kept_bytes(stage: Stage, crop: tuple[int, int], num_classes: int, precision: Precision, images: int) -> int:
    """Return the bytes that a forward pass keeps for the backward pass, weights aside."""
    stage.model.train()
    weights = {parameter.untyped_storage().data_ptr() for parameter in stage.model.parameters()}
    kept: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.random.fork_rng(devices=[]), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        batch = noise(images, crop, num_classes)
        with precision.training():
            step = stage.objective(stage.model, batch)
        total = sum(kept.values())
        del step
    return total


def _fits_gpu(
    stage: Stage, crop: tuple[int, int], num_classes: int, images: int, *, precision: Precision, limit: float
) -> bool:
    device = precision.device
    torch.cuda.reset_peak_memory_stats(device)
    try:
        cost = probe(stage, crop, num_classes, images, precision)
    except (RuntimeError, MemoryError, ResourceError) as error:
        if not isinstance(error, ResourceError) and out_of_memory(error) is None:
            raise
        fitting = False
    else:
        fitting = cost.peak_bytes <= limit * torch.cuda.get_device_properties(device).total_memory
    gc.collect()  # the maps of the pass that failed
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    return fitting
