"""Label maps: from a file to the class ids it holds, without a change to a single one."""

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

from segdistill.data.base import Ids, Pixels, StoredLabel
from segdistill.data.image import rgb_and_alpha
from segdistill.data.image_file import (
    LABEL_FORMATS,
    has_more_pages,
    is_jpeg,
    is_white_zero,
    open_image,
    refuse_unknown_range,
    turn_by_exif,
)
from segdistill.errors import DataError
from segdistill.wording import listed

_ID_MODES = ("P", "L", "1", "I;16", "I;16B", "I;16L", "LA", "PA")
"""Pillow's modes of one channel of whole numbers, with or without transparency."""
_WIDE_MODES = ("I", "F")
"""Pillow's modes of one number of 32 bits, whole or not, to which it brings signed 16 bits, too."""
_COLOR_MODES = ("RGB", "RGBA")
"""Modes whose three channels may be equal."""
MAX_BYTE = 255
MAX_ID = 65535
MAX_LISTED_NUMBERS = 5
"""Numbers in a message that are no ids."""
_RAW_MODE = re.compile(r"'[1L](?:;(\d?)(I?)R?)?'")
"""Pillow's name for how gray is stored: its bits, I where white is 0, R where the first pixel is the lowest bit."""
_GRAY_STEPS = {"2": 85, "4": 17}
"""Factor by which Pillow spreads gray of 2 and 4 bits over 0..255; ids must not be spread."""


def read_label(path: Path) -> Ids:
    """Read a label map (H, W) as the ids that its file holds; see `decode_label`."""
    return decode_label(path).ids


def decode_label(path: Path) -> StoredLabel:
    """Read a label map as the ids that its file holds: gray of any depth, or the indices of a palette.

    Three equal channels are one. Numbers of 32 bits are read where they are whole and in 0..65535.

    It is turned as its own EXIF tag says, as images are. A pixel that an alpha channel makes transparent counts
    nowhere: its author saw nothing there, and what is stored beneath is chance. Where a palette (or PNG's one
    transparent gray) makes a whole id transparent, that id tells as much as the transparency does, and is read as any
    other: background is often drawn so.

    Raises:
        DataError: as `read_image`; also for colors, and for JPEG, which changes ids.
    """
    with open_image(path, LABEL_FORMATS) as file:
        _refuse_changed_ids(path, file)
        factor = _gray_step(path, file)
        more_pages = has_more_pages(file)
        orientation = turn_by_exif(file)
        ids, alpha = _ids_and_alpha(path, file)
        if factor != 1:
            ids = ids // factor
        palette, transparent_ids = _palette(file), _transparent_ids(file)
        if file.format == "GIF" and palette is not None and _is_gray(palette[np.unique(ids)]):
            # Writers of GIF number its colors as they come, in each file otherwise: of gray, the value was meant.
            grays = palette[:, 0]
            ids, palette, transparent_ids = grays[ids], None, tuple(grays[list(transparent_ids)].tolist())
        return StoredLabel(
            ids,
            transparent=_transparent_pixels(alpha),
            palette=palette,
            transparent_ids=transparent_ids,
            orientation=orientation,
            more_pages=more_pages,
        )


def decode_colors(path: Path) -> tuple[Pixels, StoredLabel]:
    """Read a label map in colors as `read_image` does; also return what else its file holds, as yet without ids."""
    with open_image(path, LABEL_FORMATS) as file:
        refuse_unknown_range(path, file)
        more_pages = has_more_pages(file)
        orientation = turn_by_exif(file)
        pixels, alpha = rgb_and_alpha(file)
        no_ids: Pixels = np.zeros((0, 0), np.uint8)
        return pixels, StoredLabel(
            no_ids,
            colored=True,
            transparent=_transparent_pixels(alpha),
            orientation=orientation,
            more_pages=more_pages,
        )


def _refuse_changed_ids(path: Path, file: ImageFile.ImageFile) -> None:
    """Refuse a file whose pixels cannot be the ids that somebody meant."""
    if is_jpeg(file):
        raise DataError(f"{path} has JPEG's compression, which changes class ids.", "Write label maps as PNG.")
    if "'LA;16" in str(file.tile):
        raise DataError(
            f"{path} has ids of 16 bits beside transparency, of which 8 bits would be lost.",
            "Write label maps with one channel.",
        )
    if file.mode not in (*_ID_MODES, *_WIDE_MODES, *_COLOR_MODES):
        raise _holds_colors(path, file)


def _holds_colors(path: Path, file: Image.Image) -> DataError:
    return DataError(
        f"{path} holds colors (mode {file.mode}), expected class ids.",
        "Convert label maps to one channel of ids, 8 or 16 bits, or to indices of a palette; or describe the "
        "data in a data.toml, whose [colors] says which class each color is.",
    )


def _ids_and_alpha(path: Path, file: Image.Image) -> tuple[Ids, Pixels | None]:
    """Return the stored numbers (H, W) and, where the file has one, its alpha channel.

    Raises:
        DataError: if there are several numbers for a pixel, or one is no id.
    """
    if file.mode in _WIDE_MODES:
        return _narrowed(path, np.asarray(file))
    stored: Ids = np.array(file, np.uint16 if "16" in file.mode else np.uint8)
    if stored.ndim == 2:
        return stored, None
    gray: Ids = stored[..., 0].copy()
    channels = stored.astype(np.uint8, copy=False)
    if file.mode not in _COLOR_MODES:
        return gray, channels[..., 1]
    # Many tools know no gray PNG, and write an id into red, green and blue alike.
    if not (np.array_equal(gray, stored[..., 1]) and np.array_equal(gray, stored[..., 2])):
        raise _holds_colors(path, file)
    return gray, channels[..., 3] if file.mode == "RGBA" else None


def _narrowed(path: Path, numbers: npt.NDArray[np.generic]) -> tuple[Ids, Pixels | None]:
    """Return numbers (H, W) of 32 bits as ids; where they are NaN, which is no number, nothing is seen.

    Raises:
        DataError: if one is no whole number in 0..65535.
    """
    is_nan = np.isnan(numbers)
    values = np.where(is_nan, 0, numbers)
    is_id = (values >= 0) & (values <= MAX_ID) & (values == np.floor(values))
    if not is_id.all():
        found, counts = np.unique(values[~is_id], return_counts=True)
        examples = [f"{value:g} ({count} px)" for value, count in zip(found.tolist(), counts.tolist(), strict=True)]
        raise DataError(
            f"{path} holds numbers that are no class ids: {listed(examples, MAX_LISTED_NUMBERS)}.",
            f"Expected whole numbers from 0 to {MAX_ID}. Write another id where there is no data, such as 255, which "
            "counts nowhere.",
        )
    alpha = np.where(is_nan, 0, 255).astype(np.uint8) if is_nan.any() else None
    return values.astype(np.uint8 if values.max(initial=0) <= MAX_BYTE else np.uint16), alpha


def _gray_step(path: Path, file: ImageFile.ImageFile) -> int:
    """Return by how much Pillow multiplies the stored numbers.

    Raises:
        DataError: if the file counts from white to black, so that Pillow would invert the ids.
    """
    raw_mode = _RAW_MODE.search(str(file.tile))
    bits, inverted = raw_mode.groups() if raw_mode else ("", "")
    if inverted or is_white_zero(file):
        raise DataError(f"{path} is a TIFF with WhiteIsZero: class ids would be inverted.", "Write label maps as PNG.")
    return _GRAY_STEPS.get(bits, 1)


def _transparent_pixels(alpha: Ids | None) -> npt.NDArray[np.bool_] | None:
    """Return where nothing is seen; None where something is seen everywhere."""
    if alpha is None or alpha.all():
        return None
    return np.equal(alpha, 0)


def _palette(file: Image.Image) -> Pixels | None:
    """Return the colors (N, 3) of a palette's indices; None where the file has no palette."""
    if file.mode not in ("P", "PA"):
        return None
    channels = file.getpalette("RGB")
    if channels is None:
        return None
    return np.array(channels, np.uint8).reshape(-1, 3)


def _is_gray(colors: Pixels) -> bool:
    """Whether red, green and blue of all colors (N, 3) are equal."""
    return bool((colors == colors[:, :1]).all())


def _transparent_ids(file: Image.Image) -> tuple[int, ...]:
    """Return the ids that are drawn transparent wherever they are."""
    transparency = file.info.get("transparency")
    if isinstance(transparency, int):
        return (transparency,)
    if isinstance(transparency, bytes):  # one opacity for each index of a palette
        return tuple(index for index, opacity in enumerate(transparency) if opacity == 0)
    return ()
