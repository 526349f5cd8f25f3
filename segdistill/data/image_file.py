"""Opening image files that nobody vouches for: every limit is checked before Pillow decodes a pixel.

Pillow decodes, since it refuses damaged files and keeps the indices of palettes; OpenCV does neither.
"""

import io
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import ExifTags, Image, ImageFile, ImageOps, TiffImagePlugin, UnidentifiedImageError

from segdistill.errors import DataError, out_of_memory

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
"""Only these parsers of Pillow ever see a file, whatever its name says."""
LABEL_FORMATS = (*FORMATS, "GIF")
"""Of label maps also this one: it is lossless and indexed, and old data sets have their masks in it."""
SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp"})
"""Endings of the names of image files, in lower case."""
LABEL_SUFFIXES = SUFFIXES | {".gif"}
"""Endings of the names of label maps, in lower case."""
MAX_PIXELS = 100_000_000
MAX_BYTES = 8 * MAX_PIXELS
"""Bytes of a file: more than the pixels could have without any compression."""
MAX_SCANS = 100
"""Scans of a JPEG file, each of which goes through all pixels; progressive ones have about ten."""

_JPEG_FORMATS = ("JPEG", "MPO")
"""Pillow's names for JPEG: MPO is several of them in one file, as phones write photographs."""
_JPEG_SCAN_MARKER = b"\xff\xda"
"""Start of a scan; within the numbers of a scan no 0xff is followed by 0xda."""
_TIFF_STARTS = (b"II*\0", b"MM\0*")
"""The first bytes of a TIFF file, little-endian and big-endian."""
_PAGED_FORMATS = ("TIFF", "PNG", "WEBP", "GIF")
"""Formats whose further pages or frames are pictures of their own; phones put a preview behind a JPEG."""
_NEW_SUBFILE_TYPE = 254
"""The tag that says what a page of a TIFF file is."""
_REDUCED_COPY = 1
"""The bit of that tag for a smaller copy of another page."""


@contextmanager
def open_image(path: Path, formats: tuple[str, ...] = FORMATS) -> Iterator[ImageFile.ImageFile]:
    """Open an image after a look at its header; what goes wrong while it is open is the file's fault.

    Args:
        path: the file.
        formats: Pillow's names of the formats that it may have.

    Raises:
        DataError: if it is cut short, damaged, too large, or not an image of a known format.
    """
    try:
        _refuse_large_file(path)
        # Opened here, because a TIFF that Pillow opens itself may be mapped into memory, and then it is not turned.
        with _BoundedReader(path) as raw, Image.open(raw, formats=formats) as file:
            _refuse_costly_pixels(path, file, raw)
            yield file
    except (DataError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(path, error) from None
    except UnidentifiedImageError:
        raise _unknown_format(path, formats) from None
    except OSError as error:
        if out_of_memory(error):
            raise
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
    except Exception as error:  # Pillow's parsers raise almost anything on damaged bytes
        raise DataError(f"{path} cannot be read: {error}.") from None


def is_jpeg(file: ImageFile.ImageFile) -> bool:
    """Whether the pixels went through JPEG's compression, in a file of its own or inside a TIFF."""
    return file.format in _JPEG_FORMATS or file.info.get("compression") in ("jpeg", "tiff_jpeg")


def turn_by_exif(file: ImageFile.ImageFile) -> int:
    """Turn an image as its EXIF tag says, and return that orientation; 1 for a tag that is none of 1..8."""
    orientation = file.getexif().get(ExifTags.Base.Orientation, 1)  # asked first: decoding a TIFF drops it
    ImageOps.exif_transpose(file, in_place=True)
    return orientation if orientation in range(2, 9) else 1


def has_more_pages(file: ImageFile.ImageFile) -> bool:
    """Whether a file that is not decoded yet has a second page or frame that is no smaller copy of the first."""
    if file.format not in _PAGED_FORMATS or not getattr(file, "is_animated", False):
        return False
    if not isinstance(file, TiffImagePlugin.TiffImageFile):
        return True
    file.seek(1)
    page_kind = tiff_tag(file, _NEW_SUBFILE_TYPE) or 0
    file.seek(0)
    return not page_kind & _REDUCED_COPY


def tiff_tag(file: Image.Image, number: int) -> int | None:
    """Return what a TIFF file says under a tag of one number; None where it says nothing, or is no TIFF."""
    if not isinstance(file, TiffImagePlugin.TiffImageFile):
        return None
    return file.tag_v2.get(number)


def is_white_zero(file: Image.Image) -> bool:
    """Whether a TIFF file counts from white, 0, to black (PhotometricInterpretation: WhiteIsZero)."""
    return tiff_tag(file, TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0


class _BoundedReader(io.BufferedReader):
    """Takes no more memory for a read than the file has bytes, whatever length a damaged one asks for."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._size = path.stat().st_size

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(-1 if size is None else min(size, self._size))


def _refuse_large_file(path: Path) -> None:
    """Refuse a file by its length: some parsers read a file whole before they look at it."""
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise DataError(f"{path} has {size:,} bytes.", f"The limit is {MAX_BYTES:,}.")


def _refuse_costly_pixels(path: Path, file: ImageFile.ImageFile, raw: io.BufferedReader) -> None:
    """Refuse by its header what would take too long or too much memory to decode, or has no known range."""
    if file.width * file.height > MAX_PIXELS:
        raise Image.DecompressionBombError(f"{file.width} x {file.height}")
    if file.format in _JPEG_FORMATS and _count_scans(raw) > MAX_SCANS:
        raise DataError(f"{path} has more than {MAX_SCANS} scans.", "Save it again.")


def refuse_unknown_range(path: Path, file: Image.Image) -> None:
    """Refuse an image of 32 bits per pixel: nothing says which of its numbers is white.

    Raises:
        DataError: if it is one.
    """
    if file.mode in ("I", "F"):
        raise DataError(f"{path} has 32 bits per pixel (mode {file.mode}).", "Save it with 8 or 16 bits.")


def _count_scans(raw: io.BufferedReader) -> int:
    """Return how many scans a JPEG file begins, and leave the reader where it was."""
    start = raw.tell()
    raw.seek(0)
    scans = 0
    last_byte = b""  # of the piece before: a marker may lie across two pieces
    while piece := raw.read(1 << 20):
        scans += (last_byte + piece).count(_JPEG_SCAN_MARKER)
        last_byte = piece[-1:]
    raw.seek(start)
    return scans


def _too_large(path: Path, error: Exception) -> DataError:
    """Return the error about a file of too many pixels; Pillow's text has their number, and speaks of an attack."""
    numbers = re.findall(r"\d+", str(error))
    pixels = math.prod(map(int, numbers if " x " in str(error) else numbers[:1]))
    return DataError(
        f"{path} is too large: it has {pixels:,} pixels.",
        f"The limit is {MAX_PIXELS:,} pixels. Cut it into parts with an image program, and give the folder of the "
        "parts.",
    )


def _unknown_format(path: Path, formats: tuple[str, ...]) -> DataError:
    """Return the error about a file that no parser recognizes, with how it begins."""
    with path.open("rb") as file:
        start = file.read(8)
    if start[:4] in _TIFF_STARTS:
        return DataError(
            f"{path} is a TIFF file of a kind that is not read, such as bands that are not marked as RGB.",
            "Save it as gray or RGB, with 8 or 16 bits.",
        )
    beginning = f"it begins with the bytes {start.hex(' ')}" if start else "it is empty"
    return DataError(f"{path} is no image: {beginning}.", f"Known formats: {', '.join(formats)}.")
