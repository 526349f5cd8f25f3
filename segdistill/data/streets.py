"""Streets: road scenes drawn from an index, the data set that needs no download.

A pinhole camera looks along a straight street. Sky, ground and walls are found by casting a ray per pixel, what stands
on the street is painted over them from far to near, and a photograph is taken of the result: light, haze, blur, noise.
Colours overlap between the classes, so that shape, texture and place have to be learnt.

The bytes are the same on every machine: numbers come from PCG64 through `random` and `integers` alone, and only
operations that IEEE 754 rounds exactly touch them (no sin, exp or power, no sum whose order a machine may choose).

Lengths are in metres: x to the right of the camera, y up from the ground, z away from the camera. Colours are RGB
0..255 in arrays (3, 1, 1) or (3, h, w), h x w being the window that is painted; what varies along one of its sides
only is (1, w) or (h, 1).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from segdistill.data._base import DataSource, Sample
from segdistill.errors import UsageError
from segdistill.types import IGNORE

CLASSES = ("road", "sidewalk", "building", "pole", "vegetation", "sky", "person", "car")
"""A pole may carry a sign or lamps, and vegetation is trees and grass."""
ROAD, SIDEWALK, BUILDING, POLE, VEGETATION, SKY, PERSON, CAR = range(8)
PALETTE = (
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (153, 153, 153),
    (107, 142, 35), (70, 130, 180), (220, 20, 60), (0, 0, 142),
)  # fmt: skip
"""Cityscapes' colours."""
MIN_SIDE = 32

Floats = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]
Colour = tuple[float, float, float]
Window = tuple[slice, slice]
Layer = tuple[Mask | bool, Floats | Colour | float]
T = TypeVar("T")


def _rgb(colour: Colour | float) -> Floats:
    return np.asarray(colour, np.float32).reshape(-1, 1, 1)


_FAR = 150.0
_WALLS = tuple(map(_rgb, (
    (150, 75, 60), (205, 185, 150), (135, 135, 138), (180, 150, 115), (95, 98, 108), (160, 175, 190), (222, 218, 210),
    (110, 80, 65), (140, 150, 120), (190, 120, 90),
)))  # fmt: skip
_LEAVES = tuple(map(_rgb, ((70, 105, 45), (95, 120, 50), (50, 85, 55), (150, 125, 45), (140, 80, 45), (105, 100, 70))))


class _Light(NamedTuple):
    zenith: Floats
    horizon: Floats
    tint: Floats  # factors of what does not shine by itself
    sun: float  # how dark shadows are
    lamps: float  # the share of windows that are lit


_DAY = _Light(_rgb((62, 122, 208)), _rgb((188, 214, 240)), _rgb((1.08, 1.04, 0.98)), 0.5, 0.0)
_GREY = _Light(_rgb((150, 160, 172)), _rgb((214, 217, 220)), _rgb((0.86, 0.88, 0.92)), 0.12, 0.1)
_DUSK = _Light(_rgb((66, 74, 132)), _rgb((250, 170, 112)), _rgb((0.92, 0.72, 0.62)), 0.35, 0.35)
_NIGHT = _Light(_rgb((12, 17, 40)), _rgb((56, 52, 78)), _rgb((0.32, 0.34, 0.46)), 0.0, 0.55)


class _Scene:
    """A street, its camera and light, the dice that make them, and the picture so far."""

    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        self.rng = rng
        self.light = self.choose((_DAY, _DAY, _DAY, _GREY, _GREY, _DUSK, _DUSK, _NIGHT))
        self.tint = self.jitter(self.light.tint, 0.12) * self.between(0.85, 1.15)
        self.sun_side = self.choose((-1, 1))
        self.road = self.between(3.5, 7.0)  # from the middle of the street to its edge,
        self.walk = self.road + self.between(1.6, 4.0)  # to the outer edge of the sidewalk
        self.wall = self.walk + max(self.between(-2.0, 4.0), 0.0)  # and to the houses
        self.crossing = self.between(14.0, 90.0)  # where a side street begins
        self.eye = self.between(1.3, 2.6)
        self.drift = self.road * self.between(-0.6, 0.8)  # of the camera, from the middle of the street
        self.pixel = 1 / (self.between(0.7, 1.0) * math.sqrt(height * width))  # in metres, one metre away
        self.horizon, self.centre = int(height * self.between(0.36, 0.52)), int(width * self.between(0.3, 0.7))
        self.right = self.pixel * (np.arange(width, dtype=np.float32) + 0.5 - self.centre)[None]  # (1, W), x / z
        self.down = self.pixel * (np.arange(height, dtype=np.float32) + 0.5 - self.horizon)[:, None]  # (H, 1), -y / z
        self.rgb = np.zeros((3, height, width), np.float32)
        self.halo = np.zeros((3, height, width), np.float32)
        self.label = np.full((height, width), SKY, np.uint8)
        self.depth = np.full((height, width), 2 * _FAR, np.float32)

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.rng.random()  # Generator.uniform may fuse the two operations

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def choose(self, options: Sequence[T]) -> T:
        return options[int(self.rng.integers(len(options)))]

    def jitter(self, colour: Floats | float, spread: float) -> Floats:
        return colour + spread * (self.rng.random((3, 1, 1), dtype=np.float32) - 0.5)

    def crop(self, left: float, right: float, top: float, bottom: float) -> tuple[Window, Floats, Floats]:
        """Return the window between these x / z and -y / z, and both at its pixels."""
        rows = slice(max(int(top / self.pixel + self.horizon), 0), max(int(bottom / self.pixel + self.horizon) + 1, 0))
        cols = slice(max(int(left / self.pixel + self.centre), 0), max(int(right / self.pixel + self.centre) + 1, 0))
        return (rows, cols), self.right[:, cols], self.down[rows]

    def upright(self, x: float, z: float, half: float, top: float, low: float = 0) -> tuple[Window, Floats, Floats]:
        """Return the window of an upright rectangle, and metres from its middle and from the ground."""
        window, right, down = self.crop((x - half) / z, (x + half) / z, (self.eye - top) / z, (self.eye - low) / z)
        return window, right * z - x, self.eye - down * z

    def level(self, x: float, near: float, far: float, half: float, y: float) -> tuple[Window, Floats, Floats]:
        """Return the window of a level rectangle below the camera, metres from its middle line and from the camera."""
        left, right = (x - half) / (near if x < half else far), (x + half) / (far if x < -half else near)
        drop = self.eye - y
        window, right_of, down = self.crop(left, right, drop / far, drop / near)
        return window, right_of * (drop / down) - x, drop / down

    def paint(self, window: Window, inside: Mask, label: int, depth: float | Floats, *layers: Layer) -> None:
        """Cover what is `inside` with layers of colour, each where its mask says."""
        for mask, colour in layers:
            ink = colour if isinstance(colour, np.ndarray) else _rgb(colour)
            np.copyto(self.rgb[:, *window], ink, where=inside & mask)
        np.copyto(self.label[window], np.uint8(label), where=inside)
        np.copyto(self.depth[window], depth, where=inside)

    def shadow(self, x: float, z: float, half: float, deep: float, dark: float) -> None:
        """Darken road and sidewalk in an ellipse."""
        window, u, away = self.level(x, max(z - deep, 1.0), z + deep, half, 0)
        across, along = u / half, (away - z) / deep
        shade = 1 - dark * np.clip(1.6 - 1.6 * (across * across + along * along), 0, 1)
        np.multiply(self.rgb[:, *window], shade, out=self.rgb[:, *window], where=self.label[window] <= SIDEWALK)

    def shine(self, x: float, y: float, z: float, radius: float, colour: Colour) -> None:
        """Add the halo of a lamp."""
        across, rise = (self.right * z - x) / radius, (self.eye - y - self.down * z) / radius
        self.halo += _rgb(colour) / (1 + across * across + rise * rise)


def render(index: int, split: str, size: tuple[int, int]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Draw one scene.

    Args:
        index: which scene, from 0; there is no last one.
        split: "train", "val", ...; each is a stream of its own.
        size: (H, W).

    Returns:
        The image (H, W, 3) in RGB, and the label (H, W): indices of `CLASSES`, or IGNORE.

    Raises:
        UsageError: if a side is shorter than 32 pixels.
    """
    if min(size) < MIN_SIDE:
        raise UsageError("Size {}x{} is too small for a street.".format(*size), f"Use at least {MIN_SIDE}x{MIN_SIDE}.")
    scene = _Scene(np.random.Generator(np.random.PCG64([index, int.from_bytes(split.encode(), "big")])), *size)
    houses = {side: _houses(scene) for side in (-1, 1)}
    _sky(scene)
    _skyline(scene)
    _ground(scene, houses[scene.sun_side])
    for side in (-1, 1):
        _row_of_houses(scene, houses[side], side)
    for z, x, draw in sorted(_things(scene), key=lambda thing: -thing[0]):
        draw(scene, x - scene.drift, z)
    _hood(scene)
    return _photograph(scene), scene.label


@cache
def _table() -> Floats:
    """Fractal noise (256, 256) that tiles, its values spread evenly over [0, 1)."""
    rng = np.random.Generator(np.random.PCG64(0))
    total, weight = np.zeros((256, 256), np.float32), 1.0
    for cells in (4, 8, 16, 32, 64, 128, 256):
        grid: Floats = rng.random((cells, cells), dtype=np.float32)
        repeat = 256 // cells
        part = np.tile(np.arange(repeat, dtype=np.float32) / repeat, cells)[:, None]
        for _ in range(2):  # linear between the cells, along one axis and then along the other
            here, there = np.repeat(grid, repeat, 0), np.repeat(np.roll(grid, -1, 0), repeat, 0)
            grid = (here + (there - here) * part).T
        total += weight * grid
        weight *= 0.7
    even = np.empty(total.size, np.float32)
    even[np.argsort(total, axis=None, kind="stable")] = np.arange(total.size, dtype=np.float32) / total.size
    return even.reshape(total.shape)


def _noise(across: Floats, down: Floats) -> Floats:
    places = ((down.astype(np.intp) & 255) << 8) + (across.astype(np.intp) & 255)
    return _table().take(places, mode="wrap")  # the fastest mode: it has no bounds to check


def _fraction(value: Floats) -> Floats:
    return value - np.floor(value)


def _sky(scene: _Scene) -> None:
    """Draw a gradient, the glow of the sun, and clouds that flatten towards the horizon."""
    zenith, horizon = scene.light.zenith, scene.light.horizon
    low = np.clip(1 - scene.down / scene.down[0], 0, 1)  # 0 at the top, 1 at the horizon
    x, y = scene.right - 0.6 * scene.between(-1, 1), scene.down + 0.5 * scene.between(0, 0.5)
    glow = scene.light.sun * 0.02 / (0.02 + x * x + y * y)
    sky = zenith + (horizon - zenith) * (low * low) + _rgb((250, 200, 130)) * glow
    cloud = _noise((scene.right + 4) * scene.between(60, 150), 70 / (1.2 - low) + scene.between(0, 256))
    sky += (1.06 * horizon - sky) * np.clip((cloud - scene.between(0.2, 1.0)) * 2.5, 0, 0.85)
    scene.rgb[:] = sky / scene.tint


def _skyline(scene: _Scene) -> None:
    """Draw far houses or woods."""
    woods = scene.chance(0.5)
    place = (scene.right + 4) * 200 + scene.between(0, 256)
    if not woods:
        place = np.floor(place / 9) * 47
    height = scene.eye + (3 + 13 * _noise(place, np.zeros_like(place))) * scene.between(0.5, 1.5)
    inside = (-scene.down * _FAR < height) & (scene.down < 0)
    colour = scene.jitter(scene.choose(_LEAVES if woods else _WALLS), 30)
    colour = colour * (0.7 + 0.5 * _noise(place * 8, scene.down * 300))
    scene.paint((slice(None), slice(None)), inside, VEGETATION if woods else BUILDING, _FAR, (True, colour))


class _Houses(NamedTuple):
    """One side of the street, near to far: where a plot begins, the height of its house (or 0) and how that looks."""

    start: Floats
    height: Floats
    bay: Floats
    storey: Floats
    wide: Floats  # half of a window, in bays
    tall: Floats  # and in storeys
    wall: Floats  # (3, 1, plots), as the next
    awning: Floats


def _houses(scene: _Scene) -> _Houses:
    plots = 8

    def each(low: float, high: float, *shape: int) -> Floats:
        return low + (high - low) * scene.rng.random((*shape, plots), dtype=np.float32)

    start = np.add.accumulate(each(11, 28)) - scene.between(12, 30)
    height = each(5, 12) + each(0, 1) * scene.between(0, 14)
    height[(each(0, 1) < 0.15) | (abs(start - scene.crossing + 6) < 13)] = 0
    wall = np.concatenate([scene.jitter(scene.choose(_WALLS), 50) for _ in range(plots)], axis=2)
    return _Houses(
        start, height, each(1.8, 3.6), each(2.7, 3.6), each(0.16, 0.4), each(0.2, 0.36), wall, each(50, 210, 3, 1)
    )


def _row_of_houses(scene: _Scene, houses: _Houses, side: int) -> None:
    """Draw the ends of houses that stand free or stand out, far to near, then the walls along the street."""
    for plot in range(len(houses.start) - 1, 0, -1):
        z, height = float(houses.start[plot]), float(houses.height[plot])
        if z > 2 and height > houses.height[plot - 1]:
            window, x, y = scene.upright(side * (scene.wall + 6) - scene.drift, z, 6, height)
            _facade(scene, window, (abs(x) < 6) & (y > 0) & (y < height), z, x + 6, y, houses, np.array([plot]), 0.92)
    cols = slice(scene.centre, None) if side > 0 else slice(0, scene.centre)
    z = np.minimum((side * scene.wall - scene.drift) / scene.right[:, cols], 2 * _FAR)
    y = scene.eye - scene.down * z
    plots = np.clip(np.searchsorted(houses.start, z[0], side="right") - 1, 0, None)
    inside = (y > 0) & (y < houses.height[plots]) & (z < _FAR)
    shade = 1 - 0.6 * scene.light.sun * (side == scene.sun_side)
    _facade(scene, (slice(None), cols), inside, z, z, y, houses, plots, shade)


def _facade(
    scene: _Scene, window: Window, inside: Mask, depth: float | Floats, along: Floats, up: Floats, houses: _Houses,
    plot: npt.NDArray[np.intp], shade: float,
) -> None:  # fmt: skip
    """Paint plaster, windows in frames, shops under awnings and a cornice; `plot` says whose, per column."""
    bays, storeys = along / houses.bay[plot], up / houses.storey[plot]
    bay, storey = np.floor(bays), np.floor(storeys)
    side, rise = abs(bays - bay - 0.5), abs(storeys - storey - 0.5)
    shop, below = storey == 0, up < houses.height[plot] - 0.5
    wide, tall = np.where(shop, 0.43, houses.wide[plot]), np.where(shop, 0.33, houses.tall[plot])
    frame = (side < wide + 0.05) & (rise < tall + 0.04) & below
    pane = (side < wide) & (side > 0.015) & (rise < tall) & below
    some = _noise(bay * 89 + 31 * plot.astype(np.float32), storey * 57)  # a number for each window
    plaster = shade * (0.8 + 0.35 * _noise(along * 11, up * 11))
    scene.paint(
        window, inside, BUILDING, depth, (True, houses.wall.take(plot, axis=2) * plaster), (frame, 190 * shade),
        (pane, scene.light.horizon * (0.15 + 0.45 * some)),
        (pane & (some < scene.light.lamps), _rgb((235, 185, 110)) * (0.7 + some) / scene.tint),
        (shop & (storeys > 0.8), houses.awning.take(plot, axis=2) * shade), (~below, 80 * shade),
    )  # fmt: skip


def _ground(scene: _Scene, shading: _Houses) -> None:
    """Draw asphalt, markings, kerbs, sidewalks, gardens, a side street with a zebra crossing, the shadow of houses."""
    window = (slice(scene.horizon, None), slice(None))
    z = np.minimum(scene.eye / scene.down[scene.horizon :], 2 * _FAR)
    x = scene.right * z + scene.drift  # from the middle of the street
    side = abs(x)
    plot = np.clip(np.searchsorted(shading.start, z[:, 0], side="right") - 1, 0, None)
    shaded = scene.wall - scene.sun_side * x < shading.height[plot][:, None] * scene.between(0.2, 1.0)
    grain = (_noise(x * 37 + 8192, z * 37) - 0.5) / (1 + 0.05 * z) + 0.3 * (_noise(x * 7 + 8192, z) - 0.5)
    surface = (1 + 0.36 * grain) * np.where(shaded, np.float32(1 - scene.light.sun), np.float32(1))

    street = (z > scene.crossing) & (z < scene.crossing + 7)
    on_road = (side < scene.road) | street
    line = np.maximum(0.06, 0.5 * scene.pixel * z)  # never thinner than a pixel
    middle = (side < line) & (_fraction(z * 0.17) < 0.5)
    edges = (abs(side - scene.road + 0.35) < line) & scene.chance(0.6)
    lanes = (abs(side - scene.road / 2) < line) & (_fraction(z * 0.12) < 0.4) & scene.chance(0.4)
    zebra = (abs(z - scene.crossing + 3) < 1.5) & (_fraction(x) < 0.5)
    asphalt = scene.jitter(scene.between(70, 135), 24) * surface
    marks = asphalt + (scene.between(150, 240) - asphalt) * scene.between(0.4, 0.9)
    scene.paint(window, on_road, ROAD, z, (True, asphalt), (zebra | ((middle | edges | lanes) & ~street), marks))

    paved = ~on_road & ((side < scene.walk) | scene.chance(0.5))
    paving, slab = scene.jitter(scene.between(80, 175), 40) * surface, scene.between(0.5, 1.2)
    joint = ((_fraction(x / slab) < 0.07) | (_fraction(z / slab) < 0.07)) & (z < 25)
    kerb = (side < scene.road + 0.2, paving * 0.6 + 75)
    scene.paint(window, paved, SIDEWALK, z, (True, paving), (joint, paving * 0.82), kerb)
    grass = scene.jitter(scene.choose(_LEAVES), 30) * (surface * surface)
    scene.paint(window, ~on_road & ~paved, VEGETATION, z, (True, grass))


def _things(scene: _Scene) -> Iterator[tuple[float, float, Callable[[_Scene, float, float], None]]]:
    """Yield all that stands on the street: how far away, how far right of its middle, and who draws it."""

    def spaced(first: float, step: float, probability: float) -> Iterator[float]:
        z = first + scene.between(0, step)
        while z < 50:
            if scene.chance(probability) and not scene.crossing - 5 < z < scene.crossing + 7:
                yield z
            z += step * scene.between(0.8, 1.3)

    for side in (-1, 1):
        parked, trees, lamps = scene.between(-0.4, 0.8), scene.between(-0.1, 0.8), scene.between(0.3, 1)
        yield from ((z, side * (scene.road - 1.1), _car) for z in spaced(4, 6, parked))
        yield from ((z, side * scene.road / 2, _car) for z in spaced(8, 14, 0.5))
        yield from ((z, side * (scene.walk - 0.4), _tree) for z in spaced(5, 8, trees))
        yield from ((z, side * (scene.walk - 0.7), _bin) for z in spaced(5, 20, 0.4))
        yield from ((z, side * (scene.road + 0.4), _lamp_post) for z in spaced(4, 16, lamps))
        yield from ((z, side * (scene.road + 0.7), _sign) for z in spaced(5, 14, 0.6))
        for _ in range(scene.rng.integers(1, 6)):
            far = scene.rng.random()
            yield 4.5 + 25 * far * far, side * scene.between(scene.road + 0.4, scene.walk), _person
    for _ in range(scene.rng.integers(3)):
        yield scene.crossing - scene.between(2, 4), scene.between(-scene.road, scene.road), _person


class _Car(NamedTuple):
    x: float
    z: float  # of the near end
    long: float
    high: float
    waist: float
    nose: float  # from the end to the cabin
    rake: float  # of the cabin's panes, metres per metre
    paint: Floats
    glass: Floats


def _car(scene: _Scene, x: float, z: float) -> None:
    """Draw a box with wheels and windows."""
    van = scene.chance(0.2)
    high, nose, rake = (scene.between(1.9, 2.4), 0.1, 0.1) if van else (scene.between(1.35, 1.6), 0.6, 0.6)
    paint = scene.choose(_WALLS) if scene.chance(0.4) else scene.jitter(127, 215)
    glass = scene.light.horizon * scene.between(0.12, 0.4)
    car = _Car(x, z, scene.between(3.7, 4.9), high, high * 0.58, nose, rake, paint, glass)
    scene.shadow(x, z + car.long / 2, 1.25, car.long * 0.65, 0.8)
    _lid(scene, car, car.waist, 0)
    _lid(scene, car, high, nose + rake * (high - car.waist))
    if abs(x) > 0.9:
        _flank(scene, car, x - 0.9 if x > 0 else x + 0.9)
    _end(scene, car)


def _lid(scene: _Scene, car: _Car, y: float, inset: float) -> None:
    """Draw bonnet and boot, or the roof, where the camera looks down on them."""
    if y < scene.eye:
        near, far = car.z + inset, car.z + car.long - inset
        window, u, away = scene.level(car.x, near, far, 0.9, y)
        scene.paint(window, (abs(u) < 0.9) & (away > near) & (away < far), CAR, away, (True, car.paint * 1.1))


def _flank(scene: _Scene, car: _Car, x: float) -> None:
    """Draw the side of a car, in the plane at `x`."""
    far, rise = car.z + car.long, car.high - scene.eye
    left, right = sorted((x / car.z, x / far))
    window, right_of, down = scene.crop(left, right, -rise / (car.z if rise > 0 else far), scene.eye / car.z)
    away = x / right_of
    y, end = scene.eye - down * away, np.minimum(away - car.z, far - away)
    inset, axle = end - car.nose - (y - car.waist) * car.rake, end - 0.2 * car.long
    cabin, hull = (y >= car.waist) & (y < car.high) & (inset > 0), (y > 0.3) & (y < car.waist) & (end > 0)
    panes = cabin & (y < car.high - 0.12) & (inset > 0.15) & (end < car.long / 2 - 0.06)
    wheel = axle * axle + (y - 0.33) * (y - 0.33)
    tyre, hub, sill = (wheel < 0.11, 24), (wheel < 0.03, 140), (y < 0.45, car.paint * 0.6)
    scene.paint(window, cabin | hull | tyre[0], CAR, away, (True, car.paint), (panes, car.glass), sill, tyre, hub)


def _end(scene: _Scene, car: _Car) -> None:
    """Draw the near end of a car: the pane, which leans back, and below it the lamps."""
    window, _, _ = scene.upright(car.x, car.z + car.nose, 1.4, max(car.high, scene.eye), car.waist)
    right, down = scene.right[:, window[1]], scene.down[window[0]]
    away = (car.z + car.nose + car.rake * (scene.eye - car.waist)) / (1 + car.rake * down)
    side, up = abs(right * away - car.x), scene.eye - down * away
    inside, pane = (side < 0.9) & (up > car.waist) & (up < car.high), (side < 0.8) & (up < car.high - 0.1)
    scene.paint(window, inside, CAR, car.z, (True, car.paint * 0.95), (pane, car.glass))

    window, u, y = scene.upright(car.x, car.z, 0.9, car.waist)
    u, lamps_y, coming, on = abs(u), car.waist - 0.2, car.x + scene.drift < 0, scene.light.lamps > 0.2
    inside = (u < 0.9) & (y < car.waist) & ((y > 0.3) | ((u > 0.62) & (y > 0)))
    bumper, tyres = (y < 0.5, car.paint * 0.55), (y < 0.3, 22)
    plate = ((u < 0.26) & (abs(y - 0.55) < 0.07), 215)
    shine = _rgb((245, 240, 220) if coming else (190, 25, 25)) / (scene.tint if on else 1)
    lamps = ((u > 0.55) & (abs(y - lamps_y) < 0.1), shine)
    scene.paint(window, inside, CAR, car.z, (True, car.paint * 0.9), bumper, plate, tyres, lamps)
    for x in (car.x - 0.7, car.x + 0.7) if on else ():
        scene.shine(x, lamps_y, car.z, 0.25, (230, 220, 190) if coming else (150, 10, 10))


def _person(scene: _Scene, x: float, z: float) -> None:
    size = scene.between(0.7, 1.08)
    scene.shadow(x, z, 0.5, 0.4, 0.5)
    window, u, y = scene.upright(x, z, 0.45 * size, 1.75 * size)
    u, y = abs(u) / size, y / size
    stride = scene.between(0, 0.25) * np.clip(0.85 - y, 0, None)
    head = u * u + (y - 1.6) * (y - 1.6) < 0.016
    legs = (abs(u - 0.09 - stride) < 0.085) & (y < 0.87) & (y > 0)
    trunk = (u < 0.17 + 0.06 * (y - 0.8)) & (y > 0.8) & (y < 1.47)
    arms = (abs(u - 0.25 + 0.07 * (y - 0.8)) < 0.05) & (y > 0.8) & (y < 1.43)
    coat, trousers, hair = scene.jitter(127, 225), scene.jitter(75, 130), scene.jitter(55, 90)
    skin = _rgb((235, 190, 160)) * scene.between(0.35, 1)
    layers = ((True, coat), (legs, trousers), (head, skin), (head & (y > 1.63), hair), (y < 0.07, 25))
    scene.paint(window, head | legs | trunk | arms, PERSON, z, *layers)


def _tree(scene: _Scene, x: float, z: float) -> None:
    high, wide = scene.between(3, 8), scene.between(1.0, 2.4)
    stem = high * scene.between(0.15, 0.45)
    scene.shadow(x - scene.sun_side * 0.8, z, wide, wide * 0.8, scene.light.sun)
    window, u, y = scene.upright(x, z, wide * 1.3, high * 1.1)
    start = scene.between(4096, 8192)
    leaf, clump = _noise(u * 34 + start, y * 34), _noise(u * 9 + start, y * 9)
    away = np.full(leaf.shape, 9, np.float32)
    for _ in range(6):  # the crown is made of balls
        right, up, radius = wide * scene.between(-0.6, 0.6), scene.between(0.3, 0.75), scene.between(0.35, 0.6)
        across, rise = (u - right) / (wide * radius), ((y - stem) / (high - stem) - up) / (radius * 0.7)
        away = np.minimum(away, across * across + rise * rise)
    crown = away < 0.5 + 0.5 * leaf + 0.4 * clump
    trunk = (abs(u) < 0.03 * high) & (y > 0) & (y < high * 0.6)
    green = scene.jitter(scene.choose(_LEAVES), 50) * (0.32 + 0.4 * leaf + 0.5 * clump + 0.25 * y / high)
    scene.paint(window, crown | trunk, VEGETATION, z, (True, (82, 62, 48)), (crown, green))


def _lamp_post(scene: _Scene, x: float, z: float) -> None:
    high, arm, on = scene.between(4.5, 7), -1.3 if x + scene.drift > 0 else 1.3, scene.light.lamps > 0.2
    thick, metal = max(0.09, 0.5 * scene.pixel * z), scene.jitter(scene.between(40, 170), 30)
    window, u, y = scene.upright(x, z, 1.6, high)
    reach, drop = u / arm, high - thick - y
    post, bar = (abs(u) < thick) & (drop > -thick) & (y > 0), (abs(drop) < thick) & (reach > 0) & (reach < 1)
    head = (abs(drop - 0.1) < thick + 0.05) & (reach > 0.7) & (reach < 1.15)
    lamp = _rgb((255, 225, 165)) / scene.tint if on else metal * 1.2
    scene.paint(window, post | bar | head, POLE, z, (True, metal), (head, lamp))
    if on:
        scene.shine(x + arm, high - 0.2, z, 0.5, (230, 180, 100))


def _sign(scene: _Scene, x: float, z: float) -> None:
    """Draw a round, a triangular or a square sign, or traffic lights."""
    window, u, y = scene.upright(x, z, 0.5, 3.1)
    u, up = abs(u), y - 2.6
    disc = u * u + up * up
    red, blue, white, dark = (195, 30, 35), (30, 70, 165), (235, 235, 235), (35, 35, 35)
    shape, rim, inner, face = scene.choose((
        (disc < 0.18, red, disc < 0.1, white),
        (u < 0.25 - 0.55 * up, red, (u < 0.1 - 0.5 * up) & (up > -0.32), white),
        (u < 0.38, white, (u < 0.3) & (abs(up) < 0.34), blue),
        (u < 0.2, dark, disc < 0.02, scene.choose(((230, 50, 40), (60, 210, 90)))),
    ))  # fmt: skip
    plate = shape & (abs(up) < 0.42)
    stick = (u < max(0.06, 0.5 * scene.pixel * z)) & (y > 0) & (up < 0)
    scene.paint(window, plate | stick, POLE, z, (True, scene.jitter(120, 40)), (plate, rim), (plate & inner, face))


def _bin(scene: _Scene, x: float, z: float) -> None:
    """Draw a litter bin: none of the classes, so it is not labelled."""
    window, u, y = scene.upright(x, z, 0.35, 1.05)
    colour = scene.jitter(80, 90)
    inside = (abs(u) < 0.25 + 0.08 * y) & (y > 0) & (y < 1)
    scene.paint(window, inside, IGNORE, z, (True, colour), (y > 0.85, colour * 0.6))


def _hood(scene: _Scene) -> None:
    """Draw the bonnet of the camera's own car, in some scenes; not labelled."""
    if scene.chance(0.4):
        across, low = scene.right / scene.right[0, -1], scene.down / scene.down[-1, 0]
        deep = low - scene.between(0.82, 0.93) - 0.15 * across * across
        colour = scene.jitter(scene.between(20, 120), 60) * (0.6 + 4 * np.clip(0.1 - deep, 0, 0.1))
        scene.paint((slice(None), slice(None)), deep > 0, IGNORE, 30, (True, colour))


def _photograph(scene: _Scene) -> npt.NDArray[np.uint8]:
    """Light the scene and take the picture (H, W, 3): head lamps, haze, halos, blur, exposure, noise."""
    beam = scene.light.lamps * 0.8 / (1 + 0.01 * scene.depth * scene.depth)
    rgb: Floats = scene.rgb * (scene.tint + beam)
    clear = 1 / (1 + scene.depth * (scene.between(0, 0.01) * scene.between(0, 1)))
    rgb = scene.light.horizon + (rgb - scene.light.horizon) * clear + scene.halo
    for _ in range(scene.choose((1, 1, 2))):
        rgb[:, 1:-1] = 0.25 * (rgb[:, :-2] + rgb[:, 2:]) + 0.5 * rgb[:, 1:-1]
        rgb[:, :, 1:-1] = 0.25 * (rgb[:, :, :-2] + rgb[:, :, 2:]) + 0.5 * rgb[:, :, 1:-1]
    grain = scene.rng.random(rgb.shape, dtype=np.float32) + scene.rng.random(rgb.shape, dtype=np.float32) - 1
    rgb = rgb * scene.between(0.9, 1.1) + grain * scene.between(4, 20)
    return np.ascontiguousarray(np.clip(rgb, 0, 255).astype(np.uint8).transpose(1, 2, 0))


SIZE = (96, 128)
LENGTHS = {"train": 500, "val": 64}
VERSION = 1
"""Counts the changes to what is drawn."""


@dataclass(frozen=True)
class _Scenes:
    """The first scenes of a split's stream; see `Split`."""

    split: str
    names: tuple[str, ...]
    fingerprint: str

    def read(self, index: int) -> Sample:
        image, label = _drawn(index, self.split)
        return Sample(image, label, self.names[index])

    def digest(self, index: int) -> bytes:
        return f"{self.fingerprint} {index}".encode()


def load(path: str) -> DataSource:
    """Return the streets; they lie in no folder."""
    if path:
        raise UsageError(f"streets is built in: there is nothing to read in {path}.", "Write --data streets.")
    splits = {
        split: _Scenes(split, tuple(f"{split}/{i:04}" for i in range(length)), f"{VERSION} {split} {length} {SIZE}")
        for split, length in LENGTHS.items()
    }
    return DataSource("streets", CLASSES, PALETTE, splits, generated=True)


@cache
def _drawn(index: int, split: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Draw a scene once per process: 500 of them take 25 MB, drawing one takes some 10 ms."""
    return render(index, split, SIZE)
