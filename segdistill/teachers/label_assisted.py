"""Label-assisted teachers: networks that see the label beside the image (Qiu et al. 2024), see `label_embedding`.

The student sees the image alone. The authors give it a fourth channel of zeros; ours has three.
"""

from collections.abc import Iterable, Iterator

import torch

from segdistill.checkpoints.model_file import ModelInfo
from segdistill.config.schema import LabelEmbedding, RunConfig, TeacherConfig
from segdistill.errors import UsageError
from segdistill.networks import SegNetwork, build_network
from segdistill.teachers.label_embedding import with_fixed_embedding
from segdistill.types import IGNORE, Batch, Comparison, Frozen, SegOutput


class LabeledFrozen(Frozen):
    """A label-assisted teacher that stays as it is; it sees the labels in the fixed embedding, with noise."""

    def __init__(self, network: SegNetwork, options: LabelEmbedding) -> None:
        super().__init__(network)
        self.options = options
        self.num_classes = network.num_classes  # the labels are in its own classes, and it has no void output

    def forward(self, batch: Batch) -> SegOutput:
        """Return the teacher's output for the images and their labels."""
        image = with_fixed_embedding(batch, self.options, self.num_classes, noisy=True)
        return super().forward(batch._replace(image=image))

    def comparable(self, student: SegOutput, teacher: SegOutput, batch: Batch) -> Comparison:
        """Return both outputs, to be compared at labeled pixels alone.

        On an image without labels the teacher sees nothing but void, which it was never trained on: terms that leave
        ignored pixels out get nothing from such images.
        """
        return Comparison(student, teacher, _at_labeled_pixels(batch))


def with_labels(batches: Iterable[Batch], options: LabelEmbedding | None, num_classes: int) -> Iterator[Batch]:
    """Yield the batches to score a model by: for one that sees labels with the fixed embedding, without noise.

    Args:
        batches: images (B, 3, H, W).
        options: of a label-assisted teacher; None of a network that sees images alone, whose batches are as they were.
        num_classes: C.
    """
    for batch in batches:
        if options is None:
            yield batch
        else:
            yield batch._replace(image=with_fixed_embedding(batch, options, num_classes, noisy=False))


def build_teacher(config: TeacherConfig, num_classes: int) -> SegNetwork:
    """Build a teacher, label-assisted or not, with random weights drawn from torch's global generator.

    A label-assisted one has a fourth input channel; its first weights are N(0, init^2), as in the authors' code.
    """
    if config.label_embedding is None:
        return build_network(config, num_classes)
    network = build_network(config, num_classes, in_channels=4)
    first = next(p for p in network.parameters() if p.shape[1:2] == (4,))  # the only layer with four inputs
    with torch.no_grad():
        first[:, 3:].normal_(std=config.label_embedding.init)
    return network


def check_kind(info: ModelInfo, config: RunConfig) -> None:
    """Refuse a plain teacher where the configuration asks for a label-assisted one, and the reverse.

    Raises:
        UsageError: with how to get the other kind.
    """
    wants_labels = config.teacher.label_embedding is not None
    if info.label_assisted and not wants_labels:
        raise UsageError(
            f"This teacher is label-assisted: it sees the labels beside the images. Preset {config.preset} has plain "
            "teachers, without [teacher.label_embedding].",
            f"Distill with the preset that it was trained with, {info.preset}, or give a plain teacher.",
        )
    if wants_labels and not info.label_assisted:
        raise UsageError(
            f"This teacher is plain: it sees images alone. Preset {config.preset} has label-assisted teachers, with "
            "[teacher.label_embedding].",
            f"`segdistill train-teacher --preset {config.preset}` trains one; or choose another preset, such as skd.",
        )


def _at_labeled_pixels(batch: Batch) -> Batch:
    """Return the batch, and its micro-batches, with teacher and student compared at labeled pixels alone."""
    parts = tuple(_at_labeled_pixels(part) for part in batch.parts)
    return batch._replace(valid=batch.label != IGNORE, parts=parts)
