"""From the painted scene to the picture that a camera takes of it."""

import numpy as np
import numpy.typing as npt

from segdistill.data.datasets.streets._canvas import Canvas
from segdistill.data.datasets.streets._light import Floats


def photograph(canvas: Canvas) -> npt.NDArray[np.uint8]:
    """Light the scene and take the picture (H, W, 3): head lamps, haze, halos, blur, exposure, noise."""
    beam = canvas.light.lamps * 0.8 / (1 + 0.01 * canvas.depth * canvas.depth)
    rgb: Floats = canvas.rgb * (canvas.tint + beam)
    haze = canvas.between(0, 0.01) * canvas.between(0, 1)  # most scenes are clear
    clearness = 1 / (1 + canvas.depth * haze)
    rgb = canvas.light.horizon + (rgb - canvas.light.horizon) * clearness + canvas.halo
    for _ in range(canvas.choose((1, 1, 2))):
        _blur(rgb)
    # The sum of two even draws: small deviations are more frequent than large ones.
    grain = canvas.rng.random(rgb.shape, dtype=np.float32) + canvas.rng.random(rgb.shape, dtype=np.float32) - 1
    rgb = rgb * canvas.between(0.9, 1.1) + grain * canvas.between(4, 20)
    return np.ascontiguousarray(np.clip(rgb, 0, 255).astype(np.uint8).transpose(1, 2, 0))


def _blur(rgb: Floats) -> None:
    """Average each pixel with its neighbors, in place, along one axis and then along the other."""
    rgb[:, 1:-1] = 0.25 * (rgb[:, :-2] + rgb[:, 2:]) + 0.5 * rgb[:, 1:-1]
    rgb[:, :, 1:-1] = 0.25 * (rgb[:, :, :-2] + rgb[:, :, 2:]) + 0.5 * rgb[:, :, 1:-1]
