"""Batches of a training and of an evaluation, as the networks take them."""

from collections.abc import Iterator

import torch

from segdistill.config.schema import DataConfig
from segdistill.data.base import UNLABELED, Pixels, Split
from segdistill.data.image import to_size
from segdistill.data.loader import load_batches
from segdistill.data.order import KeyAt, SampleKey, epoch_keys, evaluation_keys, with_auxiliary_keys
from segdistill.data.packing import PackedBatch
from segdistill.data.splits import ConcatSplit
from segdistill.errors import UsageError
from segdistill.types import IGNORE, Batch


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
        auxiliary: images mixed in, such as unlabeled ones: spread evenly over the batch, in an order of their own.
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
    # albumentations takes a second to load, and only training needs it
    from segdistill.data.cutmix import CutMix
    from segdistill.data.transforms import Augment

    if config.batch_size % (world * accumulate):
        raise UsageError(
            f"A batch of {config.batch_size} images cannot be divided into {world} x {accumulate} equal parts "
            "(processes x micro-batches).",
            "Change data.batch_size or optim.accumulate.",
        )
    images = len(split.names)
    key_at = epoch_keys(images, seed)
    if auxiliary is not None:
        key_at = with_auxiliary_keys(
            key_at,
            images,
            len(auxiliary.names),
            batch_size=config.batch_size,
            auxiliary_per_batch=config.auxiliary_images,
            seed=seed,
        )
        split = ConcatSplit((split, auxiliary))
    # Positions at which this process's share of a step begins and ends in the batch of all of them.
    share = config.batch_size // world
    step_starts = range(start_step * config.batch_size, steps * config.batch_size, config.batch_size)
    shares = (range(start + rank * share, start + (rank + 1) * share) for start in step_starts)
    keys = _micro_batch_keys(key_at, shares, share // accumulate)
    device = torch.device(device)
    augment = Augment(config)
    transform = CutMix(split, augment, config.cutmix) if config.cutmix else augment
    packed = load_batches(split, transform, keys, workers=workers, pin_memory=device.type == "cuda")
    return (_unpacked(batch, device) for batch in packed)


def _micro_batch_keys(key_at: KeyAt, shares: Iterator[range], size: int) -> Iterator[list[SampleKey]]:
    """Yield the samples of each micro-batch of `size` images.

    Args:
        key_at: the order of the training.
        shares: positions of this process's images in each step.
        size: images of a micro-batch.
    """
    for positions in shares:
        for start in range(0, len(positions), size):
            yield [key_at(position) for position in positions[start : start + size]]


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
        height, width = size
        batch_size = min(batch_size, max(1, max_pixels // (height * width)))
    keys = evaluation_keys(range(rank, len(split.names), world), batch_size)
    packed = load_batches(split, _WholeImage(size), keys, workers=workers, max_pixels=max_pixels)
    return (_unpacked(batch, torch.device("cpu")) for batch in packed)


class _WholeImage:
    """The transform of an evaluation: the image at the network's size, the label as it is."""

    def __init__(self, size: tuple[int, int] | None) -> None:
        self.size = size

    def __call__(self, image: Pixels, label: Pixels, seed: int) -> tuple[Pixels, Pixels]:
        if self.size is None:
            return image, label
        return to_size(image, self.size), label


def _unpacked(packed: PackedBatch, device: torch.device) -> Batch:
    """Return a batch on its device as networks and losses take it."""
    # Bytes are moved and widened there: a GPU does both faster than the CPU.
    image = torch.as_tensor(packed.image).to(device, non_blocking=True)
    label = torch.as_tensor(packed.label).to(device, non_blocking=True).long()
    return Batch(
        image=image.permute(0, 3, 1, 2).float(),
        label=label.masked_fill(label == UNLABELED, IGNORE),
        names=packed.names,
        seeds=torch.as_tensor(packed.seeds),
        valid=label != IGNORE,
    )
