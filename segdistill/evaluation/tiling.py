"""Large images, labeled tile by tile."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from segdistill.data import to_size
from segdistill.evaluation.evaluate import MAX_PIXELS_PER_CHUNK, predict_labels
from segdistill.evaluation.metrics import Scores
from segdistill.types import Batch

STRIDE = 32
"""Stride of all networks, or a multiple of it: tiles begin where the network's own grid has a point."""
Pixels = npt.NDArray[np.uint8]
"""An image (H, W, 3), RGB, or class ids (H, W)."""
Predict = Callable[[Tensor], Tensor]
"""Images (B, 3, h, w) in 0..255 to logits (B, C, h, w): a network or an exported graph."""


@dataclass(frozen=True)
class Tiling:
    """The tiles of images whose logits would not fit into memory."""

    max_pixels: int = MAX_PIXELS_PER_CHUNK
    """Images above this many pixels are tiled."""
    side: int = 1408
    """Side of a tile in pixels, a multiple of `STRIDE`."""
    margin: int = 192
    """Outer pixels of a tile, which only give context to the others, a multiple of `STRIDE`."""

    def always(self) -> "Tiling":
        """Return the same tiles, of small images too."""
        return replace(self, max_pixels=0)  # no image is that small


DEFAULT_TILING = Tiling()


class TilingStats(NamedTuple):
    """Images that were too large to be seen whole, and what tiles change."""

    images: int
    """Number of tiled images."""
    agreement: float
    """Share of the pixels of a part of the first one that get the class which they get where that part is whole."""


def segment(predict: Predict, image: Pixels, size: tuple[int, int] | None, tiling: Tiling = DEFAULT_TILING) -> Pixels:
    """Return the class ids (H, W) of an image (H, W, 3).

    Args:
        predict: the network.
        image: RGB.
        size: (height, width) that the network sees; None shows it the image as it is, a large one tile by tile.
        tiling: the tiles of large images.
    """
    height, width = image.shape[:2]
    if size is not None:
        return _class_ids(predict, to_size(image, size), (height, width), max_pixels=tiling.max_pixels)
    if height * width <= tiling.max_pixels:
        return _class_ids(predict, image, (height, width), max_pixels=tiling.max_pixels)
    class_ids = np.empty((height, width), np.uint8)
    for rows, kept_rows in _windows(height, tiling):
        for columns, kept_columns in _windows(width, tiling):
            tile = image[rows, columns]
            tile_ids = _class_ids(predict, tile, tile.shape[:2], max_pixels=MAX_PIXELS_PER_CHUNK)
            class_ids[kept_rows, kept_columns] = tile_ids[_within(kept_rows, rows), _within(kept_columns, columns)]
    return class_ids


class TilingComparison(NamedTuple):
    """Scores with and without tiles."""

    whole: Scores
    tiled: Scores
    agreement: float
    """Share of the pixels that get the same class."""


@torch.no_grad()
def compare_tiling(
    predict: Predict,
    batches: Iterable[Batch],
    num_classes: int,
    on_batch: Callable[[int], None],
    tiling: Tiling = DEFAULT_TILING,
) -> TilingComparison:
    """Label images whole and tile by tile.

    Args:
        predict: the network.
        batches: of images at the size of their labels.
        num_classes: C.
        on_batch: called with the number of images done.
        tiling: the tiles, which smaller images have one of.
    """
    whole, tiled = Scores.empty(num_classes), Scores.empty(num_classes)
    equal = pixels = 0
    for batch in batches:
        whole_ids = predict_labels(predict, batch.image, batch.label.shape[-2:])
        images = batch.image.permute(0, 2, 3, 1).to(torch.uint8).numpy()
        tiled_ids = np.stack([segment(predict, image, None, tiling=tiling.always()) for image in images])
        whole += Scores.of(whole_ids, batch.label, num_classes)
        tiled += Scores.of(torch.from_numpy(tiled_ids).long(), batch.label, num_classes)
        equal += int((tiled_ids == whole_ids.numpy()).sum())
        pixels += tiled_ids.size
        on_batch(len(images))
    return TilingComparison(whole, tiled, equal / max(pixels, 1))


def tiling_agreement(predict: Predict, image: Pixels, tiling: Tiling) -> float:
    """Return the share of pixels that get the same class whole and tile by tile, in the middle of a large image.

    Args:
        predict: the network.
        image: (H, W, 3), with more than `tiling.max_pixels`.
        tiling: the tiles.
    """
    # The largest part that may be seen whole, up to twice as wide as high.
    height = min(image.shape[0], math.isqrt(tiling.max_pixels // 2))
    width = min(image.shape[1], tiling.max_pixels // height)
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    part = np.ascontiguousarray(image[top : top + height, left : left + width])
    whole_ids = segment(predict, part, None, tiling=tiling)
    tiled_ids = segment(predict, part, None, tiling=tiling.always())
    return float((whole_ids == tiled_ids).mean())


def _windows(length: int, tiling: Tiling) -> Iterator[tuple[slice, slice]]:
    """Yield, along one side of an image, each tile and what of it is kept: the middle, and up to the image's border."""
    last = max(length - tiling.side, 0) // STRIDE * STRIDE
    starts = [*range(0, last, tiling.side - 2 * tiling.margin), last]
    # A tile is kept from its margin on, up to where the next one is.
    cuts = [0, *(start + tiling.margin for start in starts[1:]), length]
    for start, (begin, end) in zip(starts, pairwise(cuts), strict=True):
        # the last one takes the rest, which is no multiple of the stride
        stop = length if start == last else start + tiling.side
        yield slice(start, stop), slice(begin, end)


def _within(part: slice, whole: slice) -> slice:
    """Return where a part of a side lies in a tile."""
    return slice(part.start - whole.start, part.stop - whole.start)


def _class_ids(predict: Predict, image: Pixels, size: tuple[int, ...], *, max_pixels: int) -> Pixels:
    """Return class ids at `size`, as evaluation takes them."""
    class_ids: Tensor = predict_labels(predict, _as_batch(image), size, max_pixels=max_pixels)[0]
    return class_ids.to(torch.uint8).numpy()


def _as_batch(image: Pixels) -> Tensor:
    """Return an image as networks take it, (1, 3, H, W)."""
    return torch.from_numpy(image).permute(2, 0, 1).unsqueeze(0).float()
