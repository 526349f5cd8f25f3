"""Sky, skyline and ground: what is found by a ray through each pixel."""

import numpy as np

from segdistill.data.datasets.streets._canvas import EVERYWHERE, FAR, Canvas, Mask
from segdistill.data.datasets.streets._houses import Houses, plots_at
from segdistill.data.datasets.streets._light import LEAVES, WALLS, Floats, to_rgb
from segdistill.data.datasets.streets._noise import noise
from segdistill.data.datasets.streets.classes import BUILDING, ROAD, SIDEWALK, VEGETATION

SIDE_STREET = 7
"""Meters across the side street."""
NOISE_SHIFT = 8192
"""Coordinates are shifted by this much before they are rounded down: below 0 they would be rounded up."""


def render_sky(canvas: Canvas) -> None:
    """Paint a gradient, the glow of the sun, and clouds that flatten towards the horizon."""
    zenith, horizon = canvas.light.zenith, canvas.light.horizon
    lowness = np.clip(1 - canvas.down / canvas.down[0], 0, 1)  # 0 at the top, 1 at the horizon
    from_sun_x = canvas.right - 0.6 * canvas.between(-1, 1)
    from_sun_y = canvas.down + 0.5 * canvas.between(0, 0.5)
    glow = canvas.light.sun * 0.02 / (0.02 + from_sun_x * from_sun_x + from_sun_y * from_sun_y)
    sky = zenith + (horizon - zenith) * (lowness * lowness) + to_rgb((250, 200, 130)) * glow
    cloud_x = (canvas.right + 4) * canvas.between(60, 150)
    cloud_y = 70 / (1.2 - lowness) + canvas.between(0, 256)
    cloud = noise(cloud_x, cloud_y)
    sky += (1.06 * horizon - sky) * np.clip((cloud - canvas.between(0.2, 1.0)) * 2.5, 0, 0.85)
    canvas.rgb[:] = sky / canvas.tint  # which the photograph multiplies again: the sky shines by itself


def render_skyline(canvas: Canvas) -> None:
    """Paint far houses or woods."""
    is_woods = canvas.chance(0.5)
    place = (canvas.right + 4) * 200 + canvas.between(0, 256)
    if not is_woods:
        place = np.floor(place / 9) * 47  # one height for each house
    height = canvas.eye + (3 + 13 * noise(place, np.zeros_like(place))) * canvas.between(0.5, 1.5)
    inside = (-canvas.down * FAR < height) & (canvas.down < 0)
    color = canvas.jitter(canvas.choose(LEAVES if is_woods else WALLS), 30)
    color = color * (0.7 + 0.5 * noise(place * 8, canvas.down * 300))
    label = VEGETATION if is_woods else BUILDING
    canvas.paint(EVERYWHERE, inside, label=label, depth=FAR, layers=[(True, color)])


def render_ground(canvas: Canvas, shading: Houses) -> None:
    """Paint road, sidewalks and gardens.

    Args:
        canvas: the scene.
        shading: the houses on the side of the sun, whose shadow falls across the street.
    """
    window = (slice(canvas.horizon, None), slice(None))
    z = np.minimum(canvas.eye / canvas.down[canvas.horizon :], 2 * FAR)
    x = canvas.right * z + canvas.drift  # from the middle of the street
    side = abs(x)
    surface = _surface(canvas, shading, x, z)

    in_side_street = (z > canvas.crossing) & (z < canvas.crossing + SIDE_STREET)
    on_road = (side < canvas.road) | in_side_street
    markings = _markings(canvas, x, z, in_side_street)
    asphalt = canvas.jitter(canvas.between(70, 135), 24) * surface
    white = asphalt + (canvas.between(150, 240) - asphalt) * canvas.between(0.4, 0.9)
    canvas.paint(window, on_road, label=ROAD, depth=z, layers=[(True, asphalt), (markings, white)])

    # In half of all scenes what lies beyond the sidewalk is paved too.
    on_sidewalk = ~on_road & ((side < canvas.walk) | canvas.chance(0.5))
    paving = canvas.jitter(canvas.between(80, 175), 40) * surface
    slab = canvas.between(0.5, 1.2)
    is_joint = ((_fraction(x / slab) < 0.07) | (_fraction(z / slab) < 0.07)) & (z < 25)
    is_curb = side < canvas.road + 0.2
    layers = [(True, paving), (is_joint, paving * 0.82), (is_curb, paving * 0.6 + 75)]
    canvas.paint(window, on_sidewalk, label=SIDEWALK, depth=z, layers=layers)

    grass = canvas.jitter(canvas.choose(LEAVES), 30) * (surface * surface)
    canvas.paint(window, ~on_road & ~on_sidewalk, label=VEGETATION, depth=z, layers=[(True, grass)])


def _surface(canvas: Canvas, shading: Houses, x: Floats, z: Floats) -> Floats:
    """Return factors of the ground's brightness: its grain, and the shadow of houses."""
    plot = plots_at(shading, z[:, 0])
    shadow_length = shading.height[plot][:, None] * canvas.between(0.2, 1.0)
    is_shaded = canvas.wall - canvas.sun_side * x < shadow_length
    fine_grain = (noise(x * 37 + NOISE_SHIFT, z * 37) - 0.5) / (1 + 0.05 * z)  # far away it averages out
    grain = fine_grain + 0.3 * (noise(x * 7 + NOISE_SHIFT, z) - 0.5)
    light: Floats = np.where(is_shaded, np.float32(1 - canvas.light.sun), np.float32(1))
    surface: Floats = (1 + 0.36 * grain) * light
    return surface


def _markings(canvas: Canvas, x: Floats, z: Floats, in_side_street: Mask) -> Mask:
    """Return where the road is white: lines along it, and a zebra crossing before the side street."""
    side = abs(x)
    half_line = np.maximum(0.06, 0.5 * canvas.pixel * z)  # never thinner than a pixel
    middle = (side < half_line) & (_fraction(z * 0.17) < 0.5)
    edges = (abs(side - canvas.road + 0.35) < half_line) & canvas.chance(0.6)
    lanes = (abs(side - canvas.road / 2) < half_line) & (_fraction(z * 0.12) < 0.4) & canvas.chance(0.4)
    zebra = (abs(z - canvas.crossing + 3) < 1.5) & (_fraction(x) < 0.5)
    lines: Mask = (middle | edges | lanes) & ~in_side_street
    return zebra | lines


def _fraction(value: Floats) -> Floats:
    return value - np.floor(value)
