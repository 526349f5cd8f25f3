"""A teacher that is followed where it can speak, and where it is sure; and that labels images which nobody has labeled.

A pixel is left out where the teacher knows nothing of its class, where more than half of its probability means none of
the data's classes, and where its most likely class has less than a given probability.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from segdistill.config.schema import TeacherConfig
from segdistill.networks import SegNetwork, resize_like
from segdistill.teachers.remapped import RemappedNetwork
from segdistill.types import IGNORE, Batch, Comparison, Frozen, SegOutput


class Following(NamedTuple):
    """What a student takes from its teacher."""

    targets: Literal["soft", "hard", "both"] = "soft"
    """Probabilities, which terms compare; classes, as labels of images without any; or both."""
    threshold: float = 0.0
    """Probability of the most likely class below which a pixel counts nowhere; 0 leaves none out."""

    @property
    def labels_images(self) -> bool:
        """Whether the teacher's classes are the labels of images that have none."""
        return self.targets != "soft"

    @classmethod
    def of(cls, config: TeacherConfig) -> "Following":
        """Return what a configuration says of it."""
        return cls(config.targets, config.threshold)


class SelectiveFrozen(Frozen):
    """A teacher that stays as it is, and of which not every answer is taken."""

    network: SegNetwork

    def __init__(self, network: SegNetwork, following: Following | None = None) -> None:
        super().__init__(network)
        self.following = following or Following()
        self.labels_images = self.following.labels_images
        # The micro-batches of a step as they came, as they are labeled, and without the pixels that are left out.
        self._parts: tuple[Batch, ...] = ()
        self._labeled_parts: tuple[Batch, ...] = ()
        self._followed_parts: tuple[Batch, ...] = ()

    def with_targets(self, batch: Batch, teacher: SegOutput) -> Batch:
        """Return the batch with the teacher's classes as labels of images without any, where they are asked for."""
        if not self.labels_images:
            return batch
        self._look_at_parts(batch.parts)
        return self._labeled(batch, teacher.logits)._replace(parts=self._labeled_parts if batch.parts else ())

    def comparable(self, student: SegOutput, teacher: SegOutput, batch: Batch) -> Comparison:
        """Return the logits of the classes that the teacher knows, to be compared where it is followed."""
        followed = self._followed(batch, teacher.logits)
        parts: tuple[Batch, ...] = ()
        if batch.parts:
            self._look_at_parts(batch.parts)
            parts = self._followed_parts
        if isinstance(self.network, RemappedNetwork):
            known_classes = list(self.network.mapping.known_classes)
            student = student._replace(logits=student.logits[:, known_classes])
            teacher = teacher._replace(logits=teacher.logits[:, known_classes])
        return Comparison(student, teacher, followed._replace(parts=parts))

    def _look_at_parts(self, parts: tuple[Batch, ...]) -> None:
        """Ask the teacher for the micro-batches of a step, once for each step.

        A mean over the step is over what counts in all of them, which the teacher's outputs decide.
        """
        if parts is self._parts or parts is self._labeled_parts:
            return
        labeled: list[Batch] = []
        followed: list[Batch] = []
        for part in parts:
            logits = self(part).logits
            labeled_part = self._labeled(part, logits) if self.labels_images else part
            labeled.append(labeled_part)
            followed.append(self._followed(labeled_part, logits))
        self._parts = parts
        self._labeled_parts, self._followed_parts = tuple(labeled), tuple(followed)

    def _followed(self, batch: Batch, logits: Tensor) -> Batch:
        """Return the batch with the pixels left out where the teacher is not followed."""
        if isinstance(self.network, RemappedNetwork):
            batch = self.network.without_unknown_pixels(batch, logits)
        threshold = self.following.threshold
        if threshold == 0:
            return batch
        sure = confidence(logits, self._classes, batch.image, align_corners=self.network.align_corners) >= threshold
        return batch._replace(valid=batch.valid_mask() & sure)

    def _labeled(self, batch: Batch, logits: Tensor) -> Batch:
        """Return the batch with a label in each pixel of an image that has none, but where the teacher is not sure."""
        unlabeled = batch.valid_mask() & (batch.label == IGNORE)
        if not unlabeled.any():
            return batch
        align_corners = self.network.align_corners
        classes = self._classes
        # Image by image: the enlarged logits are the largest tensors of a step.
        answers = torch.stack(
            [
                resize_like(image_logits[None].float(), batch.image[:1], align_corners=align_corners)[0].argmax(0)
                for image_logits in logits
            ]
        )
        followed = unlabeled & (answers < classes)
        if self.following.threshold > 0:
            sure = confidence(logits, classes, batch.image, align_corners=align_corners)
            followed &= sure >= self.following.threshold
        return batch._replace(label=torch.where(followed, answers, batch.label))

    @property
    def _classes(self) -> int:
        """Number of the data's classes: a further output means none of them."""
        if isinstance(self.network, RemappedNetwork):
            return len(self.network.mapping.groups)
        return self.network.num_classes


def confidence(logits: Tensor, classes: int, like: Tensor, *, align_corners: bool) -> Tensor:
    """Return the probability of the most likely class at each pixel, (B, H, W) float32.

    Args:
        logits: (B, C, h, w), or with a further one that means none of the classes, whose probability counts for none.
        classes: C.
        like: (B, any, H, W), the images; probabilities are enlarged, which are smoother than labels.
        align_corners: how maps are enlarged.
    """
    probability = logits.float().softmax(1)[:, :classes].amax(1, keepdim=True)
    return resize_like(probability, like, align_corners=align_corners).squeeze(1)
