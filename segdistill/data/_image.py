"""From files to pixels. Pillow decodes: it refuses damaged files and keeps the indices of palettes. OpenCV resizes."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from segdistill.data._base import Pixels
from segdistill.errors import DataError

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
"""Only these parsers of Pillow ever see a file, whatever its name says."""
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
MAX_PIXELS = 100_000_000

Image.MAX_IMAGE_PIXELS = MAX_PIXELS
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)  # we refuse the file, so no line on stderr

_LABEL_MODES = ("P", "L", "1", "I;16", "I;16B", "I;16L")
_STRETCHED = {"L;2": 85, "L;4": 17}
"""Pillow spreads 2- and 4-bit grey over 0..255."""


def read_image(path: Path) -> Pixels:
    """Read an image as RGB (H, W, 3), turned as its EXIF tag says.

    Palettes and other colour spaces are converted, transparency is dropped, of 16-bit grey the upper 8 bits are kept.

    Raises:
        DataError: if it is cut short, damaged, too large, or not an image of a known format.
    """
    with _opened(path) as file:
        image = ImageOps.exif_transpose(file)
        if image.mode.startswith("I;16"):
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        elif image.mode in ("I", "F"):
            raise DataError(f"{path} has 32 bits per pixel (mode {image.mode}).", "Convert it to 8 or 16 bits.")
        return np.array(image.convert("RGB"))


def read_label(path: Path) -> npt.NDArray[np.uint8 | np.uint16]:
    """Read a label map (H, W) as the ids that its file holds: 8- or 16-bit grey, or the indices of a palette.

    Raises:
        DataError: as `read_image`; also for colours, and for JPEG, which changes ids.
    """
    with _opened(path) as file:
        if file.format == "JPEG":
            raise DataError(f"{path} is a JPEG, whose compression changes class ids.", "Write label maps as PNG.")
        if file.mode not in _LABEL_MODES:
            raise DataError(
                f"{path} holds colours (mode {file.mode}), not class ids: it would take a colour map to read them.",
                "Convert label maps to one channel of ids, 8 or 16 bits, or to indices of a palette.",
            )
        factor = next((factor for raw, factor in _STRETCHED.items() if raw in str(file.tile)), 1)
        ids: npt.NDArray[np.uint8 | np.uint16] = np.array(file, np.uint16 if "16" in file.mode else np.uint8)
        return ids if factor == 1 else ids // factor


def is_turned(path: Path) -> bool:
    """Whether an image's EXIF tag says that it is to be turned or mirrored."""
    with _opened(path) as file:
        return bool(file.getexif().get(0x0112, 1) != 1)


def to_size(image: Pixels, size: tuple[int, int]) -> Pixels:
    """Bring an image (H, W, 3) to a size (height, width), alike in training, evaluation, inference and export checks.

    Bilinear with OpenCV's INTER_LINEAR, which video pipelines have too. At exactly half the size it averages areas;
    below that it skips pixels.
    """
    if image.shape[:2] == size:
        return image
    return np.asarray(cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR), np.uint8)


@contextmanager
def _opened(path: Path) -> Iterator[ImageFile.ImageFile]:
    """Open an image after a look at its header; what goes wrong inside is the file's fault."""
    try:
        with Image.open(path, formats=FORMATS) as file:
            if file.width * file.height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{file.width} x {file.height} pixels")
            yield file
    except (DataError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{path} is too large: {error}", f"The limit is {MAX_PIXELS:,} pixels.") from None
    except UnidentifiedImageError:
        start = path.read_bytes()[:8]
        found = f"it begins with the bytes {start.hex(' ')}" if start else "it is empty"
        raise DataError(f"{path} is no image: {found}.", f"Known formats: {', '.join(FORMATS)}.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
    except Exception as error:  # Pillow's parsers raise almost anything on damaged bytes
        raise DataError(f"{path} cannot be read: {error}.") from None
