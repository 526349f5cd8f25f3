"""Distillation that treats the edges between classes apart from what lies inside them."""

from torch import Tensor
from torch.nn import functional as F

from segdistill.losses._functional import _check, _check_label, _in_full_precision, label_at_size, resize_mask
from segdistill.losses.features import channel_kl
from segdistill.losses.logits import pixel_kl
from segdistill.types import IGNORE

LOWEST = -(2**31) + 1
"""An id below all others, which int32 can negate."""


def label_edges(label: Tensor, width: int = 7, *, ignore_index: int = IGNORE) -> Tensor:
    """Return where a label has an edge: bool (B, H, W), True where two classes lie within one window.

    That is where the dilation of a class by the window, minus its erosion, is not 0. Ignored pixels are of no class:
    none of them is on an edge, and none makes one.

    Args:
        label: (B, H, W) int64.
        width: side of the square window in pixels, odd: edges become width - 1 pixels wide.
        ignore_index: label of pixels that do not count.

    Raises:
        ShapeError: if the width is not odd and 3 at least.
    """
    _check(width >= 3 and width % 2 == 1, f"The width of edges is {width}", "an odd number, 3 at least")
    is_labeled = label != ignore_index
    # What is of no class, and what lies outside, must neither be the largest nor the smallest id of a window.
    largest = _window_maximum(label.int().masked_fill(~is_labeled, LOWEST), width)
    smallest = -_window_maximum((-label.int()).masked_fill(~is_labeled, LOWEST), width)
    return (largest != smallest) & is_labeled


def _window_maximum(ids: Tensor, width: int) -> Tensor:
    """Return the maximum of the square window around each position of (B, H, W)."""
    padded = F.pad(ids, (width // 2,) * 4, value=LOWEST)
    # One direction after the other, as a view: on a CPU max_pool2d takes several times as long for one channel.
    return padded.unfold(2, width, 1).amax(-1).unfold(1, width, 1).amax(-1)


def boundary_regions(
    label: Tensor, size: tuple[int, ...], width: int = 7, *, ignore_index: int = IGNORE
) -> tuple[Tensor, Tensor]:
    """Return which positions of a grid lie on an edge of the label and which inside a class: two bool (B, h, w).

    The edges are those of the label at its own size; a position is what its nearest pixel is, and neither where that is
    ignored.

    Args:
        label: (B, H, W) int64.
        size: (h, w) of the grid, usually the student's logits'.
        width: of the edges, in pixels of the label.
        ignore_index: label of pixels that do not count.

    Raises:
        ShapeError: if the width is not odd and 3 at least.
    """
    is_edge = resize_mask(label_edges(label, width, ignore_index=ignore_index), size)
    is_labeled = label_at_size(label, size) != ignore_index
    return is_edge, is_labeled & ~is_edge


@_in_full_precision
def boundary(
    student: Tensor,
    teacher: Tensor,
    label: Tensor,
    *,
    width: int = 7,
    edge: float | Tensor = 1.0,
    body: float | Tensor = 1.0,
    edge_temperature: float = 1.0,
    body_temperature: float = 4.0,
    ignore_index: int = IGNORE,
) -> Tensor:
    """Return edge * `pixel_kl` on the label's edges + body * `channel_kl` over what lies inside the classes.

    Liu et al. 2023 (BPKD). Its abstract has an edge loss that tells classes apart pixel by pixel and a body loss that
    constrains the shape of what lies inside; the authors published code to evaluate, none to train. Three public
    re-implementations agree on the rest: edges are the dilation of each class minus its erosion by a window of 7, the
    body loss is channel-wise distillation, and the paper's weights are 20 (body) and 50 (edge). Their temperatures
    differ (1 and 4). None of this is confirmed; our temperatures are those of `PixelKL` and `ChannelKL`.

    Two of them average the edges of each class to the logits' size, multiply both networks' logits by that share (and
    by the rest for the body), and add up a mean for every class. A logit of 0 is a value like any other to a softmax,
    so we mask: a position is on an edge of any class or is not, the first part is a mean over the positions that are,
    and the second's distributions are over the other labeled ones. Their weights do not carry over.

    Args:
        student: logits (B, C, h, w).
        teacher: logits (B, C, any size).
        label: (B, H, W) int64.
        width: of the edges, in pixels of the label: odd, 3 at least.
        edge: weight of the mean over the positions on edges.
        body: weight of the mean over the channels of all images that have a position inside a class.
        edge_temperature: divides the logits of the first part.
        body_temperature: divides the logits of the second part.
        ignore_index: label that counts nowhere.

    Raises:
        ShapeError: if batch, classes or label do not agree, or the width is not odd and 3 at least.
    """
    _check_label(student, label)
    on_edge, inside = boundary_regions(label, student.shape[-2:], width, ignore_index=ignore_index)
    edge_part = pixel_kl(student, teacher, temperature=edge_temperature, valid=on_edge)
    # An image without such a position adds 0 to the mean over all images, and should not count in it.
    images = inside.flatten(1).any(1).sum().clamp(min=1)
    body_part = channel_kl(student, teacher, temperature=body_temperature, valid=inside) * len(student) / images
    return edge * edge_part + body * body_part
