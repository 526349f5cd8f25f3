"""Losses on feature maps."""

from torch import Tensor
from torch.nn import functional as F

from segdistill.losses._functional import (
    EPS,
    MASKED_LOGIT,
    _in_full_precision,
    _kl,
    _mask_at,
    _matched,
    _mean,
    _resized,
    _unit,
    vector_norm,
)


@_in_full_precision
def adaptation(  # noqa: PLR0917  # the formula has these six
    student: Tensor,
    latent: Tensor,
    p: float = 2,
    q: float = 2,
    per_element: bool = False,
    valid: Tensor | None = None,
) -> Tensor:
    """Mean over valid positions of the p-norm between the two features, each divided by its own q-norm.

    He et al. 2019, adaptation term. The paper's values of p and q are not confirmed; with p = q = 2 the loss is never
    above 2. There is no authors' code; torchdistill takes p = 1, q = 2 and divides a whole image by one norm, while the
    paper's equation, which we follow, has one for each position.

    Args:
        student: adapted features (B, D, h, w).
        latent: the teacher's latent features (B, D, any size).
        p: norm of the difference.
        q: norm that each feature is divided by.
        per_element: divide by D too: with p = 1 the mean over all elements.
        valid: bool (B, h, w), or larger as the label is: the positions that count; default all.

    Raises:
        ShapeError: if batch, channels or the mask do not agree.
    """
    latent = _matched(latent, student)
    distance = _mean(vector_norm(_unit(student, q) - _unit(latent, q), p, dim=1), valid)
    return distance / student.shape[1] if per_element else distance


@_in_full_precision
def channel_kl(student: Tensor, teacher: Tensor, temperature: float = 4.0, valid: Tensor | None = None) -> Tensor:
    """Mean over channels of KL(teacher || student) between distributions over space, times temperature squared.

    Shu et al. 2021, channel-wise distillation, as its code has it: softmax over all positions of a channel, the
    divergence summed over space and divided by B * C, not by h * w. CIRKD's equals it on logits; on features that it
    projects to the teacher's channels it divides by B * the student's channels: 4 times this loss for 128 and 512.
    Neither code masks anything.

    Args:
        student: maps (B, C, h, w), logits or features.
        teacher: maps (B, C, any size).
        temperature: divides both maps.
        valid: bool (B, h, w), or larger as the label is: the positions that the distributions are over; default all.

    Raises:
        ShapeError: if batch, channels or the mask do not agree.
    """
    teacher = _matched(teacher, student)
    if valid is not None:  # a probability of 0; not -inf, of which an image without valid positions makes NaN
        hidden = ~_mask_at(valid, student).unsqueeze(1)
        student, teacher = (x.masked_fill(hidden, MASKED_LOGIT) for x in (student, teacher))
    return _kl(student.flatten(2), teacher.flatten(2), temperature, dim=2).mean()


@_in_full_precision
def attention_transfer(student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean squared difference of the two attention maps.

    Zagoruyko and Komodakis 2017, as CIRKD has it: squares averaged over the channels, each image's map divided by its
    L2 norm, the squared difference averaged (not summed) over positions: weights are large, 10000 in CIRKD. That code
    masks nothing.

    Args:
        student: features (B, D, h, w).
        teacher: features (B, any channels, any size).
        valid: bool (B, h, w), or larger as the label is; there is no attention elsewhere; default all.

    Raises:
        ShapeError: if batch or mask do not agree.
    """
    teacher = _matched(teacher, student, any_channels=True)
    attention, target = (_attention(x, student.shape[-2:], valid) for x in (student, teacher))
    return F.mse_loss(attention, target)


@_in_full_precision
def residual_attention(
    student: Tensor, student_deeper: Tensor, teacher: Tensor, teacher_deeper: Tensor, valid: Tensor | None = None
) -> Tensor:
    """Mean squared difference of the two networks' residual attention: what changes from one layer to a deeper one.

    Feng et al. 2021 (DSD), pixel-wise similarity, as CIRKD has it: the difference of two layers' attention maps (see
    `attention_transfer`), divided by its L2 norm; the squared difference averaged over positions. That code masks
    nothing.

    Args:
        student: features (B, D, any size), brought to the size of the deeper ones as an attention map.
        student_deeper: features or logits (B, D', h, w).
        teacher: features (B, any channels, any size), the layer that corresponds to `student`.
        teacher_deeper: features or logits (B, any channels, any size).
        valid: bool (B, h, w), or larger as the label is; there is no attention elsewhere; default all.

    Raises:
        ShapeError: if batch or mask do not agree.
    """
    teacher = _matched(teacher, student, any_channels=True)
    teacher_deeper = _matched(teacher_deeper, student_deeper, any_channels=True)

    def residual(shallow: Tensor, deep: Tensor) -> Tensor:
        size = student_deeper.shape[-2:]
        return _unit(_attention(deep, size, valid) - _attention(shallow, size, valid))

    return F.mse_loss(residual(student, student_deeper), residual(teacher, teacher_deeper))


@_in_full_precision
def channel_correlation(student: Tensor, teacher: Tensor, temperature: float = 4.0, pool: int = 2) -> Tensor:
    """Mean squared difference of the two matrices of how much any two channels lie on the same regions.

    Feng et al. 2021 (DSD), category-wise similarity of logits, as CIRKD has it: averages over pool x pool regions,
    softmax over all regions of a channel, scalar products between the channels. The numbers are small: with N regions
    a product is around 1 / N. There is no factor temperature squared.

    Args:
        student: logits (B, C, h, w).
        teacher: logits (B, C, any size), resized before they are pooled.
        temperature: divides both logits.
        pool: side of a region; those that reach over the border keep what is inside.

    Raises:
        ShapeError: if batch or classes do not agree.
    """
    teacher = _matched(teacher, student)

    def correlation(logits: Tensor) -> Tensor:
        p = (F.avg_pool2d(logits, pool, ceil_mode=True).flatten(2) / temperature).softmax(2)
        return p @ p.mT  # (B, C, C)

    return F.mse_loss(correlation(student), correlation(teacher))


@_in_full_precision
def feature_l2(student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean over valid positions and channels of the squared difference.

    Romero et al. 2015 (FitNets), the hint, as CIRKD has it for features: a mean, there without a mask. The paper has
    half the squared norm.

    Args:
        student: features (B, D, h, w), adapted to the teacher's channels.
        teacher: features (B, D, any size).
        valid: bool (B, h, w), or larger as the label is: the positions that count; default all.

    Raises:
        ShapeError: if batch, channels or the mask do not agree.
    """
    teacher = _matched(teacher, student)
    return _mean((student - teacher).square().mean(1), valid)


@_in_full_precision
def normalized_feature(student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean over images of the squared distance between the two maps, each divided by its own norm: 0 to 4.

    Liu et al. 2022 (NFD): features are normalized, so that the student does not have to imitate how large the teacher's
    responses are. That is what its abstract says, and all that is confirmed: there is no authors' code. We divide by
    the L2 norm over all channels and valid positions of an image, and keep the mean; a public re-implementation, that
    of FastSegFormer, defines it by each channel's mean and standard deviation over space instead. It is the mean
    squared difference of two maps that have a root mean square of 1: neither the size of the maps nor the number of
    their channels makes it larger, and a factor on either network's features changes nothing.

    Args:
        student: features (B, D, h, w), adapted to the teacher's channels.
        teacher: features (B, D, any size).
        valid: bool (B, h, w), or larger as the label is: the positions that count; default all. An image without any
            does not count.

    Raises:
        ShapeError: if batch, channels or the mask do not agree.
    """
    teacher = _matched(teacher, student)
    images: Tensor | int = len(student)
    if valid is not None:
        valid = _mask_at(valid, student)
        student, teacher = (x.masked_fill(~valid.unsqueeze(1), 0) for x in (student, teacher))
        images = valid.flatten(1).any(1).sum().clamp(min=1)
    own, target = (_unit(x.flatten(1)) for x in (student, teacher))
    return (own - target).square().sum() / images


def _attention(features: Tensor, size: tuple[int, ...], valid: Tensor | None) -> Tensor:
    """Return attention maps: squares averaged over the channels, 0 where not valid, of length 1: (B, h * w)."""
    energy = _resized(features.square().mean(1, keepdim=True), size).squeeze(1)
    if valid is not None:
        energy = energy.masked_fill(~_mask_at(valid, energy), 0)
    return _unit(energy.flatten(1), none=EPS**2)  # of squares: features of 1e-5 still have a direction
