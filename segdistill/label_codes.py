"""Label-assisted teachers: networks that see the label beside the image (Qiu et al. 2024).

The label is a fourth channel of their input, in which every class, and void as one more, is a number: its code. While
such a teacher is trained, each image draws the codes of its classes anew, so that it learns to read any codes; while it
teaches they are fixed. Either way there is noise on each pixel. What is random comes from `Batch.seeds` and is drawn on
the CPU: the same on every device.

The student sees the image alone. The authors give it a fourth channel of zeros; ours has three.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from segdistill import losses
from segdistill.checkpoint import ModelInfo
from segdistill.config import LabelCodes, RunConfig, TeacherConfig
from segdistill.errors import UsageError
from segdistill.networks import SegNetwork, build_network
from segdistill.types import IGNORE, Batch, Frozen, SegOutput

TEACHING, *PATHS = range(3)
"""Streams of random numbers per sample: one for teaching, one for each path of the teacher's own training."""


def fixed_codes(num_classes: int) -> Tensor:
    """Return the codes while a teacher teaches: (C + 1,), evenly spaced from -1.1 to nearly 1.1, void's the last.

    For 21 classes they are the authors' (k - 11) / 10; their code knows no other number of classes.
    """
    return (torch.arange(num_classes + 1) - (num_classes + 1) / 2) * _distance(num_classes)


def with_fixed_codes(batch: Batch, options: LabelCodes, num_classes: int, *, noisy: bool) -> Tensor:
    """Return the images with their labels in the fixed codes: (B, 4, H, W)."""
    codes = fixed_codes(num_classes).expand(len(batch.image), -1)
    if not noisy:
        return _with_channel(batch, codes, torch.zeros(()), options.scale)
    (noise,) = _draw(batch.seeds, TEACHING, batch.image.shape[-2:])
    return _with_channel(batch, codes, options.noise * _distance(num_classes) * noise, options.scale)


def with_random_codes(batch: Batch, options: LabelCodes, num_classes: int, path: int) -> Tensor:
    """Return the images with their labels in codes from N(0, 1), others for each image and path: (B, 4, H, W)."""
    codes, noise = _draw(batch.seeds, path, (num_classes + 1,), batch.image.shape[-2:])
    return _with_channel(batch, codes, options.training_noise * _distance(num_classes) * noise, options.scale)


def with_labels(batches: Iterable[Batch], options: LabelCodes | None, num_classes: int) -> Iterator[Batch]:
    """Yield the batches to score a model by: for one that sees labels with the fixed codes, without noise."""
    for batch in batches:
        image = batch.image if options is None else with_fixed_codes(batch, options, num_classes, noisy=False)
        yield batch._replace(image=image)


class LabelledFrozen(Frozen):
    """A label-assisted teacher that stays as it is; it sees the labels in the fixed codes, with noise."""

    def __init__(self, network: SegNetwork, options: LabelCodes) -> None:
        super().__init__(network)
        self.options = options
        self.num_classes = network.num_classes

    def forward(self, batch: Batch) -> SegOutput:
        """Return the teacher's output for the images and their labels."""
        image = with_fixed_codes(batch, self.options, self.num_classes, noisy=True)
        return super().forward(batch._replace(image=image))


def freeze(network: SegNetwork, info: ModelInfo) -> Frozen:
    """Return a teacher of either kind, ready to teach."""
    return Frozen(network) if info.label_codes is None else LabelledFrozen(network, info.label_codes)


def build_teacher(config: TeacherConfig, num_classes: int) -> SegNetwork:
    """Build a teacher of either kind, with random weights drawn from torch's global generator.

    A label-assisted one has a fourth input channel; its first weights are N(0, init^2), as in the authors' code.
    """
    if config.label_codes is None:
        return build_network(config, num_classes)
    network = build_network(config, num_classes, in_channels=4)
    first = next(p for p in network.parameters() if p.shape[1:2] == (4,))
    with torch.no_grad():
        first[:, 3:].normal_(std=config.label_codes.init)
    return network


def check_kind(info: ModelInfo, config: RunConfig) -> None:
    """Refuse a plain teacher where the configuration asks for a label-assisted one, and the reverse.

    Raises:
        UsageError: with how to get the other kind.
    """
    if info.label_assisted and config.teacher.label_codes is None:
        raise UsageError(
            f"This teacher is label-assisted: it sees the labels beside the images. Preset {config.preset} has plain "
            "teachers, without [teacher.label_codes].",
            f"Distil with the preset that it was trained with, {info.preset}, or give a plain teacher.",
        )
    if not info.label_assisted and config.teacher.label_codes is not None:
        raise UsageError(
            f"This teacher is plain: it sees images alone. Preset {config.preset} has label-assisted teachers, with "
            "[teacher.label_codes].",
            f"`segdistill train-teacher --preset {config.preset}` trains one; or choose another preset, such as skd.",
        )


def _distance(num_classes: int) -> float:
    """Return how far apart two fixed codes are: the authors' 0.1 for 21 classes, over the same range for any other.

    Noise on the pixels is measured in it. At 171 classes the authors' deviation of 0.02 is more than the distance.
    """
    return 2.2 / (num_classes + 1)


def _with_channel(batch: Batch, codes: Tensor, noise: Tensor, scale: float) -> Tensor:
    """Look the labels up in codes (B, C + 1), add noise (B, H, W), and put that behind the images' channels."""
    image, void = batch.image, codes.shape[1] - 1
    # pixels are picked where sizes differ, as they do in evaluation: a mean of two codes would be another class's
    label = losses.label_at_size(batch.label, image.shape[-2:]).to(image.device)
    index = label.masked_fill(label == IGNORE, void).flatten(1)
    channel = codes.to(image.device).gather(1, index).view(label.shape) + noise.to(image.device)
    return torch.cat([image, scale * channel.unsqueeze(1)], dim=1)


def _draw(seeds: Tensor, stream: int, *sizes: tuple[int, ...]) -> list[Tensor]:
    """Return numbers from N(0, 1), (B, *size) for each size, every sample's from a generator of its own."""

    def draw(seed: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed((seed * (1 + len(PATHS)) + stream) % 2**63)
        return [torch.randn(size, generator=generator) for size in sizes]

    with ThreadPoolExecutor() as pool:  # 1.5 ms for 512x512, while a GPU waits for all images of the batch
        return [torch.stack(drawn) for drawn in zip(*pool.map(draw, seeds.tolist()), strict=True)]
