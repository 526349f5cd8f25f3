"""The label embedding of Qiu et al. 2024: the label as a fourth channel beside the image.

In it every class, and void as one more, is a number. While a label-assisted teacher is trained, each image draws the
numbers of its classes anew, so that the teacher learns to read any; while it teaches they are fixed. Either way there
is noise on each pixel. What is random comes from `Batch.seeds` and is sampled on the CPU: the same on every device.
"""

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from segdistill import losses
from segdistill.config.schema import LabelEmbedding
from segdistill.types import IGNORE, Batch

TEACHING_STREAM, *PATHS = range(3)
"""Streams of random numbers per sample: one for teaching, one for each path of the teacher's own training."""
FIXED_RANGE = 2.2
"""Range over which the fixed numbers of all classes and void are spread: -1.1 to 1.1, the authors' for 21 classes."""


def fixed_embedding(num_classes: int) -> Tensor:
    """Return the numbers of classes and void while a teacher teaches: (C + 1,), evenly spaced from -1.1 to nearly 1.1.

    Void's is the last. For 21 classes they are the authors' (k - 11) / 10; their code knows no other number of classes.
    """
    return (torch.arange(num_classes + 1) - (num_classes + 1) / 2) * _spacing(num_classes)


def with_fixed_embedding(batch: Batch, options: LabelEmbedding, num_classes: int, *, noisy: bool) -> Tensor:
    """Return the images with their labels in the fixed embedding: (B, 4, H, W)."""
    embedding = fixed_embedding(num_classes).expand(len(batch.image), -1)  # the same for each image
    if not noisy:
        return _with_channel(batch, embedding, torch.zeros(()), options.scale)
    (noise,) = _sample_noise(batch.seeds, TEACHING_STREAM, batch.image.shape[-2:])
    return _with_channel(batch, embedding, options.noise * _spacing(num_classes) * noise, options.scale)


def with_random_embedding(batch: Batch, options: LabelEmbedding, num_classes: int, path: int) -> Tensor:
    """Return the images with their labels in numbers from N(0, 1), others for each image and path: (B, 4, H, W)."""
    embedding, noise = _sample_noise(batch.seeds, path, (num_classes + 1,), batch.image.shape[-2:])
    return _with_channel(batch, embedding, options.training_noise * _spacing(num_classes) * noise, options.scale)


def _spacing(num_classes: int) -> float:
    """Return the distance of two fixed numbers: the authors' 0.1 for 21 classes, over the same range for any other.

    Noise on the pixels is measured in it. At 171 classes the authors' std of 0.02 is more than the distance.
    """
    return FIXED_RANGE / (num_classes + 1)


def _with_channel(batch: Batch, embedding: Tensor, noise: Tensor, scale: float) -> Tensor:
    """Look the labels up in an embedding, add noise, and put that behind the images' channels.

    Args:
        batch: images (B, 3, H, W), with labels of any size.
        embedding: (B, C + 1), void's number last.
        noise: (B, H, W), or a scalar.
        scale: multiplies the channel.

    Returns:
        (B, 4, H, W) on the images' device.
    """
    image = batch.image
    void_index = embedding.shape[1] - 1
    # pixels are picked where sizes differ, as they do in evaluation: a mean of two numbers would be another class's
    label = losses.label_at_size(batch.label, image.shape[-2:]).to(image.device)
    index = label.masked_fill(label == IGNORE, void_index).flatten(1)
    channel = embedding.to(image.device).gather(1, index).view(label.shape) + noise.to(image.device)
    return torch.cat([image, scale * channel.unsqueeze(1)], dim=1)


def _sample_noise(seeds: Tensor, stream: int, *sizes: tuple[int, ...]) -> list[Tensor]:
    """Return numbers from N(0, 1), (B, *size) for each size, every sample's from a generator of its own."""

    def sample(seed: int) -> list[Tensor]:
        # three seeds in a row for each sample, one for each stream
        generator = torch.Generator().manual_seed((seed * (1 + len(PATHS)) + stream) % 2**63)
        return [torch.randn(size, generator=generator) for size in sizes]

    with ThreadPoolExecutor() as pool:  # 1.5 ms for 512x512, while a GPU waits for all images of the batch
        samples = list(pool.map(sample, seeds.tolist()))
    return [torch.stack(of_size) for of_size in zip(*samples, strict=True)]
