"""What the losses share: precision, sizes, masks, checks."""

import math
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

import torch
from torch import Tensor
from torch.nn import functional as F

from segdistill.errors import ShapeError
from segdistill.runtime.autocast import no_autocast

P = ParamSpec("P")

NEIGHBORS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))
POOLING: dict[str, Callable[..., Tensor]] = {"max": F.max_pool2d, "avg": F.avg_pool2d}
EPS = 1e-8
"""Vectors shorter than this have no direction (the epsilon of `torch.cosine_similarity`)."""
MASKED_LOGIT = -1e30
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


def resize_mask(mask: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return a mask on another grid: bool (B, h, w), True where the nearest pixel is.

    Args:
        mask: (B, H, W) bool.
        size: (h, w), usually the student's logits'.
    """
    return _nearest(mask, size) > 0


def surrounded(valid: Tensor) -> Tensor:
    """Return where a position and its eight neighbors are valid: bool (B, h - 2, w - 2) from (B, h, w)."""
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
    valid = _mask_at(valid, values)
    return values.masked_fill(~valid, 0).sum() / valid.sum().clamp(min=1)


def _kl(student: Tensor, teacher: Tensor, temperature: float, dim: int) -> Tensor:
    """Return KL(teacher || student) of the softmax over `dim`, times temperature squared."""
    log_p, log_target = ((x / temperature).log_softmax(dim) for x in (student, teacher))
    divergence = F.kl_div(log_p, log_target, reduction="none", log_target=True)
    # p - target sums to 0, and takes the rounding of the two normalizers with it: at T = 4 it is the larger error.
    return (divergence + log_p.exp() - log_target.exp()).sum(dim) * temperature**2


def _unit(x: Tensor, p: float = 2, none: float = EPS) -> Tensor:
    """Return x divided by its p-norm over dimension 1, and 0 where that norm is 0: below `none`."""
    norm = vector_norm(x, p, dim=1, keepdim=True)
    # A clamp would do for the value, but its gradient at 0 is 1 / none.
    return x / norm.masked_fill(norm < none, math.inf)


def _cosines(features: Tensor) -> Tensor:
    """Return the cosines between all positions of (B, D, h, w): (B, N, N) with N = h * w."""
    x = _unit(features.flatten(2))
    return x.mT @ x


def _check_label(maps: Tensor, label: Tensor) -> None:
    _check(
        maps.dim() == 4 and label.dim() == 3 and len(maps) == len(label),
        f"The student's maps have shape {_shape(maps)} and the label {_shape(label)}",
        "(B, C, h, w) and (B, H, W)",
    )


def _mask_at(valid: Tensor, maps: Tensor) -> Tensor:
    """Return the mask on the grid of the maps, (B, h, w); one of the label's size is brought down to it.

    Args:
        valid: bool (B, h, w), or larger, as the label is.
        maps: (B, h, w) or (B, D, h, w).
    """
    size = maps.shape[-2:]
    # Maps are never larger than the label: a mask that is smaller than they are belongs to others.
    fits = valid.dim() == 3 and len(valid) == len(maps) and valid.shape[1] >= size[0] and valid.shape[2] >= size[1]
    shape = (len(maps), *size)
    _check(fits, f"The mask of valid pixels has shape {_shape(valid)}", f"{shape}, or (B, H, W) of the label")
    # Of other types `~` is no negation, and it would fail silently.
    _check(valid.dtype == torch.bool, f"The mask of valid pixels is of type {valid.dtype}", "torch.bool")
    return valid if valid.shape[1:] == size else resize_mask(valid, size)


def _check(fits: bool, found: str, expected: str) -> None:
    if not fits:
        raise ShapeError(f"{found}.", f"Expected: {expected}.")


def _shape(x: Tensor) -> str:
    return str(tuple(x.shape))
