"""A street with its camera and its light, the dice that make them, and the picture so far.

Lengths are in meters: x to the right of the camera, y up from the ground, z away from the camera. Colors are RGB
0..255 in arrays (3, 1, 1) or (3, h, w), h x w being the window that is painted; what varies along one of its sides
only is (1, w) or (h, 1).
"""

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from segdistill.data.datasets.streets._light import TIMES, Color, Floats, to_rgb
from segdistill.data.datasets.streets.classes import SIDEWALK, SKY

FAR = 150.0
"""Distance beyond which nothing but sky and skyline is seen."""

Mask = npt.NDArray[np.bool_]
Window = tuple[slice, slice]
"""Rows and columns of the picture."""
Layer = tuple[Mask | bool, Floats | Color | float]
"""Pixels to paint, and their color."""
EVERYWHERE: Window = (slice(None), slice(None))
T = TypeVar("T")


class Canvas:
    """The image that the parts of a scene are painted on, and the random numbers that they draw, in a fixed order."""

    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        self.rng = rng
        self.light = self.choose(TIMES)
        self.tint = self.jitter(self.light.tint, 0.12) * self.between(0.85, 1.15)
        self.sun_side = self.choose((-1, 1))
        # The street in cross section, from its middle outwards: edge of the road, of the sidewalk, and the houses.
        self.road = self.between(3.5, 7.0)
        self.walk = self.road + self.between(1.6, 4.0)
        self.wall = self.walk + max(self.between(-2.0, 4.0), 0.0)
        self.crossing = self.between(14.0, 90.0)  # where a side street begins
        # The camera: height of its eye, place right of the middle of the street, and how far it sees to the sides.
        self.eye = self.between(1.3, 2.6)
        self.drift = self.road * self.between(-0.6, 0.8)
        self.pixel = 1 / (self.between(0.7, 1.0) * math.sqrt(height * width))  # in meters, one meter away
        self.horizon = int(height * self.between(0.36, 0.52))
        self.center = int(width * self.between(0.3, 0.7))
        # The ray through each pixel: x / z of its column (1, W), and -y / z of its row (H, 1).
        self.right = self.pixel * (np.arange(width, dtype=np.float32) + 0.5 - self.center)[None]
        self.down = self.pixel * (np.arange(height, dtype=np.float32) + 0.5 - self.horizon)[:, None]
        # The picture.
        self.rgb = np.zeros((3, height, width), np.float32)
        self.halo = np.zeros((3, height, width), np.float32)
        self.label = np.full((height, width), SKY, np.uint8)
        self.depth = np.full((height, width), 2 * FAR, np.float32)

    def between(self, low: float, high: float) -> float:
        """Draw a number evenly from a range."""
        return low + (high - low) * self.rng.random()  # Generator.uniform may fuse the two operations

    def chance(self, probability: float) -> bool:
        """Draw whether something happens."""
        return self.rng.random() < probability

    def choose(self, options: Sequence[T]) -> T:
        """Draw one of several things."""
        return options[int(self.rng.integers(len(options)))]

    def jitter(self, color: Floats | float, spread: float) -> Floats:
        """Draw a color near another one: each channel at most half of `spread` away."""
        return color + spread * (self.rng.random((3, 1, 1), dtype=np.float32) - 0.5)

    def crop(self, *, left: float, right: float, top: float, bottom: float) -> tuple[Window, Floats, Floats]:
        """Return the window between these x / z and -y / z, and both at its pixels."""
        first_row = max(int(top / self.pixel + self.horizon), 0)
        last_row = max(int(bottom / self.pixel + self.horizon) + 1, 0)
        first_column = max(int(left / self.pixel + self.center), 0)
        last_column = max(int(right / self.pixel + self.center) + 1, 0)
        rows, columns = slice(first_row, last_row), slice(first_column, last_column)
        return (rows, columns), self.right[:, columns], self.down[rows]

    def upright(
        self, x: float, z: float, *, half_width: float, top: float, bottom: float = 0
    ) -> tuple[Window, Floats, Floats]:
        """Return the window of an upright rectangle, and meters from its middle and from the ground."""
        window, right, down = self.crop(
            left=(x - half_width) / z,
            right=(x + half_width) / z,
            top=(self.eye - top) / z,
            bottom=(self.eye - bottom) / z,
        )
        return window, right * z - x, self.eye - down * z

    def level(self, x: float, *, near: float, far: float, half_width: float, y: float) -> tuple[Window, Floats, Floats]:
        """Return the window of a level rectangle below the camera, meters from its middle line and from the camera."""
        # What lies left of the camera is farthest left at its near end, what lies right of it at its far end.
        left = (x - half_width) / (near if x < half_width else far)
        right = (x + half_width) / (far if x < -half_width else near)
        drop = self.eye - y
        window, right_of, down = self.crop(left=left, right=right, top=drop / far, bottom=drop / near)
        return window, right_of * (drop / down) - x, drop / down

    def paint(
        self, window: Window, inside: Mask, *, label: int, depth: float | Floats, layers: Sequence[Layer]
    ) -> None:
        """Cover what is `inside` with layers of color, each where its mask says, from the lowest one up."""
        for mask, color in layers:
            ink = color if isinstance(color, np.ndarray) else to_rgb(color)
            np.copyto(self.rgb[:, *window], ink, where=inside & mask)
        np.copyto(self.label[window], np.uint8(label), where=inside)
        np.copyto(self.depth[window], depth, where=inside)

    def shadow(self, x: float, z: float, *, half_width: float, half_depth: float, darkness: float) -> None:
        """Darken road and sidewalk in an ellipse."""
        near = max(z - half_depth, 1.0)
        window, from_middle, away = self.level(x, near=near, far=z + half_depth, half_width=half_width, y=0)
        across = from_middle / half_width
        along = (away - z) / half_depth
        shade = 1 - darkness * np.clip(1.6 - 1.6 * (across * across + along * along), 0, 1)
        is_paved = self.label[window] <= SIDEWALK
        np.multiply(self.rgb[:, *window], shade, out=self.rgb[:, *window], where=is_paved)

    def shine(self, x: float, y: float, z: float, *, radius: float, color: Color) -> None:
        """Add the halo of a lamp."""
        across = (self.right * z - x) / radius
        rise = (self.eye - y - self.down * z) / radius
        self.halo += to_rgb(color) / (1 + across * across + rise * rise)
