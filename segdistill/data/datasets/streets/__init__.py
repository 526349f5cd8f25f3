"""The built-in data set: road scenes that are rendered when they are read."""

from dataclasses import dataclass
from functools import cache

from segdistill.data.base import DataSource, Pixels, Sample
from segdistill.data.datasets.streets.classes import CLASSES, PALETTE
from segdistill.data.datasets.streets.scene import render
from segdistill.errors import UsageError

SIZE = (96, 128)
"""Height and width of a scene."""
SCENE_COUNTS = {"train": 500, "val": 64}
"""Scenes of each split, the first ones of its endless stream."""
VERSION = 1
"""Counts the changes to what is rendered: other scenes are other data."""


@dataclass(frozen=True)
class _Scenes:
    """The first scenes of a split's stream; see `Split`."""

    split: str
    names: tuple[str, ...]
    fingerprint: str

    def read(self, index: int) -> Sample:
        image, label = _rendered(index, self.split)
        return Sample(image, label, self.names[index])

    def digest(self, index: int) -> bytes:
        return f"{self.fingerprint} {index}".encode()


def load(path: str) -> DataSource:
    """Return the streets; they lie in no folder."""
    if path:
        raise UsageError(
            f"Data set 'streets' is built in: there is nothing to read in {path}.", "Write --data streets."
        )
    splits = {}
    for split, count in SCENE_COUNTS.items():
        names = tuple(f"{split}/{i:04}" for i in range(count))
        splits[split] = _Scenes(split, names, f"{VERSION} {split} {count} {SIZE}")
    return DataSource("streets", CLASSES, PALETTE, splits=splits, generated=True)


@cache
def _rendered(index: int, split: str) -> tuple[Pixels, Pixels]:
    """Render a scene once per process: 500 of them take 25 MB, rendering one takes some 10 ms."""
    return render(index, split, SIZE)
