"""From files to pixels. Pillow decodes: it refuses damaged files and keeps the indices of palettes. OpenCV resizes."""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageFile, ImageOps, TiffImagePlugin, UnidentifiedImageError

from segdistill.data._base import Ids, Pixels, StoredImage, StoredLabel
from segdistill.errors import DataError, out_of_memory

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
"""Only these parsers of Pillow ever see a file, whatever its name says."""
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
MAX_PIXELS = 100_000_000
MAX_BYTES = 8 * MAX_PIXELS
"""Of a file: more than the pixels could have without any compression."""

MAX_SCANS = 100
"""Of a JPEG file, each of which goes through all pixels; progressive ones have about ten."""

Image.MAX_IMAGE_PIXELS = MAX_PIXELS
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)  # we refuse the file, so no line on stderr

_LABEL_MODES = ("P", "L", "1", "I;16", "I;16B", "I;16L", "LA", "PA")
_TIFF = (b"II*\0", b"MM\0*")
"""The first bytes of a TIFF file."""
_STRETCHED = {"2": 85, "4": 17}
"""Pillow spreads 2- and 4-bit grey over 0..255."""
_PAGED = ("TIFF", "PNG", "WEBP")
"""Formats whose further pages or frames are pictures of their own; phones put a preview behind a JPEG."""
_NEW_SUBFILE_TYPE, _REDUCED = 254, 1
"""The tag that says what a page of a TIFF file is, and its bit for a smaller copy of another page."""
_RAW = re.compile(r"'[1L](?:;(\d?)(I?)R?)?'")
"""Pillow's name for how grey is stored: its bits, I where white is 0, R where the first pixel is the lowest bit."""


def read_image(path: Path) -> Pixels:
    """Read an image as RGB (H, W, 3), turned as its EXIF tag says.

    Palettes and other colour spaces are converted, transparency is dropped, of 16-bit grey the upper 8 bits are kept.

    Raises:
        DataError: if it is cut short, damaged, too large, or not an image of a known format.
    """
    return decode_image(path)[0]


def decode_image(path: Path) -> tuple[Pixels, StoredImage]:
    """Read an image as `read_image` does; also return what else its file holds."""
    with _opened(path) as file:
        deep = ";16" in file.mode or ";16" in str(file.tile)  # asked first: decoding drops the tiles
        extra_samples = (_tag(file, TiffImagePlugin.SAMPLESPERPIXEL) or 0) > len(file.getbands())
        more_pages = _has_more_pages(file)
        orientation = _turn(file)
        pixels, alpha = _rgb_and_alpha(file)
        translucent = alpha is not None and not bool((alpha == 255).all())
        return pixels, StoredImage(orientation, extra_samples or translucent, deep, more_pages)


def decode_colors(path: Path) -> tuple[Pixels, StoredLabel]:
    """Read a label map in colors as `read_image` does; also return what else its file holds, as yet without ids."""
    with _opened(path) as file:
        more_pages = _has_more_pages(file)
        orientation = _turn(file)
        pixels, alpha = _rgb_and_alpha(file)
        none: Pixels = np.zeros((0, 0), np.uint8)
        transparent = _transparent(alpha)
        return pixels, StoredLabel(
            none, colored=True, transparent=transparent, orientation=orientation, more_pages=more_pages
        )


def read_label(path: Path) -> Ids:
    """Read a label map (H, W) as the ids that its file holds; see `decode_label`."""
    return decode_label(path).ids


def decode_label(path: Path) -> StoredLabel:
    """Read a label map as the ids that its file holds: 8- or 16-bit grey, or the indices of a palette.

    It is turned as its own EXIF tag says, as images are. A pixel that an alpha channel makes transparent counts
    nowhere: its author saw nothing there, and what is stored beneath is chance. Where a palette (or PNG's one
    transparent grey) makes a whole id transparent, that id tells as much as the transparency does, and is read as any
    other: background is often drawn so.

    Raises:
        DataError: as `read_image`; also for colours, and for JPEG, which changes ids.
    """
    with _opened(path) as file:
        if file.format in ("JPEG", "MPO") or file.info.get("compression") in ("jpeg", "tiff_jpeg"):
            raise DataError(f"{path} has JPEG's compression, which changes class ids.", "Write label maps as PNG.")
        if "'LA;16" in str(file.tile):
            what = f"{path} has ids of 16 bits beside transparency, of which 8 bits would be lost."
            raise DataError(what, "Write label maps with one channel.")
        if file.mode not in _LABEL_MODES:
            raise DataError(
                f"{path} holds colours (mode {file.mode}), not class ids: it would take a colour map to read them.",
                "Convert label maps to one channel of ids, 8 or 16 bits, or to indices of a palette; or describe the "
                "data in a data.toml, whose [colors] says which class each colour is.",
            )
        raw = _RAW.search(str(file.tile))
        bits, inverted = raw.groups() if raw else ("", "")
        if inverted or _counts_white_as_0(file):
            raise DataError(f"{path} counts white as 0, so its ids are not what was meant.", "Write label maps as PNG.")
        factor = _STRETCHED.get(bits, 1)
        more_pages = _has_more_pages(file)
        orientation = _turn(file)
        stored: Ids = np.array(file, np.uint16 if "16" in file.mode else np.uint8)
        ids, alpha = (stored[..., 0].copy(), stored[..., 1]) if stored.ndim == 3 else (stored, None)
        return StoredLabel(
            ids if factor == 1 else ids // factor,
            transparent=_transparent(alpha),
            palette=_palette(file),
            transparent_ids=_transparent_ids(file),
            orientation=orientation,
            more_pages=more_pages,
        )


def to_size(image: Pixels, size: tuple[int, int]) -> Pixels:
    """Bring an image (H, W, 3) to a size (height, width), alike in training, evaluation, inference and export checks.

    Bilinear with OpenCV's INTER_LINEAR, which video pipelines have too. At exactly half the size it averages areas;
    below that it skips pixels.
    """
    if image.shape[:2] == size:
        return image
    return np.asarray(cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR), np.uint8)


def _tag(file: Image.Image, number: int) -> int | None:
    """Return what a TIFF file says under a tag of one number; None where it says nothing, or is no TIFF."""
    return file.tag_v2.get(number) if isinstance(file, TiffImagePlugin.TiffImageFile) else None


def _counts_white_as_0(file: Image.Image) -> bool:
    return _tag(file, TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0


def _rgb_and_alpha(file: Image.Image) -> tuple[Pixels, Pixels | None]:
    """Return color (H, W, 3), and opacity (H, W) where the file has transparency of any kind."""
    if file.mode.startswith("I;16"):
        grey = np.asarray(file)
        if _counts_white_as_0(file):  # Pillow inverts 8 bits and fewer, and not 16
            grey = np.invert(grey)
        clear = file.info.get("transparency")  # one grey value, in PNG
        alpha = None if clear is None else np.where(grey == clear, 0, 255).astype(np.uint8)
        return np.repeat((grey >> 8).astype(np.uint8)[..., None], 3, axis=2), alpha
    if not file.has_transparency_data:
        return np.array(file if file.mode == "RGB" else file.convert("RGB")), None
    shown = file if file.mode == "RGBA" else file.convert("RGBA")
    return np.array(shown.convert("RGB")), np.asarray(shown.getchannel("A"))


def _transparent(alpha: Ids | None) -> npt.NDArray[np.bool_] | None:
    """Return where nothing is seen; None where something is seen everywhere."""
    if alpha is None or alpha.all():
        return None
    return np.equal(alpha, 0)


def _palette(file: Image.Image) -> Pixels | None:
    """Return the colors (N, 3) of a palette's indices."""
    colors = file.getpalette("RGB") if file.mode in ("P", "PA") else None
    return None if colors is None else np.array(colors, np.uint8).reshape(-1, 3)


def _transparent_ids(file: Image.Image) -> tuple[int, ...]:
    """Return the ids that are drawn transparent wherever they are."""
    clear = file.info.get("transparency")
    if isinstance(clear, int):
        return (clear,)
    if isinstance(clear, bytes):
        return tuple(index for index, opacity in enumerate(clear) if opacity == 0)
    return ()


def _has_more_pages(file: ImageFile.ImageFile) -> bool:
    """Whether a file that is not decoded yet has a second page or frame that is no smaller copy of the first."""
    if file.format not in _PAGED or not getattr(file, "is_animated", False):
        return False
    if not isinstance(file, TiffImagePlugin.TiffImageFile):
        return True
    file.seek(1)
    kind = _tag(file, _NEW_SUBFILE_TYPE)
    file.seek(0)
    return not (kind or 0) & _REDUCED


def _turn(file: ImageFile.ImageFile) -> int:
    """Turn an image as its EXIF tag says, and return what that was."""
    orientation = file.getexif().get(ExifTags.Base.Orientation, 1)  # asked first: decoding a TIFF drops it
    ImageOps.exif_transpose(file, in_place=True)
    return orientation if orientation in range(2, 9) else 1


class _Bounded(io.BufferedReader):
    """Takes no more memory for a read than the file has bytes, whatever length a damaged one asks for."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._size = path.stat().st_size

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(-1 if size is None else min(size, self._size))


def _scans(raw: io.BufferedReader) -> int:
    """Return how many scans a JPEG file begins (in the numbers of one no 0xff is followed by 0xda)."""
    at = raw.tell()
    raw.seek(0)
    count, before = 0, b""
    while piece := raw.read(1 << 20):
        count += (before + piece).count(b"\xff\xda")
        before = piece[-1:]
    raw.seek(at)
    return count


@contextmanager
def _opened(path: Path) -> Iterator[ImageFile.ImageFile]:
    """Open an image after a look at its header; what goes wrong inside is the file's fault."""
    try:
        if (size := path.stat().st_size) > MAX_BYTES:  # some parsers read a file whole before they look at it
            raise DataError(f"{path} has {size:,} bytes.", f"The limit is {MAX_BYTES:,}.")
        # Opened here, because a TIFF that Pillow opens itself may be mapped into memory, and then it is not turned.
        with _Bounded(path) as raw, Image.open(raw, formats=FORMATS) as file:
            if file.width * file.height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{file.width} x {file.height} pixels")
            if file.format in ("JPEG", "MPO") and _scans(raw) > MAX_SCANS:
                raise DataError(f"{path} has more than {MAX_SCANS} scans.", "Save it anew.")
            if file.mode in ("I", "F"):
                raise DataError(f"{path} has 32 bits per pixel (mode {file.mode}).", "Save it with 8 or 16 bits.")
            yield file
    except (DataError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{path} is too large: {error}", f"The limit is {MAX_PIXELS:,} pixels.") from None
    except UnidentifiedImageError:
        with path.open("rb") as unknown:
            start = unknown.read(8)
        if start[:4] in _TIFF:
            raise DataError(
                f"{path} is a TIFF file of a kind that is not read, such as bands that are not marked as RGB.",
                "Save it as grey or RGB, with 8 or 16 bits.",
            ) from None
        found = f"it begins with the bytes {start.hex(' ')}" if start else "it is empty"
        raise DataError(f"{path} is no image: {found}.", f"Known formats: {', '.join(FORMATS)}.") from None
    except OSError as error:
        if out_of_memory(error):
            raise
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
    except Exception as error:  # Pillow's parsers raise almost anything on damaged bytes
        raise DataError(f"{path} cannot be read: {error}.") from None
