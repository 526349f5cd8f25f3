"""Streets: road scenes rendered from an index, the data set that needs no download.

A pinhole camera looks along a straight street. Sky, ground and walls are found by casting a ray per pixel, what stands
on the street is painted over them from far to near, and a photograph is taken of the result: light, haze, blur, noise.
Colors overlap between the classes, so that shape, texture and place have to be learned.

The bytes are the same on every machine: numbers come from PCG64 through `random` and `integers` alone, and only
operations that IEEE 754 rounds exactly touch them (no sin, exp or power, no sum whose order a machine may choose). The
order in which numbers are drawn is part of the data set: a draw more or less changes every scene.
"""

import numpy as np
import numpy.typing as npt

from segdistill.data.datasets.streets._backdrop import render_ground, render_sky, render_skyline
from segdistill.data.datasets.streets._canvas import Canvas
from segdistill.data.datasets.streets._houses import build_houses, render_houses
from segdistill.data.datasets.streets._photograph import photograph
from segdistill.data.datasets.streets._placing import place_things
from segdistill.data.datasets.streets._props import render_hood
from segdistill.errors import UsageError

MIN_SIDE = 32
"""Pixels of a side below which nothing can be told apart."""


def render(index: int, split: str, size: tuple[int, int]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Render one scene.

    Args:
        index: which scene, from 0; there is no last one.
        split: "train", "val", ...; each is a stream of its own.
        size: (H, W).

    Returns:
        The image (H, W, 3) in RGB, and the label (H, W): indices of `CLASSES`, or IGNORE.

    Raises:
        UsageError: if a side is shorter than 32 pixels.
    """
    height, width = size
    if min(size) < MIN_SIDE:
        raise UsageError(f"Size {height}x{width} is too small for a street.", f"Use at least {MIN_SIDE}x{MIN_SIDE}.")
    seed = [index, int.from_bytes(split.encode(), "big")]
    canvas = Canvas(np.random.Generator(np.random.PCG64(seed)), height, width)
    houses = {side: build_houses(canvas) for side in (-1, 1)}
    render_sky(canvas)
    render_skyline(canvas)
    render_ground(canvas, houses[canvas.sun_side])
    for side in (-1, 1):
        render_houses(canvas, houses[side], side)
    things = sorted(place_things(canvas), key=lambda thing: thing.z, reverse=True)
    for thing in things:  # far to near: what is nearer covers what is behind it
        thing.render(canvas, thing.x - canvas.drift, thing.z)
    render_hood(canvas)
    return photograph(canvas), canvas.label
