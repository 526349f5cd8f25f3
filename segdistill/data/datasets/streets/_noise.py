"""Noise for textures: looked up in one table, so that it costs little and is the same in every scene."""

from functools import cache

import numpy as np

from segdistill.data.datasets.streets._light import Floats

SIDE = 256
"""Side of the table, a power of 2, so that coordinates wrap by a bit mask."""
CELL_COUNTS = (4, 8, 16, 32, 64, 128, 256)
"""Cells per side of the random grids that are added up, from coarse to fine."""
FADING = 0.7
"""Weight of each grid in terms of the coarser one before it."""


def noise(across: Floats, down: Floats) -> Floats:
    """Return a number in [0, 1) for each pair of coordinates, which are rounded down to whole ones and wrapped."""
    rows = down.astype(np.intp) & (SIDE - 1)
    columns = across.astype(np.intp) & (SIDE - 1)
    return _table().take((rows << 8) + columns, mode="wrap")  # the fastest mode: it has no bounds to check


@cache
def _table() -> Floats:
    """Fractal noise (256, 256) that tiles, its values spread evenly over [0, 1)."""
    rng = np.random.Generator(np.random.PCG64(0))
    total = np.zeros((SIDE, SIDE), np.float32)
    weight = 1.0
    for cells in CELL_COUNTS:
        grid: Floats = rng.random((cells, cells), dtype=np.float32)
        total += weight * _enlarged(grid)
        weight *= FADING
    # Each value is replaced by its rank: a sum of random numbers would crowd around the middle.
    even = np.empty(total.size, np.float32)
    even[np.argsort(total, axis=None, kind="stable")] = np.arange(total.size, dtype=np.float32) / total.size
    return even.reshape(total.shape)


def _enlarged(grid: Floats) -> Floats:
    """Return a grid (cells, cells) at the table's size, linear between the cells, whose last row meets the first."""
    cells = len(grid)
    repeat = SIDE // cells
    part = np.tile(np.arange(repeat, dtype=np.float32) / repeat, cells)[:, None]
    for _ in range(2):  # along one axis and, transposed, along the other
        start = np.repeat(grid, repeat, 0)
        end = np.repeat(np.roll(grid, -1, 0), repeat, 0)
        grid = (start + (end - start) * part).T
    return grid
