"""What stands on the street beside cars: people, trees, lamp posts, signs and bins; and the camera's own car."""

import numpy as np

from segdistill.data.datasets.streets._canvas import EVERYWHERE, Canvas, Layer
from segdistill.data.datasets.streets._light import LAMPS_ON, LEAVES, Color, to_rgb
from segdistill.data.datasets.streets._noise import noise
from segdistill.data.datasets.streets.classes import PERSON, POLE, VEGETATION
from segdistill.types import IGNORE

CROWN_BALLS = 6
"""Balls that the crown of a tree is made of."""
RED, BLUE, WHITE, DARK = (195, 30, 35), (30, 70, 165), (235, 235, 235), (35, 35, 35)
TRAFFIC_LIGHTS = ((230, 50, 40), (60, 210, 90))


def render_person(canvas: Canvas, x: float, z: float) -> None:
    """Paint somebody who stands or walks, seen from the front."""
    size = canvas.between(0.7, 1.08)
    canvas.shadow(x, z, half_width=0.5, half_depth=0.4, darkness=0.5)
    window, across, up = canvas.upright(x, z, half_width=0.45 * size, top=1.75 * size)
    # From here on as for somebody of 1.75 m.
    side, y = abs(across) / size, up / size
    stride = canvas.between(0, 0.25) * np.clip(0.85 - y, 0, None)  # legs part below the hip
    head = side * side + (y - 1.6) * (y - 1.6) < 0.016
    legs = (abs(side - 0.09 - stride) < 0.085) & (y < 0.87) & (y > 0)
    trunk = (side < 0.17 + 0.06 * (y - 0.8)) & (y > 0.8) & (y < 1.47)
    arms = (abs(side - 0.25 + 0.07 * (y - 0.8)) < 0.05) & (y > 0.8) & (y < 1.43)
    coat = canvas.jitter(127, 225)
    trousers = canvas.jitter(75, 130)
    hair = canvas.jitter(55, 90)
    skin = to_rgb((235, 190, 160)) * canvas.between(0.35, 1)
    canvas.paint(
        window,
        head | legs | trunk | arms,
        label=PERSON,
        depth=z,
        layers=[(True, coat), (legs, trousers), (head, skin), (head & (y > 1.63), hair), (y < 0.07, 25)],
    )


def render_tree(canvas: Canvas, x: float, z: float) -> None:
    """Paint a trunk and a crown made of balls, whose rim the noise frays."""
    height = canvas.between(3, 8)
    half_width = canvas.between(1.0, 2.4)
    stem = height * canvas.between(0.15, 0.45)
    shadow_x = x - canvas.sun_side * 0.8
    canvas.shadow(shadow_x, z, half_width=half_width, half_depth=half_width * 0.8, darkness=canvas.light.sun)
    window, across, y = canvas.upright(x, z, half_width=half_width * 1.3, top=height * 1.1)
    noise_start = canvas.between(4096, 8192)  # no two trees alike, and no coordinate below 0
    leaf = noise(across * 34 + noise_start, y * 34)
    clump = noise(across * 9 + noise_start, y * 9)
    # Squared distance from the nearest ball's middle, in terms of its radius.
    distance = np.full(leaf.shape, 9, np.float32)
    for _ in range(CROWN_BALLS):
        ball_x = half_width * canvas.between(-0.6, 0.6)
        ball_y = canvas.between(0.3, 0.75)
        radius = canvas.between(0.35, 0.6)
        from_ball_x = (across - ball_x) / (half_width * radius)
        from_ball_y = ((y - stem) / (height - stem) - ball_y) / (radius * 0.7)
        distance = np.minimum(distance, from_ball_x * from_ball_x + from_ball_y * from_ball_y)
    crown = distance < 0.5 + 0.5 * leaf + 0.4 * clump
    trunk = (abs(across) < 0.03 * height) & (y > 0) & (y < height * 0.6)
    brightness = 0.32 + 0.4 * leaf + 0.5 * clump + 0.25 * y / height
    green = canvas.jitter(canvas.choose(LEAVES), 50) * brightness
    layers: list[Layer] = [(True, (82, 62, 48)), (crown, green)]
    canvas.paint(window, crown | trunk, label=VEGETATION, depth=z, layers=layers)


def render_lamp_post(canvas: Canvas, x: float, z: float) -> None:
    """Paint a post with an arm over the road, and a lamp at its end."""
    height = canvas.between(4.5, 7)
    arm = -1.3 if x + canvas.drift > 0 else 1.3
    is_lit = canvas.light.lamps > LAMPS_ON
    half_width = max(0.09, 0.5 * canvas.pixel * z)  # never thinner than a pixel
    metal = canvas.jitter(canvas.between(40, 170), 30)
    window, across, y = canvas.upright(x, z, half_width=1.6, top=height)
    reach = across / arm  # 0 at the post, 1 at the end of the arm
    drop = height - half_width - y
    post = (abs(across) < half_width) & (drop > -half_width) & (y > 0)
    bar = (abs(drop) < half_width) & (reach > 0) & (reach < 1)
    head = (abs(drop - 0.1) < half_width + 0.05) & (reach > 0.7) & (reach < 1.15)
    lamp = to_rgb((255, 225, 165)) / canvas.tint if is_lit else metal * 1.2
    canvas.paint(window, post | bar | head, label=POLE, depth=z, layers=[(True, metal), (head, lamp)])
    if is_lit:
        canvas.shine(x + arm, height - 0.2, z, radius=0.5, color=(230, 180, 100))


def render_sign(canvas: Canvas, x: float, z: float) -> None:
    """Paint a round, a triangular or a square sign, or traffic lights, on a stick."""
    window, across, y = canvas.upright(x, z, half_width=0.5, top=3.1)
    side, up = abs(across), y - 2.6
    from_middle = side * side + up * up
    light: Color = canvas.choose(TRAFFIC_LIGHTS)
    # The shape, the color of its rim, the part inside the rim, and that part's color.
    shape, rim, inner, face = canvas.choose(
        (
            (from_middle < 0.18, RED, from_middle < 0.1, WHITE),
            (side < 0.25 - 0.55 * up, RED, (side < 0.1 - 0.5 * up) & (up > -0.32), WHITE),
            (side < 0.38, WHITE, (side < 0.3) & (abs(up) < 0.34), BLUE),
            (side < 0.2, DARK, from_middle < 0.02, light),
        )
    )
    plate = shape & (abs(up) < 0.42)
    stick = (side < max(0.06, 0.5 * canvas.pixel * z)) & (y > 0) & (up < 0)
    layers: list[Layer] = [(True, canvas.jitter(120, 40)), (plate, rim), (plate & inner, face)]
    canvas.paint(window, plate | stick, label=POLE, depth=z, layers=layers)


def render_bin(canvas: Canvas, x: float, z: float) -> None:
    """Paint a litter bin: none of the classes, so it is not labeled."""
    window, across, y = canvas.upright(x, z, half_width=0.35, top=1.05)
    color = canvas.jitter(80, 90)
    inside = (abs(across) < 0.25 + 0.08 * y) & (y > 0) & (y < 1)
    canvas.paint(window, inside, label=IGNORE, depth=z, layers=[(True, color), (y > 0.85, color * 0.6)])


def render_hood(canvas: Canvas) -> None:
    """Paint the bonnet of the camera's own car, in some scenes; not labeled."""
    if not canvas.chance(0.4):
        return
    across = canvas.right / canvas.right[0, -1]  # 1 at the right border
    lowness = canvas.down / canvas.down[-1, 0]  # 1 at the bottom
    below_rim = lowness - canvas.between(0.82, 0.93) - 0.15 * across * across
    highlight = 0.6 + 4 * np.clip(0.1 - below_rim, 0, 0.1)
    color = canvas.jitter(canvas.between(20, 120), 60) * highlight
    canvas.paint(EVERYWHERE, below_rim > 0, label=IGNORE, depth=30, layers=[(True, color)])
