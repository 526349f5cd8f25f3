"""What in one pair of files gives an id or a pixel another meaning than it has in other files.

Each kind of finding becomes one warning: what was found, in how many files, which ones, the cause, and the way out. All
of it comes from headers and from arrays that were decoded anyway.
"""

from collections.abc import Iterator, Sequence
from enum import Enum

import numpy as np

from segdistill.data.base import Pixels, Sample, StoredLabel
from segdistill.data.label_ids import StoredIds
from segdistill.types import IGNORE
from segdistill.wording import listed

MIN_PICTURE_RANGE = 4
"""Fewer 8-bit values than this hold no picture: what was scaled to 0..1 and saved as 8 bits has two."""
DARK_BELOW = 64
"""Below this 8-bit value lie all pixels of a 16-bit image that uses 14 bits or fewer, as many cameras do."""
PROBED_LINES = 16
"""Rows and columns of an image in which its colors are compared with its classes."""


class Finding(Enum):
    """A kind of finding, with the warning about all files in which it was made."""

    TURNED = (
        "Images that an EXIF tag turns or mirrors ({count}), whose labels must have been made for them as they are "
        "shown: {names}."
    )
    LABEL_TURNED = (
        "Label maps that an EXIF tag turns or mirrors otherwise than their images ({count}): {names}. They are read as "
        "the tag says. Where they fit their images without it, save them without the tag."
    )
    MORE_PAGES = (
        "Files with several pages or frames, of which only the first is read ({count}): {names}. Classes on pages of "
        "their own must be merged into one label map."
    )
    BLANK = (
        "Images of a single color, or nearly ({count}): {names}. Values from 0 to 1 that are saved with 8 bits look "
        "like this: multiply them by 255 before."
    )
    EXTRA_CHANNEL = (
        "Images with a channel beyond red, green and blue, which is left out ({count}): {names}. It holds "
        "transparency, or a band such as near infrared; networks here see three channels. Transparent pixels need a "
        "color, or a label that is ignored."
    )
    DARK = (
        "Images of 16 bits that use a quarter of their range or less ({count}): {names}. Their upper 8 bits are read, "
        "so they are nearly black. Save them with 8 bits, or multiply values of 12 bits by 16, of 10 bits by 64."
    )
    LABEL_AS_IMAGE = (
        "Images with one color per class, as label maps have ({count}): {names}. Give the folder of the photos as "
        "`images`."
    )
    VOID = "Images without a labeled pixel ({count}): {names}."
    TRANSPARENT = (
        "Label maps with transparent pixels, which count nowhere ({count}): {names}. Where these pixels belong to a "
        "class, save the label maps without alpha channel."
    )
    TRANSPARENT_ID = (
        "Label maps that draw a class transparent ({count}): {names}. Its pixels are read as that class. Where they "
        'are not annotated, map the id to "ignore" under [ids] of a data.toml.'
    )

    def sentence(self, names: Sequence[str]) -> str:
        """Return the warning about the files in which this was found."""
        return self.value.format(count=len(names), names=listed(names))


def findings_in(sample: Sample, ids: StoredIds | None) -> Iterator[tuple[Finding, str]]:
    """Yield what is found in one pair of files, with the name of the one that it is found in.

    Args:
        sample: the pair as it was read.
        ids: those of its label map; None where it holds colors, or there is none.
    """
    yield from _in_headers(sample)
    picture = _in_pixels(sample)
    if picture is not None:
        yield picture, sample.name
    if sample.stored_label is not None:
        yield from _in_label(sample.stored_label, ids)
    if (sample.label == IGNORE).all():
        yield Finding.VOID, sample.name


def _in_headers(sample: Sample) -> Iterator[tuple[Finding, str]]:
    """Yield what the files say of themselves: orientation, pages, channels."""
    image, label = sample.stored_image, sample.stored_label
    if sample.orientation_unclear:
        if label is None or label.orientation == 1:
            yield Finding.TURNED, sample.name
        else:
            yield Finding.LABEL_TURNED, label.name
    if image.more_pages:
        yield Finding.MORE_PAGES, sample.name
    if label is not None and label.more_pages:
        yield Finding.MORE_PAGES, label.name
    if image.extra_channel:
        yield Finding.EXTRA_CHANNEL, sample.name


def _in_pixels(sample: Sample) -> Finding | None:
    """Return why an image can hardly be a photo, the likeliest cause alone; None for all others."""
    brightest = int(sample.image.max(initial=0))
    darkest = int(sample.image.min(initial=255))
    if sample.stored_image.deep and brightest < DARK_BELOW:
        return Finding.DARK
    if sample.stored_label is not None and _is_colored_by_class(sample.image, sample.label):
        return Finding.LABEL_AS_IMAGE
    if brightest - darkest < MIN_PICTURE_RANGE:
        return Finding.BLANK
    return None


def _in_label(label: StoredLabel, ids: StoredIds | None) -> Iterator[tuple[Finding, str]]:
    """Yield what is transparent in a label map: single pixels, and ids of classes."""
    if label.transparent is not None:
        yield Finding.TRANSPARENT, label.name
    if ids is not None and label.transparent_ids:
        is_transparent_class = np.isin(ids.used, label.transparent_ids) & (ids.classes != IGNORE)
        if is_transparent_class.any():
            yield Finding.TRANSPARENT_ID, label.name


def _is_colored_by_class(image: Pixels, label: Pixels) -> bool:
    """Whether an image has one color for each class and for void, and no two have the same: it is a label map."""
    row_step, column_step = (max(1, side // PROBED_LINES) for side in label.shape)
    probed = image[::row_step, ::column_step].reshape(-1, 3).astype(np.int64)
    colors = probed @ np.array([1 << 16, 1 << 8, 1])  # one number per color
    classes = label[::row_step, ::column_step].ravel()
    class_count = len(np.unique(classes))
    if class_count < 2 or len(np.unique(colors)) != class_count:  # most photos end here
        return False
    # As many pairs of color and class as there are classes: each class has one color, and each color one class.
    return len(np.unique(colors << 8 | classes)) == class_count
