"""Cars: a box with wheels and windows, of which the camera sees lids from above, one flank and the near end."""

from typing import NamedTuple

import numpy as np

from segdistill.data.datasets.streets._canvas import Canvas, Layer
from segdistill.data.datasets.streets._light import LAMPS_ON, WALLS, Color, Floats, to_rgb
from segdistill.data.datasets.streets.classes import CAR

HALF_WIDTH = 0.9


class _Car(NamedTuple):
    """A car; lengths in meters."""

    x: float
    z: float
    """Distance of the near end."""
    length: float
    height: float
    waist: float
    """Height of the hull, on which the cabin stands."""
    nose: float
    """Length from the end to the cabin."""
    rake: float
    """Lean of the cabin's panes, meters per meter."""
    paint: Floats
    glass: Floats


def render_car(canvas: Canvas, x: float, z: float) -> None:
    """Paint a sedan or a van, which is higher and steeper."""
    if canvas.chance(0.2):
        height, nose, rake = canvas.between(1.9, 2.4), 0.1, 0.1
    else:
        height, nose, rake = canvas.between(1.35, 1.6), 0.6, 0.6
    paint = canvas.choose(WALLS) if canvas.chance(0.4) else canvas.jitter(127, 215)
    glass = canvas.light.horizon * canvas.between(0.12, 0.4)
    length = canvas.between(3.7, 4.9)
    car = _Car(x, z, length, height=height, waist=height * 0.58, nose=nose, rake=rake, paint=paint, glass=glass)
    canvas.shadow(x, z + length / 2, half_width=1.25, half_depth=length * 0.65, darkness=0.8)
    _render_lid(canvas, car, car.waist, inset=0)
    _render_lid(canvas, car, height, inset=nose + rake * (height - car.waist))
    if abs(x) > HALF_WIDTH:  # else the camera is behind it and sees no flank
        _render_flank(canvas, car, x - HALF_WIDTH if x > 0 else x + HALF_WIDTH)
    _render_panes(canvas, car)
    _render_near_end(canvas, car)


def _render_lid(canvas: Canvas, car: _Car, y: float, *, inset: float) -> None:
    """Paint bonnet and boot, or the roof, where the camera looks down on them."""
    if y >= canvas.eye:
        return
    near, far = car.z + inset, car.z + car.length - inset
    window, across, away = canvas.level(car.x, near=near, far=far, half_width=HALF_WIDTH, y=y)
    inside = (abs(across) < HALF_WIDTH) & (away > near) & (away < far)
    canvas.paint(window, inside, label=CAR, depth=away, layers=[(True, car.paint * 1.1)])


def _render_flank(canvas: Canvas, car: _Car, x: float) -> None:
    """Paint the side of a car, in the plane at `x`."""
    far = car.z + car.length
    above_eye = car.height - canvas.eye
    left, right = sorted((x / car.z, x / far))
    # Seen from below, the near end of the roof is highest in the picture; seen from above, its far end.
    top = -above_eye / (car.z if above_eye > 0 else far)
    window, right_of, down = canvas.crop(left=left, right=right, top=top, bottom=canvas.eye / car.z)
    away = x / right_of
    y = canvas.eye - down * away
    from_end = np.minimum(away - car.z, far - away)
    inset = from_end - car.nose - (y - car.waist) * car.rake
    from_axle = from_end - 0.2 * car.length
    cabin = (y >= car.waist) & (y < car.height) & (inset > 0)
    hull = (y > 0.3) & (y < car.waist) & (from_end > 0)
    panes = cabin & (y < car.height - 0.12) & (inset > 0.15) & (from_end < car.length / 2 - 0.06)
    wheel = from_axle * from_axle + (y - 0.33) * (y - 0.33)  # squared distance from the hub
    tire, hub, sill = wheel < 0.11, wheel < 0.03, y < 0.45
    canvas.paint(
        window,
        cabin | hull | tire,
        label=CAR,
        depth=away,
        layers=[(True, car.paint), (panes, car.glass), (sill, car.paint * 0.6), (tire, 24), (hub, 140)],
    )


def _render_panes(canvas: Canvas, car: _Car) -> None:
    """Paint the pane of the near end, which leans back, and its frame."""
    start = car.z + car.nose
    top = max(car.height, canvas.eye)
    (rows, columns), _, _ = canvas.upright(car.x, start, half_width=1.4, top=top, bottom=car.waist)
    right, down = canvas.right[:, columns], canvas.down[rows]
    away = (start + car.rake * (canvas.eye - car.waist)) / (1 + car.rake * down)
    side = abs(right * away - car.x)
    up = canvas.eye - down * away
    inside = (side < HALF_WIDTH) & (up > car.waist) & (up < car.height)
    pane = (side < 0.8) & (up < car.height - 0.1)
    layers: list[Layer] = [(True, car.paint * 0.95), (pane, car.glass)]
    canvas.paint((rows, columns), inside, label=CAR, depth=car.z, layers=layers)


def _render_near_end(canvas: Canvas, car: _Car) -> None:
    """Paint bumper, plate, tires and lamps: head lamps of a car that comes, on the left, else tail lamps."""
    window, across, y = canvas.upright(car.x, car.z, half_width=HALF_WIDTH, top=car.waist)
    side = abs(across)
    lamps_y = car.waist - 0.2
    is_coming = car.x + canvas.drift < 0
    is_lit = canvas.light.lamps > LAMPS_ON
    inside = (side < HALF_WIDTH) & (y < car.waist) & ((y > 0.3) | ((side > 0.62) & (y > 0)))
    plate = (side < 0.26) & (abs(y - 0.55) < 0.07)
    lamps = (side > 0.55) & (abs(y - lamps_y) < 0.1)
    lamp_color = to_rgb((245, 240, 220) if is_coming else (190, 25, 25))
    if is_lit:  # it shines by itself: the photograph multiplies by the tint again
        lamp_color = lamp_color / canvas.tint
    canvas.paint(
        window,
        inside,
        label=CAR,
        depth=car.z,
        layers=[
            (True, car.paint * 0.9),
            (y < 0.5, car.paint * 0.55),
            (plate, 215),
            (y < 0.3, 22),
            (lamps, lamp_color),
        ],
    )
    if is_lit:
        halo: Color = (230, 220, 190) if is_coming else (150, 10, 10)
        for x in (car.x - 0.7, car.x + 0.7):
            canvas.shine(x, lamps_y, car.z, radius=0.25, color=halo)
