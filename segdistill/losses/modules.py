"""The losses as modules, for those who keep a criterion as an object: each calls the function of its name.

Where pixels are ignored, `forward` takes the label, whose pixels of `ignore_index` do not count, or a mask `valid`, or
both; each at the size of the maps or of the label. Formulas, sources and errors stand with the functions.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from segdistill.losses._functional import _check, _shape
from segdistill.losses.adversarial import gradient_penalty, hinge_critic, wasserstein_critic
from segdistill.losses.boundary import boundary
from segdistill.losses.correlations import dist
from segdistill.losses.features import (
    adaptation,
    attention_transfer,
    channel_correlation,
    channel_kl,
    feature_l2,
    normalized_feature,
    residual_attention,
)
from segdistill.losses.logits import consistency, pixel_kl, pixel_l2
from segdistill.losses.relations import affinity, cross_image, intra_class_variation, key_similarity, pairwise
from segdistill.losses.supervised import cross_entropy, hard_cross_entropy, soft_dice
from segdistill.types import IGNORE


class Loss(nn.Module):
    """A loss with its settings, which its attributes and its text have."""

    def extra_repr(self) -> str:
        """Return the settings, for the module's text: "temperature=4.0, ignore_index=255"."""
        settings = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        settings.pop("training")  # every module has it, and a loss has no use for it
        if "ignore_index" in settings:  # last, as among the parameters
            settings["ignore_index"] = settings.pop("ignore_index")
        return ", ".join(f"{name}={value!r}" for name, value in settings.items())


class MaskedLoss(Loss):
    """A loss of two maps in which only some pixels count."""

    def __init__(self, *, ignore_index: int = IGNORE) -> None:
        super().__init__()
        self.ignore_index = ignore_index

    def forward(
        self, student: Tensor, teacher: Tensor, label: Tensor | None = None, *, valid: Tensor | None = None
    ) -> Tensor:
        """Return the loss; see `compare` for the maps.

        Args:
            student: maps of the student.
            teacher: maps of the teacher.
            label: (B, H, W); pixels of `ignore_index` do not count.
            valid: bool mask of the pixels that count.
        """
        return self.compare(student, teacher, valid_of(label, valid, self.ignore_index))

    def compare(self, student: Tensor, teacher: Tensor, valid: Tensor | None) -> Tensor:
        """Return the loss over the valid pixels."""
        raise NotImplementedError


def _on_device(values: Sequence[float] | None, maps: Tensor) -> Tensor | None:
    """Return numbers as a tensor where the maps are, float32 at least."""
    if values is None:
        return None
    return torch.tensor(values, device=maps.device, dtype=torch.promote_types(maps.dtype, torch.float32))


class CrossEntropy(Loss):
    """`cross_entropy`: of logits with the label, mean over valid pixels."""

    def __init__(
        self, *, align_corners: bool = False, class_weights: Sequence[float] | None = None, ignore_index: int = IGNORE
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.class_weights = None if class_weights is None else tuple(class_weights)
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Return the loss of logits (B, C, h, w) and label (B, H, W)."""
        return cross_entropy(
            logits,
            label,
            align_corners=self.align_corners,
            class_weights=_on_device(self.class_weights, logits),
            ignore_index=self.ignore_index,
        )


class HardCrossEntropy(Loss):
    """`hard_cross_entropy`: of logits with the label, mean over the hard pixels."""

    def __init__(
        self,
        *,
        threshold: float = 0.7,
        kept: float = 1 / 16,
        align_corners: bool = False,
        class_weights: Sequence[float] | None = None,
        ignore_index: int = IGNORE,
    ) -> None:
        super().__init__()
        self.threshold = threshold
        self.kept = kept
        self.align_corners = align_corners
        self.class_weights = None if class_weights is None else tuple(class_weights)
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Return the loss of logits (B, C, h, w) and label (B, H, W)."""
        return hard_cross_entropy(
            logits,
            label,
            threshold=self.threshold,
            kept=self.kept,
            align_corners=self.align_corners,
            class_weights=_on_device(self.class_weights, logits),
            ignore_index=self.ignore_index,
        )


class SoftDice(Loss):
    """`soft_dice`: 1 minus the overlap of probabilities and label, mean over the classes in the labels."""

    def __init__(self, *, align_corners: bool = False, ignore_index: int = IGNORE) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Return the loss of logits (B, C, h, w) and label (B, H, W)."""
        return soft_dice(logits, label, align_corners=self.align_corners, ignore_index=self.ignore_index)


class PixelKL(MaskedLoss):
    """`pixel_kl`: KL(teacher || student) between class distributions, mean over valid pixels."""

    def __init__(self, temperature: float = 1.0, *, ignore_index: int = IGNORE) -> None:
        super().__init__(ignore_index=ignore_index)
        self.temperature = temperature

    def compare(self, student: Tensor, teacher: Tensor, valid: Tensor | None) -> Tensor:
        """Return the loss of logits (B, C, h, w) of both networks."""
        return pixel_kl(student, teacher, temperature=self.temperature, valid=valid)


class PixelL2(MaskedLoss):
    """`pixel_l2`: squared distance between class probabilities, mean over valid pixels."""

    def compare(self, student: Tensor, teacher: Tensor, valid: Tensor | None) -> Tensor:
        """Return the loss of logits (B, C, h, w) of both networks."""
        return pixel_l2(student, teacher, valid=valid)


class Dist(MaskedLoss):
    """`dist`: 1 - correlation of class probabilities, over the classes and over the positions."""

    def __init__(
        self, temperature: float = 1.0, beta: float = 1.0, gamma: float = 1.0, *, ignore_index: int = IGNORE
    ) -> None:
        super().__init__(ignore_index=ignore_index)
        self.temperature = temperature
        self.beta = beta
        self.gamma = gamma

    def compare(self, student: Tensor, teacher: Tensor, valid: Tensor | None) -> Tensor:
        """Return the loss of logits (B, C, h, w) of both networks."""
        return dist(student, teacher, temperature=self.temperature, beta=self.beta, gamma=self.gamma, valid=valid)


class Boundary(Loss):
    """`boundary`: `pixel_kl` on the label's edges and `channel_kl` inside its classes."""

    def __init__(
        self,
        *,
        width: int = 7,
        edge: float = 1.0,
        body: float = 1.0,
        edge_temperature: float = 1.0,
        body_temperature: float = 4.0,
        ignore_index: int = IGNORE,
    ) -> None:
        super().__init__()
        self.width = width
        self.edge = edge
        self.body = body
        self.edge_temperature = edge_temperature
        self.body_temperature = body_temperature
        self.ignore_index = ignore_index

    def forward(self, student: Tensor, teacher: Tensor, label: Tensor) -> Tensor:
        """Return the loss of logits (B, C, h, w) of both networks and label (B, H, W)."""
        return boundary(
            student,
            teacher,
            label,
            width=self.width,
            edge=self.edge,
            body=self.body,
            edge_temperature=self.edge_temperature,
            body_temperature=self.body_temperature,
            ignore_index=self.ignore_index,
        )


class Consistency(MaskedLoss):
    """`consistency`: squared difference of how far each position is from its eight neighbors."""

    def __init__(self, neighbors: Literal["mean", "sum"] = "mean", *, ignore_index: int = IGNORE) -> None:
        super().__init__(ignore_index=ignore_index)
        self.neighbors: Literal["mean", "sum"] = neighbors

    def compare(self, student: Tensor, teacher: Tensor, valid: Tensor | None) -> Tensor:
        """Return the loss of maps (B, C, h, w) of both networks, h and w 3 at least."""
        return consistency(student, teacher, neighbors=self.neighbors, valid=valid)


class ChannelKL(MaskedLoss):
    """`channel_kl`: KL(teacher || student) between each channel's distributions over space."""

    def __init__(self, temperature: float = 4.0, *, ignore_index: int = IGNORE) -> None:
        super().__init__(ignore_index=ignore_index)
        self.temperature = temperature

    def compare(self, student: Tensor, teacher: Tensor, valid: Tensor | None) -> Tensor:
        """Return the loss of maps (B, C, h, w) of both networks, logits or features."""
        return channel_kl(student, teacher, temperature=self.temperature, valid=valid)


class FeatureL2(MaskedLoss):
    """`feature_l2`: squared difference of features, mean over valid positions and channels."""

    def compare(self, student: Tensor, teacher: Tensor, valid: Tensor | None) -> Tensor:
        """Return the loss of features (B, D, h, w), the student's adapted to the teacher's channels."""
        return feature_l2(student, teacher, valid=valid)


class NormalizedFeature(MaskedLoss):
    """`normalized_feature`: squared distance of features, each image's divided by their norm, mean over images."""

    def compare(self, student: Tensor, teacher: Tensor, valid: Tensor | None) -> Tensor:
        """Return the loss of features (B, D, h, w), the student's adapted to the teacher's channels."""
        return normalized_feature(student, teacher, valid=valid)


class Adaptation(MaskedLoss):
    """`adaptation`: distance of unit features, mean over valid positions."""

    def __init__(self, p: float = 2, q: float = 2, *, per_element: bool = False, ignore_index: int = IGNORE) -> None:
        super().__init__(ignore_index=ignore_index)
        self.p = p
        self.q = q
        self.per_element = per_element

    def compare(self, student: Tensor, teacher: Tensor, valid: Tensor | None) -> Tensor:
        """Return the loss of adapted features and the teacher's latent ones, (B, D, h, w)."""
        return adaptation(student, teacher, p=self.p, q=self.q, per_element=self.per_element, valid=valid)


class AttentionTransfer(MaskedLoss):
    """`attention_transfer`: squared difference of the attention maps."""

    def compare(self, student: Tensor, teacher: Tensor, valid: Tensor | None) -> Tensor:
        """Return the loss of features (B, D, h, w) of both networks, with any channels."""
        return attention_transfer(student, teacher, valid=valid)


class ResidualAttention(Loss):
    """`residual_attention`: squared difference of what changes from one layer's attention to a deeper one's."""

    def __init__(self, *, ignore_index: int = IGNORE) -> None:
        super().__init__()
        self.ignore_index = ignore_index

    def forward(
        self,
        student: Tensor,
        student_deeper: Tensor,
        teacher: Tensor,
        teacher_deeper: Tensor,
        label: Tensor | None = None,
        *,
        valid: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of two layers of each network, (B, D, h, w) each."""
        return residual_attention(
            student=student,
            student_deeper=student_deeper,
            teacher=teacher,
            teacher_deeper=teacher_deeper,
            valid=valid_of(label, valid, self.ignore_index),
        )


class ChannelCorrelation(Loss):
    """`channel_correlation`: squared difference of how much any two channels lie on the same regions."""

    def __init__(self, temperature: float = 4.0, pool: int = 2) -> None:
        super().__init__()
        self.temperature = temperature
        self.pool = pool

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of logits (B, C, h, w) of both networks; every position counts."""
        return channel_correlation(student, teacher, temperature=self.temperature, pool=self.pool)


class Pairwise(Loss):
    """`pairwise`: squared difference of the cosines between all pairs of pooled regions."""

    def __init__(self, pool: int | tuple[int, int] | None = None, kind: Literal["max", "avg"] = "max") -> None:
        super().__init__()
        self.pool = pool
        self.kind: Literal["max", "avg"] = kind

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of features (B, D, h, w) of both networks, with any channels; every position counts."""
        return pairwise(student, teacher, pool=self.pool, kind=self.kind)


class Affinity(Loss):
    """`affinity`: distance of the rows of the two affinity matrices."""

    def forward(self, student: Tensor, latent: Tensor) -> Tensor:
        """Return the loss of adapted features and the teacher's latent ones; every position counts."""
        return affinity(student, latent)


class IntraClassVariation(Loss):
    """`intra_class_variation`: squared difference in cosine between a pixel and the mean of its class."""

    def __init__(self, num_classes: int, *, ignore_index: int = IGNORE) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.ignore_index = ignore_index

    def forward(self, student: Tensor, teacher: Tensor, label: Tensor) -> Tensor:
        """Return the loss of features (B, D, h, w) of both networks, with any channels, and label (B, H, W)."""
        return intra_class_variation(
            student, teacher, label=label, num_classes=self.num_classes, ignore_index=self.ignore_index
        )


class CrossImage(MaskedLoss):
    """`cross_image`: KL(teacher || student) between similarities to the positions of each image of the batch."""

    def __init__(self, temperature: float = 0.1, *, ignore_index: int = IGNORE) -> None:
        super().__init__(ignore_index=ignore_index)
        self.temperature = temperature

    def compare(self, student: Tensor, teacher: Tensor, valid: Tensor | None) -> Tensor:
        """Return the loss of features (B, D, h, w) of both networks, with any channels."""
        return cross_image(student, teacher, temperature=self.temperature, valid=valid)


class KeySimilarity(Loss):
    """`key_similarity`: KL(teacher || student) between similarities to the same keys."""

    def __init__(self, temperature: float = 0.1, *, ignore_index: int = IGNORE) -> None:
        super().__init__()
        self.temperature = temperature
        self.ignore_index = ignore_index

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        keys: Tensor,
        label: Tensor | None = None,
        *,
        valid: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of features (B, D, h, w) of both networks and unit vectors (M, D)."""
        valid = valid_of(label, valid, self.ignore_index)
        return key_similarity(student, teacher, keys, temperature=self.temperature, valid=valid)


class WassersteinCritic(Loss):
    """`wasserstein_critic`: mean score of the student's maps minus that of the teacher's."""

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return the critic's loss of its scores for the teacher's and the student's maps."""
        return wasserstein_critic(real, fake)


class HingeCritic(Loss):
    """`hinge_critic`: the part of the scores that a hinge leaves."""

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return the critic's loss of its scores for the teacher's and the student's maps."""
        return hinge_critic(real, fake)


class GradientPenalty(Loss):
    """`gradient_penalty`: how far the norm of a critic's gradient between the two maps is from 1."""

    def forward(
        self,
        critic: Callable[[Tensor], Tensor],
        real: Tensor,
        fake: Tensor,
        generator: torch.Generator | None = None,
        *,
        alpha: Tensor | None = None,
    ) -> Tensor:
        """Return the penalty of a critic, which maps (B, ...) to scores, at a point between the two maps."""
        return gradient_penalty(critic, real, fake, generator, alpha=alpha)


def valid_of(label: Tensor | None, valid: Tensor | None, ignore_index: int) -> Tensor | None:
    """Return which pixels count by a label and by a mask; None where neither says so.

    Raises:
        ShapeError: if there are both and they differ in shape.
    """
    if label is None:
        return valid
    is_labeled = label != ignore_index
    if valid is None:
        return is_labeled
    _check(
        valid.shape == label.shape,
        f"The mask of valid pixels has shape {_shape(valid)} and the label {_shape(label)}",
        "the same",
    )
    return is_labeled & valid
