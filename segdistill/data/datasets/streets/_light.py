"""Times of day, and the colors of walls and leaves in plain daylight."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Color = tuple[float, float, float]


def to_rgb(color: Color | float) -> Floats:
    """Return a color, or a gray, as an array (3, 1, 1) or (1, 1, 1) that goes with windows (3, h, w)."""
    return np.asarray(color, np.float32).reshape(-1, 1, 1)


class Light(NamedTuple):
    """A time of day."""

    zenith: Floats
    """Color of the sky above."""
    horizon: Floats
    """Color of the sky at the horizon, of haze, and of what windows mirror."""
    tint: Floats
    """Factors of what does not shine by itself."""
    sun: float
    """Darkness of shadows, 0..1."""
    lamps: float
    """Share of windows that are lit; above `LAMPS_ON`, lamps are too."""


LAMPS_ON = 0.2
DAY = Light(to_rgb((62, 122, 208)), to_rgb((188, 214, 240)), to_rgb((1.08, 1.04, 0.98)), sun=0.5, lamps=0.0)
GRAY = Light(to_rgb((150, 160, 172)), to_rgb((214, 217, 220)), to_rgb((0.86, 0.88, 0.92)), sun=0.12, lamps=0.1)
DUSK = Light(to_rgb((66, 74, 132)), to_rgb((250, 170, 112)), to_rgb((0.92, 0.72, 0.62)), sun=0.35, lamps=0.35)
NIGHT = Light(to_rgb((12, 17, 40)), to_rgb((56, 52, 78)), to_rgb((0.32, 0.34, 0.46)), sun=0.0, lamps=0.55)
TIMES = (DAY, DAY, DAY, GRAY, GRAY, DUSK, DUSK, NIGHT)
"""Times of day to choose from, the usual ones more often."""

WALLS = tuple(map(to_rgb, (
    (150, 75, 60), (205, 185, 150), (135, 135, 138), (180, 150, 115), (95, 98, 108), (160, 175, 190), (222, 218, 210),
    (110, 80, 65), (140, 150, 120), (190, 120, 90),
)))  # fmt: skip
"""Plaster, brick and concrete; cars have some of these colors too, so that color does not give the class away."""
LEAVES = tuple(map(to_rgb, (
    (70, 105, 45), (95, 120, 50), (50, 85, 55), (150, 125, 45), (140, 80, 45), (105, 100, 70),
)))  # fmt: skip
"""Green, and brown in autumn."""
