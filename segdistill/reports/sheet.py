"""A sheet of pictures in rows and columns, with titles above and the classes' colors below."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from segdistill.data import DataSource
from segdistill.data.base import Pixels

CELL_HEIGHT = 192
"""Height of each picture, in pixels."""
MAX_CELL_WIDTH = 480
"""Width of the widest picture: panoramas get less height instead."""
MARGIN = 6
"""Pixels between pictures."""
LINE_HEIGHT = 28
"""Pixels of a line of text."""
CHARACTER_WIDTH = 9
"""Pixels of a character in the legend, about: the font is proportional."""
SWATCH, SWATCH_SPACE = 14, 30
"""Pixels of a class's colored square, and of all that is beside its name."""
BASELINE = 9
"""Pixels from the bottom of a line of text to its baseline."""
FONT_SCALE, TEXT_COLOR = 0.48, (40, 40, 40)
WHITE = 255


def colored(label: npt.NDArray[np.integer], palette: Sequence[tuple[int, int, int]]) -> Pixels:
    """Return class ids (H, W) in the palette's colors, ignored pixels black: (H, W, 3) RGB."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    painted: Pixels = table[label]
    return painted


def encode_png(image: Pixels) -> bytes:
    """Return an RGB image (H, W, 3) as PNG."""
    success, encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    assert success, "PNG takes any 8-bit image"
    return encoded.tobytes()


def render_sheet(rows: Sequence[Sequence[Pixels]], titles: Sequence[str], data: DataSource) -> Pixels:
    """Return pictures in cells of the first one's shape, with a title above each column and a legend below.

    Args:
        rows: one picture (H, W, 3) RGB for each title. The first of a row is a photo, the others are of flat colors.
        titles: of the columns.
        data: its classes and colors are the legend.
    """
    layout = _layout(rows[0][0], len(rows), len(titles), data.classes)
    sheet = np.full((layout.height, layout.width, 3), WHITE, np.uint8)
    for column, title in enumerate(titles):
        _write(sheet, title, (layout.left(column), LINE_HEIGHT - BASELINE))
    for row_index, row in enumerate(rows):
        for column, picture in enumerate(row):
            # A blend of neighboring class colors would be the color of another class.
            interpolation = cv2.INTER_LINEAR if column == 0 else cv2.INTER_NEAREST
            fitted = _fit(picture, layout, interpolation)
            height, width = fitted.shape[:2]
            top, left = layout.top(row_index), layout.left(column)
            sheet[top : top + height, left : left + width] = fitted
    _write_legend(sheet, layout, data)
    return sheet


@dataclass(frozen=True)
class _Layout:
    """Positions of everything on a sheet, in pixels."""

    cell_width: int
    width: int
    legend_top: int
    names_per_line: int
    height: int

    def left(self, column: int) -> int:
        """Left edge of a column."""
        return MARGIN + column * (self.cell_width + MARGIN)

    def top(self, row: int) -> int:
        """Upper edge of a row."""
        return LINE_HEIGHT + row * (CELL_HEIGHT + MARGIN)


def _layout(first_picture: Pixels, num_rows: int, num_columns: int, classes: Sequence[str]) -> _Layout:
    height, width = first_picture.shape[:2]
    cell_width = min(round(width * CELL_HEIGHT / height), MAX_CELL_WIDTH)
    sheet_width = num_columns * (cell_width + MARGIN) + MARGIN
    longest_name = CHARACTER_WIDTH * max(map(len, classes))
    names_per_line = max(1, sheet_width // (longest_name + SWATCH_SPACE))
    legend_top = LINE_HEIGHT + num_rows * (CELL_HEIGHT + MARGIN)
    legend_lines = math.ceil(len(classes) / names_per_line)
    return _Layout(
        cell_width=cell_width,
        width=sheet_width,
        legend_top=legend_top,
        names_per_line=names_per_line,
        height=legend_top + legend_lines * LINE_HEIGHT,
    )


def _fit(picture: Pixels, layout: _Layout, interpolation: int) -> Pixels:
    """Return a picture as large as a cell allows, in its own proportions."""
    scale = min(CELL_HEIGHT / picture.shape[0], layout.cell_width / picture.shape[1])
    height = max(1, round(picture.shape[0] * scale))
    width = max(1, round(picture.shape[1] * scale))
    return cv2.resize(picture, (width, height), interpolation=interpolation).astype(np.uint8, copy=False)


def _write_legend(sheet: Pixels, layout: _Layout, data: DataSource) -> None:
    for index, (name, color) in enumerate(zip(data.classes, data.palette, strict=True)):
        line, column = divmod(index, layout.names_per_line)
        left = MARGIN + column * (layout.width - MARGIN) // layout.names_per_line
        baseline = layout.legend_top + (line + 1) * LINE_HEIGHT - BASELINE
        # The square stands 2 pixels below the baseline, where it looks centered beside lower-case letters.
        sheet[baseline + 2 - SWATCH : baseline + 2, left : left + SWATCH] = color
        _write(sheet, name, (left + SWATCH + MARGIN, baseline))


def _write(image: Pixels, text: str, origin: tuple[int, int]) -> None:
    """Write a text whose baseline begins at `origin`, (x, y)."""
    cv2.putText(image, text, origin, cv2.FONT_HERSHEY_SIMPLEX, FONT_SCALE, TEXT_COLOR, 1, cv2.LINE_AA)
