"""Small images and label maps, a folder in CamVid's layout, and a split without files."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from segdistill.config.schema import DataConfig
from segdistill.data import Sample

Pixels = npt.NDArray[np.uint8]
PLAIN = {"scale": (1.0, 1.0), "flip": 0.0, "batch_size": 1}


def picture(height: int = 12, width: int = 16, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def ids(height: int = 12, width: int = 16, most: int = 11, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, most + 1, (height, width), np.uint8)


def write(path: Path, pixels: npt.NDArray[np.generic]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def camvid(root: Path, train: int = 5, val: int = 3) -> Path:
    for first, (split, count) in zip((1, 1001), (("train", train), ("val", val)), strict=True):
        for i in range(count):
            write(root / split / f"{i:02}.png", picture(seed=first + i))
            write(root / f"{split}annot" / f"{i:02}.png", ids(seed=first + i))
    return root


@dataclass(frozen=True)
class Drawn:
    """A split that needs no files: image i is filled with i (of 256), and what `on_read` does happens first."""

    count: int
    on_read: Callable[[int], object] = abs
    sizes: tuple[tuple[int, int], ...] = ((8, 10),)
    fingerprint: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{i}.png" for i in range(self.count))

    def read(self, index: int) -> Sample:
        self.on_read(index)
        height, width = self.sizes[index % len(self.sizes)]
        ramp = np.arange(height * width, dtype=np.uint8).reshape(height, width)
        return Sample(np.full((height, width, 3), index % 256, np.uint8), ramp, f"{index}.png")

    def digest(self, index: int) -> bytes:
        return b"%d" % index


def config(**changes: object) -> DataConfig:
    return DataConfig.model_validate({"crop": (6, 8), "batch_size": 4} | changes)
