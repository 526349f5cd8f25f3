"""CutMix (Yun et al. 2019, arXiv:1905.04899): a rectangle of a crop is another image's, label and all.

The label map is cut as the image is, so no label is a mixture. The batch holds the mixed crop: teacher, student and
baseline see the same.
"""

import numpy as np

from segdistill.data.base import Pixels, Split
from segdistill.data.transforms import Augment

CUTMIX = 3
"""First number of what mixing is drawn from, beside a sample's own seed: augmentation stays what it was without."""


class CutMix:
    """Augments, then pastes a part of another image, augmented on its own; all is drawn from the sample's seed."""

    def __init__(self, split: Split, augment: Augment, probability: float) -> None:
        """Mix what is augmented.

        Args:
            split: where other images are drawn from, each as likely as any.
            augment: to crops of one size.
            probability: that a crop is mixed.
        """
        self.split = split
        self.augment = augment
        self.probability = probability

    def __call__(self, image: Pixels, label: Pixels, seed: int) -> tuple[Pixels, Pixels]:
        """Return the crop (H, W, 3) and its label (H, W).

        Raises:
            DataError: if the other image's files cannot be used.
        """
        image, label = self.augment(image, label, seed)
        generator = np.random.default_rng([CUTMIX, seed])
        if generator.random() >= self.probability:
            return image, label
        other = self.split.read(int(generator.integers(len(self.split.names))))
        other_image, other_label = self.augment(other.image, other.label, int(generator.integers(2**63)))
        rows, columns = _rectangle(generator, label.shape[0], label.shape[1])
        image, label = image.copy(), label.copy()
        image[rows, columns] = other_image[rows, columns]
        label[rows, columns] = other_label[rows, columns]
        return image, label


def _rectangle(generator: np.random.Generator, height: int, width: int) -> tuple[slice, slice]:
    """Draw a rectangle of the crop's proportions: its area uniform, its center anywhere, cut at the border."""
    side = np.sqrt(generator.random())
    rows = _extent(round(side * height), int(generator.integers(height)), height)
    columns = _extent(round(side * width), int(generator.integers(width)), width)
    return rows, columns


def _extent(length: int, center: int, available: int) -> slice:
    start = center - length // 2
    return slice(max(start, 0), min(start + length, available))
