"""What label maps hold: ids or colors, how many pixels of each, in which files."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from segdistill.data.base import StoredLabel
from segdistill.data.image_file import LABEL_FORMATS, is_jpeg, open_image
from segdistill.data.label_map import decode_colors, decode_label
from segdistill.errors import DataError

Color = tuple[int, int, int]
Value = TypeVar("Value")
MAX_VALUES = 2048
"""Different ids or colors of a label map: a picture has more, and is told by that many."""


class FileContent(NamedTuple):
    """Values in one label map, and their pixels."""

    ids: dict[int, int]
    """Pixels of each id; empty where the file holds colors."""
    colors: dict[Color, int]
    """Pixels of each color; of an id its color in the palette, or its gray."""
    has_palette: bool
    is_colored: bool
    """The file has no ids."""


@dataclass(frozen=True)
class LabelContent:
    """Values in all label maps."""

    files: tuple[FileContent, ...]
    """In the order of the label maps."""
    is_colored: bool
    """Some file has no ids: all are read as colors."""

    def values(self, place: int) -> set[int] | set[Color]:
        """Return the ids, or the colors, in one label map."""
        content = self.files[place]
        return set(content.colors) if self.is_colored else set(content.ids)

    @property
    def ids(self) -> Counter[int]:
        """Pixels of each id."""
        return _total(content.ids for content in self.files)

    @property
    def colors(self) -> Counter[Color]:
        """Pixels of each color."""
        return _total(content.colors for content in self.files)

    @property
    def palette(self) -> dict[int, Color]:
        """Color of each id in the palettes, the first one that has it; nothing of grays."""
        found: dict[int, Color] = {}
        for content in self.files:
            if content.has_palette:
                for id_, color in zip(content.ids, content.colors, strict=False):
                    found.setdefault(id_, color)
        return found


def read_content(paths: Sequence[Path], on_file: Callable[[], object], threads: int) -> LabelContent:
    """Read all label maps.

    Raises:
        DataError: naming the first that cannot be one.
    """
    with ThreadPoolExecutor(threads) as pool:
        files = []
        for content in pool.map(_read_file, paths):
            files.append(content)
            on_file()
    return LabelContent(tuple(files), is_colored=any(content.is_colored for content in files))


def content_of(labels: Iterable[npt.NDArray[np.uint8]]) -> LabelContent:
    """Return the content of label maps (H, W) that were drawn."""
    return LabelContent(tuple(_of_ids(StoredLabel(label)) for label in labels), is_colored=False)


def _read_file(path: Path) -> FileContent:
    try:
        return _of_ids(decode_label(path))
    except DataError:
        if not _may_hold_colors(path):
            raise
    pixels, stored = decode_colors(path)
    if stored.transparent is not None:
        pixels = pixels[~stored.transparent]
    codes, counts = np.unique(
        pixels.reshape(-1, 3).astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32), return_counts=True
    )
    _refuse_picture(path, len(codes))
    colors = {
        (code >> 16, code >> 8 & 255, code & 255): count
        for code, count in zip(codes.tolist(), counts.tolist(), strict=True)
    }
    return FileContent({}, colors, has_palette=False, is_colored=True)


def _may_hold_colors(path: Path) -> bool:
    with open_image(path, LABEL_FORMATS) as file:
        return file.mode in ("RGB", "RGBA", "CMYK") and not is_jpeg(file)


def _of_ids(label: StoredLabel) -> FileContent:
    shown = label.ids if label.transparent is None else label.ids[~label.transparent]
    found, counts = np.unique(shown, return_counts=True)
    _refuse_picture(Path(label.name), len(found))
    ids = dict(zip(found.tolist(), counts.tolist(), strict=True))
    colors: Counter[Color] = Counter()
    for id_, count in ids.items():
        colors[_color(label, id_)] += count
    return FileContent(ids, dict(colors), has_palette=label.palette is not None, is_colored=False)


def _color(label: StoredLabel, id_: int) -> Color:
    if label.palette is None or id_ >= len(label.palette):
        return (min(id_, 255),) * 3
    red, green, blue = label.palette[id_].tolist()
    return red, green, blue


def _refuse_picture(path: Path, values: int) -> None:
    if values > MAX_VALUES:
        raise DataError(
            f"{path} has {values} different values, which is a picture and no label map.",
            "A label map has one id or color for each class, in a format without loss.",
        )


def _total(counts: Iterable[dict[Value, int]]) -> Counter[Value]:
    total: Counter[Value] = Counter()
    for count in counts:
        total.update(count)
    return total
