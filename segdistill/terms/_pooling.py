"""Maps brought to a size that a term can afford."""

import math

from torch import Tensor
from torch.nn import functional as F


def pool_to_limit(features: Tensor, max_positions: int, valid: Tensor | None = None) -> Tensor:
    """Return features (B, D, h, w) average-pooled by the smallest kernel that leaves few enough positions.

    Args:
        features: of any size.
        max_positions: most positions of the result.
        valid: bool (B, h, w), the positions that are averaged; where a kernel has none there are zeros. Default all.
    """
    side = _kernel_side(features, max_positions)
    if side == 1:
        return features
    if valid is None:
        return F.avg_pool2d(features, side, ceil_mode=True)
    weight = valid.unsqueeze(1).to(features.dtype)
    valid_mean = F.avg_pool2d(features * weight, side, ceil_mode=True)
    valid_share = F.avg_pool2d(weight, side, ceil_mode=True)
    # The smallest share of a kernel with a valid position is 1 / side^2: the clamp only makes 0 / 0 to 0.
    return valid_mean / valid_share.clamp(min=1 / side**2)


def pool_mask_to_limit(valid: Tensor, max_positions: int) -> Tensor:
    """Return where `pool_to_limit` had something to average: bool (B, h, w) of the mask that it was given."""
    side = _kernel_side(valid, max_positions)
    if side == 1:
        return valid
    return F.max_pool2d(valid.float(), side, ceil_mode=True) > 0


def pooling_note(term: str, features: Tensor, pooled: Tensor) -> tuple[str, ...]:
    """Return the message of a term whose features `pool_to_limit` pooled; nothing where it did not."""
    height, width = features.shape[-2:]
    pooled_height, pooled_width = pooled.shape[-2:]
    if (height, width) == (pooled_height, pooled_width):
        return ()
    return (f"{term}: {height}x{width} positions are averaged to {pooled_height}x{pooled_width} to save memory",)


def _kernel_side(maps: Tensor, max_positions: int) -> int:
    height, width = maps.shape[-2:]
    side = 1
    # Windows reach over the border, hence the rounding up.
    while math.ceil(height / side) * math.ceil(width / side) > max_positions:
        side += 1
    return side
