"""Houses along both sides of the street, in plots of which some are free."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from segdistill.data.datasets.streets._canvas import FAR, Canvas, Mask, Window
from segdistill.data.datasets.streets._light import WALLS, Floats, to_rgb
from segdistill.data.datasets.streets._noise import noise
from segdistill.data.datasets.streets.classes import BUILDING

PLOTS = 8
"""Plots on a side; together they reach beyond the place where houses are too small to be told apart."""
HALF_DEPTH = 6
"""Half of the depth of a house, seen where its end stands free."""


class Houses(NamedTuple):
    """One side of the street, near to far; all arrays have one entry per plot, (P,) unless said otherwise."""

    start: Floats
    """Distance at which a plot begins."""
    height: Floats
    """Height of the house, 0 where a plot is free."""
    bay: Floats
    """Width of a bay, which has one window in each story."""
    story: Floats
    """Height of a story."""
    window_half_width: Floats
    """Half of a window, in bays."""
    window_half_height: Floats
    """Half of a window, in stories."""
    wall: Floats
    """(3, 1, P) color."""
    awning: Floats
    """(3, 1, P) color."""


class _Wall(NamedTuple):
    """A wall in the picture."""

    window: Window
    inside: Mask
    depth: float | Floats
    along: Floats
    """Meters along the wall."""
    up: Floats
    """Meters from the ground."""
    plot: npt.NDArray[np.intp]
    """Plot of each column."""
    shade: float
    """Factor of the brightness."""


def build_houses(canvas: Canvas) -> Houses:
    """Draw one side of the street; plots at the side street are free."""

    def per_plot(low: float, high: float, shape: tuple[int, ...] = ()) -> Floats:
        return low + (high - low) * canvas.rng.random((*shape, PLOTS), dtype=np.float32)

    start = np.add.accumulate(per_plot(11, 28)) - canvas.between(12, 30)
    height = per_plot(5, 12) + per_plot(0, 1) * canvas.between(0, 14)
    is_gap = per_plot(0, 1) < 0.15
    is_at_side_street = abs(start - canvas.crossing + 6) < 13
    height[is_gap | is_at_side_street] = 0
    wall = np.concatenate([canvas.jitter(canvas.choose(WALLS), 50) for _ in range(PLOTS)], axis=2)
    return Houses(
        start,
        height,
        bay=per_plot(1.8, 3.6),
        story=per_plot(2.7, 3.6),
        window_half_width=per_plot(0.16, 0.4),
        window_half_height=per_plot(0.2, 0.36),
        wall=wall,
        awning=per_plot(50, 210, (3, 1)),
    )


def plots_at(houses: Houses, z: Floats) -> npt.NDArray[np.intp]:
    """Return the plot at each distance; the first one where it begins farther away."""
    return np.clip(np.searchsorted(houses.start, z, side="right") - 1, 0, None)


def render_houses(canvas: Canvas, houses: Houses, side: int) -> None:
    """Paint the ends of houses that stand free or stand out, far to near, then the walls along the street."""
    for plot in range(PLOTS - 1, 0, -1):
        z = float(houses.start[plot])
        # The house before it covers this one's end, unless it is lower.
        if z > 2 and houses.height[plot] > houses.height[plot - 1]:
            _render_end(canvas, houses, plot, side)
    _render_front(canvas, houses, side)


def _render_end(canvas: Canvas, houses: Houses, plot: int, side: int) -> None:
    """Paint the wall of a house that faces the camera."""
    z, height = float(houses.start[plot]), float(houses.height[plot])
    middle = side * (canvas.wall + HALF_DEPTH) - canvas.drift
    window, x, y = canvas.upright(middle, z, half_width=HALF_DEPTH, top=height)
    inside = (abs(x) < HALF_DEPTH) & (y > 0) & (y < height)
    _render_facade(
        canvas, houses, _Wall(window, inside, z, along=x + HALF_DEPTH, up=y, plot=np.array([plot]), shade=0.92)
    )


def _render_front(canvas: Canvas, houses: Houses, side: int) -> None:
    """Paint the walls along the street, all of them at once: each column of the picture meets one of them."""
    columns = slice(canvas.center, None) if side > 0 else slice(0, canvas.center)
    z = np.minimum((side * canvas.wall - canvas.drift) / canvas.right[:, columns], 2 * FAR)
    y = canvas.eye - canvas.down * z
    plot = plots_at(houses, z[0])
    inside = (y > 0) & (y < houses.height[plot]) & (z < FAR)
    shade = 1 - 0.6 * canvas.light.sun * (side == canvas.sun_side)
    _render_facade(canvas, houses, _Wall((slice(None), columns), inside, z, along=z, up=y, plot=plot, shade=shade))


def _render_facade(canvas: Canvas, houses: Houses, wall: _Wall) -> None:
    """Paint plaster, windows in frames, shops under awnings and a cornice."""
    plot, shade = wall.plot, wall.shade
    bays = wall.along / houses.bay[plot]
    stories = wall.up / houses.story[plot]
    bay, story = np.floor(bays), np.floor(stories)
    from_bay_middle = abs(bays - bay - 0.5)
    from_story_middle = abs(stories - story - 0.5)
    is_shop = story == 0
    is_below_cornice = wall.up < houses.height[plot] - 0.5
    half_width = np.where(is_shop, 0.43, houses.window_half_width[plot])
    half_height = np.where(is_shop, 0.33, houses.window_half_height[plot])
    frame = (from_bay_middle < half_width + 0.05) & (from_story_middle < half_height + 0.04) & is_below_cornice
    # A bar down the middle parts the pane in two.
    pane = (from_bay_middle < half_width) & (from_bay_middle > 0.015) & (from_story_middle < half_height)
    pane &= is_below_cornice
    window_noise = noise(bay * 89 + 31 * plot.astype(np.float32), story * 57)  # a number for each window
    is_lit = window_noise < canvas.light.lamps
    plaster = shade * (0.8 + 0.35 * noise(wall.along * 11, wall.up * 11))
    canvas.paint(
        wall.window,
        wall.inside,
        label=BUILDING,
        depth=wall.depth,
        layers=[
            (True, houses.wall.take(plot, axis=2) * plaster),
            (frame, 190 * shade),
            (pane, canvas.light.horizon * (0.15 + 0.45 * window_noise)),
            (pane & is_lit, to_rgb((235, 185, 110)) * (0.7 + window_noise) / canvas.tint),
            (is_shop & (stories > 0.8), houses.awning.take(plot, axis=2) * shade),
            (~is_below_cornice, 80 * shade),
        ],
    )
