"""Images: from a file to RGB pixels, and from there to a network's size."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image, TiffImagePlugin

from segdistill.data.base import Pixels, StoredImage
from segdistill.data.image_file import (
    has_more_pages,
    is_white_zero,
    open_image,
    refuse_unknown_range,
    tiff_tag,
    turn_by_exif,
)

DEEP_MODES = "I;16"
"""Start of Pillow's names for gray of 16 bits, of either byte order."""


def read_image(path: Path) -> Pixels:
    """Read an image as RGB (H, W, 3), turned as its EXIF tag says.

    Palettes and other color spaces are converted, transparency is dropped, of 16-bit gray the upper 8 bits are kept.

    Raises:
        DataError: if it is cut short, damaged, too large, or not an image of a known format.
    """
    return decode_image(path)[0]


def decode_image(path: Path) -> tuple[Pixels, StoredImage]:
    """Read an image as `read_image` does; also return what else its file holds."""
    with open_image(path) as file:
        refuse_unknown_range(path, file)
        # All but the pixels is asked first: decoding drops the tiles and the tags.
        deep = ";16" in file.mode or ";16" in str(file.tile)
        samples_per_pixel = tiff_tag(file, TiffImagePlugin.SAMPLESPERPIXEL) or 0
        has_unread_samples = samples_per_pixel > len(file.getbands())
        more_pages = has_more_pages(file)
        orientation = turn_by_exif(file)
        pixels, alpha = rgb_and_alpha(file)
        is_translucent = alpha is not None and not bool((alpha == 255).all())
        return pixels, StoredImage(
            orientation=orientation,
            extra_channel=has_unread_samples or is_translucent,
            deep=deep,
            more_pages=more_pages,
        )


def rgb_and_alpha(file: Image.Image) -> tuple[Pixels, Pixels | None]:
    """Return color (H, W, 3), and opacity (H, W) where the file has transparency of any kind."""
    if file.mode.startswith(DEEP_MODES):
        return _deep_gray(file)
    if not file.has_transparency_data:
        rgb = file if file.mode == "RGB" else file.convert("RGB")
        return np.array(rgb), None
    rgba = file if file.mode == "RGBA" else file.convert("RGBA")
    return np.array(rgba.convert("RGB")), np.asarray(rgba.getchannel("A"))


def _deep_gray(file: Image.Image) -> tuple[Pixels, Pixels | None]:
    """Return color and opacity of 16-bit gray, which Pillow itself would clip to 8 bits."""
    gray = np.asarray(file)
    if is_white_zero(file):  # Pillow inverts 8 bits and fewer, and not 16
        gray = np.invert(gray)
    upper_bits = (gray >> 8).astype(np.uint8)
    transparent_gray = file.info.get("transparency")  # one gray value, in PNG
    alpha = None
    if transparent_gray is not None:
        alpha = np.where(gray == transparent_gray, 0, 255).astype(np.uint8)
    return np.repeat(upper_bits[..., None], 3, axis=2), alpha


def to_size(image: Pixels, size: tuple[int, int]) -> Pixels:
    """Bring an image (H, W, 3) to a size (height, width), alike in training, evaluation, inference and export checks.

    Bilinear with OpenCV's INTER_LINEAR, which video pipelines have too. At exactly half the size it averages areas;
    below that it skips pixels.
    """
    if image.shape[:2] == size:
        return image
    height, width = size
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
