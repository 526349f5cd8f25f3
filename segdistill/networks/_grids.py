"""Averages of a map over grids, as pyramid pooling takes them.

One matrix product, because the ONNX export of adaptive pooling is wrong at sizes other than the traced one, and its
backward pass is ten times slower on channels_last memory.
"""

import torch
from torch import Tensor

BINS = (1, 2, 3, 6)
"""Bins a side of the grids."""


def grid_averages(x: Tensor) -> list[Tensor]:
    """Average (B, D, h, w) over grids of n x n for each n in BINS: (B, D, n, n), as `F.adaptive_avg_pool2d` does."""
    batch, channels, height, width = x.shape
    matrices = []
    for bins in BINS:
        rows = averaging_matrix(height, bins, x)
        columns = averaging_matrix(width, bins, x)
        matrices.append(_outer_product(rows, columns))
    averages = torch.cat(matrices) @ x.flatten(2).mT  # (B, sum of n * n, D)
    parts = averages.split_with_sizes([bins * bins for bins in BINS], dim=1)
    return [part.mT.reshape(batch, channels, bins, bins) for bins, part in zip(BINS, parts, strict=True)]


def averaging_matrix(size: int, bins: int, like: Tensor) -> Tensor:
    """Return (bins, size): row i averages the positions that overlap the i-th of `bins` equal parts of `size`.

    Args:
        size: positions.
        bins: parts.
        like: of the matrix's type, on its device.
    """
    position = torch.arange(size, device=like.device)
    part = torch.arange(bins, device=like.device).unsqueeze(1)
    # Both sides times `bins`: bounds of parts that are no whole numbers are compared without rounding.
    is_inside = ((position + 1) * bins > part * size) & (position * bins < (part + 1) * size)
    return is_inside.to(like.dtype) / is_inside.sum(dim=1, keepdim=True)


def _outer_product(rows: Tensor, columns: Tensor) -> Tensor:
    """Return (n * n, h * w) from (n, h) and (n, w)."""
    return (rows[:, None, :, None] * columns[None, :, None, :]).flatten(2).flatten(0, 1)
