"""What students are trained with: pure functions, tensors in, scalar out.

In every loss
- no gradient reaches the teacher, and its maps are resized to the student's where their sizes differ;
- the arithmetic is float32 at least, under autocast and for bfloat16 and float16 tensors too (float64 stays float64);
- a vector of length zero has no direction: its cosine with anything is 0, and no gradient flows through it.
"""

import math
from collections.abc import Callable
from functools import wraps
from typing import Any, Literal, ParamSpec

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from segdistill.autocast import no_autocast
from segdistill.errors import ShapeError
from segdistill.types import IGNORE

P = ParamSpec("P")

NEIGHBOURS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))
POOLING: dict[str, Callable[..., Tensor]] = {"max": F.max_pool2d, "avg": F.avg_pool2d}
NO_LENGTH = 1e-8
"""Vectors shorter than this have no direction (the epsilon of `torch.cosine_similarity`)."""
NO_CHANCE = -1e30
"""A logit whose probability is 0 beside any other, and which float32 can divide and subtract."""

vector_norm: Callable[..., Tensor] = torch.linalg.vector_norm  # PyTorch leaves it without types


def _in_full_precision(loss: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Run a loss outside autocast, whose matrix products would be bfloat16, and widen half precision to float32."""

    def widened(value: Any) -> Any:
        half = isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)
        return value.float() if half else value

    @wraps(loss)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        with no_autocast(next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))):
            return loss(*map(widened, args), **{name: widened(value) for name, value in kwargs.items()})

    return wrapped


@_in_full_precision
def cross_entropy(logits: Tensor, label: Tensor, *, align_corners: bool = False) -> Tensor:
    """Mean over valid pixels of the cross entropy with the label; 0 where no pixel is valid.

    The mean is the sum over max(valid, 1): PyTorch's own is NaN for a crop of nothing but ignored pixels.

    Args:
        logits: (B, C, h, w), resized to the label: bilinear.
        label: (B, H, W) int64 in [0, C) or IGNORE.
        align_corners: of that resizing, as the network is going to be used (True in the code of Liu et al. 2019).

    Raises:
        ShapeError: if logits and label are not of the same images.
    """
    _check_label(logits, label)
    full = _resized(logits, label.shape[-2:], align_corners=align_corners)
    loss = F.cross_entropy(full, label, ignore_index=IGNORE, reduction="none")
    return _mean(loss, label != IGNORE)


@_in_full_precision
def pixel_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0, valid: Tensor | None = None) -> Tensor:
    """Mean over valid pixels of KL(teacher || student) between class distributions, times temperature squared.

    Liu et al. 2019, pixel-wise term. The paper prints KL(student || teacher) while its text calls the teacher's output
    the target; the authors' code takes the cross entropy with the teacher's probabilities (the same gradient as
    KL(teacher || student)), sums it over the images of the batch and masks nothing. We follow the code's direction and
    the paper's mean over pixels, averaged over the batch too, so that the weight depends on no size. Neither has a
    temperature; the square keeps the gradient's scale when there is one.

    Args:
        student: logits (B, C, h, w).
        teacher: logits (B, C, any size).
        temperature: divides both logits.
        valid: bool (B, h, w), the pixels that count; default all.

    Raises:
        ShapeError: if batch, classes or the mask do not agree.
    """
    teacher = _matched(teacher, student)
    return _mean(_kl(student, teacher, temperature, dim=1), valid)


@_in_full_precision
def pixel_l2(student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean over valid pixels of the squared L2 distance between class probabilities.

    Xie et al. 2018, zero-order term. There is no authors' code, and which distance the paper takes is not confirmed:
    this is our reading of it.

    Args:
        student: logits (B, C, h, w).
        teacher: logits (B, C, any size).
        valid: bool (B, h, w), the pixels that count; default all.

    Raises:
        ShapeError: if batch, classes or the mask do not agree.
    """
    teacher = _matched(teacher, student)
    return _mean((student.softmax(1) - teacher.softmax(1)).square().sum(1), valid)


@_in_full_precision
def consistency(
    student: Tensor, teacher: Tensor, neighbours: Literal["mean", "sum"] = "mean", valid: Tensor | None = None
) -> Tensor:
    """Mean squared difference of the two consistency maps: how far each position is from its eight neighbours.

    Xie et al. 2018, first-order term: C(x)_i averages ||x_i - x_j||^2 over the neighbours j of i. There is no authors'
    code; Liu et al. (`CriterionLS`) sum over the neighbours, which makes the loss 64 times larger: that is "sum".
    Positions at the border lack neighbours and are left out, as there: padding would invent edges.

    Args:
        student: maps (B, C, h, w) with h, w >= 3, compared as given: logits, probabilities or features.
        teacher: maps (B, C, any size).
        neighbours: how the eight distances are combined.
        valid: bool (B, h, w); a position counts where it and its neighbours are valid (see `surrounded`); default all.

    Raises:
        ShapeError: if batch, channels or the mask do not agree, or the maps have no inner position.
    """
    teacher = _matched(teacher, student)
    wanted = "h, w >= 3, which a larger data.crop gives"
    _check(min(student.shape[-2:]) > 2, f"No position of maps {_shape(student)} has eight neighbours", wanted)
    share = {"mean": 1 / len(NEIGHBOURS), "sum": 1.0}[neighbours]
    squares = (share * (_contrast(student) - _contrast(teacher))).square()
    if valid is None:
        return squares.mean()
    _check_mask(valid, student)
    return _mean(squares, surrounded(valid))


@_in_full_precision
def pairwise(
    student: Tensor,
    teacher: Tensor,
    pool: int | tuple[int, int] | None = None,
    kind: Literal["max", "avg"] = "max",
) -> Tensor:
    """Mean squared difference of the cosines between all pairs of nodes, where a node is a pooled patch of features.

    Liu et al. 2019, pair-wise term. The journal version's text pools by the average, the authors' code by the maximum.
    That code adds 1e-8 to the norm and detaches it, which leaves a gradient along the feature where a cosine has none;
    we follow the paper's cosine with its full gradient. Takes memory for h * w / pool^2 nodes squared.

    Args:
        student: features (B, D, h, w).
        teacher: features (B, any channels, any size), resized before they are pooled.
        pool: kernel and stride in positions of the student; windows that reach over the border keep what is inside.
        kind: how a window is pooled.

    Raises:
        ShapeError: if the batches do not agree.
    """
    teacher = _matched(teacher, student, any_channels=True)
    if pool is not None:
        student, teacher = (POOLING[kind](x, pool, stride=pool, ceil_mode=True) for x in (student, teacher))
    return F.mse_loss(_cosines(student), _cosines(teacher))


@_in_full_precision
def affinity(student: Tensor, latent: Tensor) -> Tensor:
    """Difference of the two affinity matrices: L2 norms of its rows, summed; mean over the batch.

    He et al. 2019, affinity term: A_ij = cosine(x_i, x_j) / (h * w) over all positions i, j. The paper's notation
    leaves the norm open; we read sum_i ||row_i||_2. There is no authors' code; torchdistill normalises each channel
    over space, which is not the paper's cosine.

    Args:
        student: adapted features (B, D, h, w).
        latent: the teacher's latent features (B, any channels, any size).

    Raises:
        ShapeError: if the batches do not agree.
    """
    latent = _matched(latent, student, any_channels=True)
    difference = _cosines(student).sub_(_cosines(latent))  # in place: (B, N, N) is large, and no gradient needs it
    return vector_norm(difference, dim=2).sum(1).mean() / difference.shape[1]


@_in_full_precision
def adaptation(
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
        valid: bool (B, h, w), the positions that count; default all.

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
        valid: bool (B, h, w), the positions that the distributions are over; default all.

    Raises:
        ShapeError: if batch, channels or the mask do not agree.
    """
    teacher = _matched(teacher, student)
    if valid is not None:  # a probability of 0; not -inf, of which an image without valid positions makes NaN
        _check_mask(valid, student)
        student, teacher = (x.masked_fill(~valid.unsqueeze(1), NO_CHANCE) for x in (student, teacher))
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
        valid: bool (B, h, w); there is no attention elsewhere; default all.

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
        valid: bool (B, h, w); there is no attention elsewhere; default all.

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
        valid: bool (B, h, w), the positions that count; default all.

    Raises:
        ShapeError: if batch, channels or the mask do not agree.
    """
    teacher = _matched(teacher, student)
    return _mean((student - teacher).square().mean(1), valid)


@_in_full_precision
def intra_class_variation(student: Tensor, teacher: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """Mean over valid pixels of the squared difference in cosine between a pixel and the mean of its class.

    Wang et al. 2020 (IFVD): the mean is over the pixels of one class in one image, and the label assigns the teacher's
    pixels too. CIRKD's code averages over ignored pixels as well; we average over valid ones.

    Args:
        student: features (B, D, h, w).
        teacher: features (B, any channels, any size).
        label: (B, H, W) int64, brought to the features' size by its nearest pixels.
        num_classes: labels outside [0, num_classes) count nowhere.

    Raises:
        ShapeError: if the three are not of the same images.
    """
    teacher = _matched(teacher, student, any_channels=True)
    _check_label(student, label)
    ids = _nearest(label, student.shape[-2:]).flatten(1)
    member = (ids.unsqueeze(2) == torch.arange(num_classes, device=ids.device)).to(student.dtype)  # (B, N, C)

    def similarity(features: Tensor) -> Tensor:
        x = features.flatten(2)
        centres = _unit(x @ member)  # (B, D, C); a sum has the direction of its mean
        return (_unit(x).mT @ centres * member).sum(2)  # (B, N); the cosine with the pixel's own class

    return (similarity(student) - similarity(teacher)).square().sum() / member.sum().clamp(min=1)


@_in_full_precision
def cross_image(student: Tensor, teacher: Tensor, temperature: float = 0.1, valid: Tensor | None = None) -> Tensor:
    """Mean over valid positions of KL(teacher || student) between their similarities to the positions of each image.

    Yang et al. 2022 (CIRKD), pixel-to-pixel term of the mini-batch: for each ordered pair of images, an image with
    itself included, the cosines of every position of one with all positions of the other, divided by the temperature,
    are the logits of a distribution; the divergence is averaged over rows, then over pairs. Nothing is multiplied by
    the temperature squared and nothing is projected, as in the authors' code (`losses/cirkd_mini_batch.py` of
    winycg/CIRKD at commit 91735ef). That code masks nothing; we leave out positions that are not valid, as rows and as
    columns.

    Args:
        student: features (B, D, h, w).
        teacher: features (B, any channels, any size).
        temperature: divides the cosines.
        valid: bool (B, h, w), the positions that count; default all.

    Raises:
        ShapeError: if batch or mask do not agree.
    """
    teacher = _matched(teacher, student, any_channels=True)
    if valid is None:
        valid = student.new_ones(student[:, 0].shape, dtype=torch.bool)
    _check_mask(valid, student)
    own, target = (_unit(x).flatten(2).mT for x in (student, teacher))  # (B, N, D)
    kl = _similarity_kl(own, target, (own, target), temperature, ~valid.flatten(1))  # (B, N, B); 0 for an empty image
    images = valid.flatten(1).any(1).sum().clamp(min=1)
    return _mean(kl.sum(2).view(student[:, 0].shape) / images, valid)


@_in_full_precision
def key_similarity(
    student: Tensor, teacher: Tensor, keys: Tensor, temperature: float = 0.1, valid: Tensor | None = None
) -> Tensor:
    """Mean over valid positions of KL(teacher || student) between their similarities to the same keys.

    Yang et al. 2022 (CIRKD), pixel-to-pixel and pixel-to-region terms of the memory: the keys are embeddings that the
    teacher had for pixels or regions of earlier images, and the cosines with them, divided by the temperature, are the
    logits of a distribution. Nothing is multiplied by that temperature squared; the authors' code has a second one,
    which is 1 (`losses/cirkd_memory.py` of winycg/CIRKD at commit 91735ef).

    Args:
        student: features (B, D, h, w), projected to the teacher's channels.
        teacher: features (B, D, any size).
        keys: unit vectors (M, D).
        temperature: divides the cosines.
        valid: bool (B, h, w), the positions that count; default all.

    Raises:
        ShapeError: if batch, channels or the mask do not agree.
    """
    teacher = _matched(teacher, student)
    _check(keys.dim() == 2 and keys.shape[1] == student.shape[1], f"The keys have shape {_shape(keys)}", "(M, D)")
    own, target = (_unit(x).flatten(2).mT for x in (student, teacher))
    group = keys.detach().to(student.dtype).unsqueeze(0)
    return _mean(_similarity_kl(own, target, (group, group), temperature).view(student[:, 0].shape), valid)


@_in_full_precision
def wasserstein_critic(real: Tensor, fake: Tensor) -> Tensor:
    """What a Wasserstein critic minimises: its mean score of the student's maps minus that of the teacher's.

    Liu et al. 2019, holistic term; the student minimises -mean(fake).

    Args:
        real: scores of the teacher's maps, one or more per image.
        fake: scores of the student's maps.
    """
    return fake.mean() - real.mean()


@_in_full_precision
def hinge_critic(real: Tensor, fake: Tensor) -> Tensor:
    """What a hinge critic minimises: nothing is left to gain from scores above 1 (teacher) and below -1 (student).

    CIRKD's choice for the holistic term of Liu et al. 2019, whose own is `wasserstein_critic`.

    Args:
        real: scores of the teacher's maps, one or more per image.
        fake: scores of the student's maps.
    """
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


@_in_full_precision
def gradient_penalty(
    critic: Callable[[Tensor], Tensor],
    real: Tensor,
    fake: Tensor,
    generator: torch.Generator | None = None,
    *,
    alpha: Tensor | None = None,
) -> Tensor:
    """Mean over samples of (||gradient of the critic||_2 - 1)^2 at a point between the two maps.

    Liu et al. 2019, holistic term with gradient penalty, as in the authors' code: one alpha ~ U(0, 1) per sample, and
    the norm over all channels and positions of a sample. The gradient itself is differentiable; a critic with batch
    statistics couples the samples and has no such gradient.

    Args:
        critic: maps (B, ...) to scores.
        real: the teacher's maps (B, C, h, w); no gradient flows into either map.
        fake: the student's maps of the same shape.
        generator: draws alpha; default: PyTorch's own.
        alpha: (B,), the real map's share, where the caller draws it (from `Batch.seeds`, say).

    Raises:
        ShapeError: if the two maps differ in shape.
    """
    _check(real.shape == fake.shape, f"The critic's maps have shapes {_shape(real)} and {_shape(fake)}", "the same")
    if alpha is None:
        alpha = torch.rand(len(real), generator=generator, device=generator.device if generator else None)
    share = alpha.to(real).reshape(len(real), *[1] * (real.dim() - 1))
    point = torch.lerp(fake.detach(), real.detach(), share).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(point).sum(), point, create_graph=True)
    return (vector_norm(gradient.flatten(1), dim=1) - 1).square().mean()


def at_size(mask: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return a mask on another grid: bool (B, h, w), True where the nearest pixel is.

    Args:
        mask: (B, H, W) bool.
        size: (h, w), usually the student's logits'.
    """
    return _nearest(mask, size) > 0


def surrounded(valid: Tensor) -> Tensor:
    """Return where a position and its eight neighbours are valid: bool (B, h - 2, w - 2) from (B, h, w)."""
    return F.max_pool2d((~valid).float(), 3, stride=1) == 0


def label_at_size(label: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return a label on another grid: int64 (B, h, w), at each position the nearest pixel's.

    Args:
        label: (B, H, W) int64.
        size: (h, w) of the features whose positions it names.
    """
    return _nearest(label, size).long()


def _matched(teacher: Tensor, student: Tensor, any_channels: bool = False) -> Tensor:
    """Return the teacher's maps at the student's size and type, outside any graph."""
    alike = 1 if any_channels else 2
    _check(
        student.dim() == teacher.dim() == 4 and student.shape[:alike] == teacher.shape[:alike],
        f"The student's maps have shape {_shape(student)} and the teacher's {_shape(teacher)}",
        "(B, D, h, w) with the same B" + ("" if any_channels else " and D: a single channel is not repeated"),
    )
    return _resized(teacher.detach().to(student.dtype), student.shape[-2:])


def _resized(maps: Tensor, size: tuple[int, ...], *, align_corners: bool = False) -> Tensor:
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=align_corners)


def _nearest(label: Tensor, size: tuple[int, ...]) -> Tensor:
    # "nearest", not "nearest-exact": as CIRKD. PyTorch does not resize int64; ids up to 255 are exact in float32.
    return F.interpolate(label.unsqueeze(1).float(), size=size, mode="nearest").squeeze(1)


def _mean(values: Tensor, valid: Tensor | None) -> Tensor:
    """Return the mean of values (B, h, w) over valid pixels; 0, with gradient 0, where there is none."""
    if valid is None:
        return values.mean()
    _check_mask(valid, values)
    return values.masked_fill(~valid, 0).sum() / valid.sum().clamp(min=1)


def _kl(student: Tensor, teacher: Tensor, temperature: float, dim: int) -> Tensor:
    """Return KL(teacher || student) of the softmax over `dim`, times temperature squared."""
    log_p, log_target = ((x / temperature).log_softmax(dim) for x in (student, teacher))
    divergence = F.kl_div(log_p, log_target, reduction="none", log_target=True)
    # p - target sums to 0, and takes the rounding of the two normalisers with it: at T = 4 it is the larger error.
    return (divergence + log_p.exp() - log_target.exp()).sum(dim) * temperature**2


def _similarity_kl(
    student: Tensor,
    teacher: Tensor,
    keys: tuple[Tensor, Tensor],
    temperature: float,
    hidden: Tensor | None = None,
) -> Tensor:
    """Return KL(teacher || student) of the softmax over the similarities to each of G groups of M keys: (B, N, G).

    One image at a time, and computed again in the backward pass: an image's N * G * M numbers are all that is held.

    Args:
        student: unit vectors (B, N, D).
        teacher: unit vectors (B, N, any channels).
        keys: what either is compared with, (G, M, D) and (G, M, the teacher's channels).
        temperature: divides the cosines.
        hidden: bool (G, M), the keys that do not count; a group without any other counts as equal.
    """

    def logits(x: Tensor, groups: Tensor) -> Tensor:
        scaled = torch.einsum("nd,gmd->ngm", x, groups) / temperature
        return scaled if hidden is None else scaled.masked_fill(hidden, NO_CHANCE)

    def of_image(own: Tensor, target: Tensor) -> Tensor:
        return _kl(logits(own, keys[0]), logits(target, keys[1]), temperature=1, dim=2)

    pairs = zip(student, teacher, strict=True)
    return torch.stack([checkpoint(of_image, *pair, use_reentrant=False) for pair in pairs])


def _unit(x: Tensor, p: float = 2, none: float = NO_LENGTH) -> Tensor:
    """Return x divided by its p-norm over dimension 1, and 0 where that norm is 0: below `none`."""
    norm = vector_norm(x, p, dim=1, keepdim=True)
    # A clamp would do for the value, but its gradient at 0 is 1 / none.
    return x / norm.masked_fill(norm < none, math.inf)


def _attention(features: Tensor, size: tuple[int, ...], valid: Tensor | None) -> Tensor:
    """Return attention maps: squares averaged over the channels, 0 where not valid, of length 1: (B, h * w)."""
    energy = _resized(features.square().mean(1, keepdim=True), size).squeeze(1)
    if valid is not None:
        _check_mask(valid, energy)
        energy = energy.masked_fill(~valid, 0)
    return _unit(energy.flatten(1), none=NO_LENGTH**2)  # of squares: features of 1e-5 still have a direction


def _cosines(features: Tensor) -> Tensor:
    """Return the cosines between all positions of (B, D, h, w): (B, N, N) with N = h * w."""
    x = _unit(features.flatten(2))
    return x.mT @ x


def _contrast(x: Tensor) -> Tensor:
    """Return the squared distances of inner positions to their eight neighbours, summed: (B, h - 2, w - 2)."""
    h, w = x.shape[-2:]
    inner = x[..., 1:-1, 1:-1]
    shifted = (x[..., 1 + dy : h - 1 + dy, 1 + dx : w - 1 + dx] for dy, dx in NEIGHBOURS)
    return torch.stack([(inner - other).square().sum(1) for other in shifted]).sum(0)


def _check_label(maps: Tensor, label: Tensor) -> None:
    _check(
        maps.dim() == 4 and label.dim() == 3 and len(maps) == len(label),
        f"The student's maps have shape {_shape(maps)} and the label {_shape(label)}",
        "(B, C, h, w) and (B, H, W)",
    )


def _check_mask(valid: Tensor, maps: Tensor) -> None:
    shape = (len(maps), *maps.shape[-2:])
    _check(valid.shape == shape, f"The mask of valid pixels has shape {_shape(valid)}", str(shape))


def _check(fits: bool, found: str, expected: str) -> None:
    if not fits:
        raise ShapeError(f"{found}.", f"Expected: {expected}.")


def _shape(x: Tensor) -> str:
    return str(tuple(x.shape))
