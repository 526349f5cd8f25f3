"""Augmentation. The only module that knows albumentations."""

import math
import random
from collections.abc import Iterator

import cv2
import numpy as np

from segdistill.config.schema import IMAGENET_MEAN, DataConfig
from segdistill.data.base import Pixels
from segdistill.data.image import to_size
from segdistill.runtime.telemetry import switched_off
from segdistill.types import IGNORE

with switched_off():
    import albumentations as A

FILL = tuple(round(channel) for channel in IMAGENET_MEAN)
"""Color that images are filled up with: after the usual normalization it is about 0."""


class Augment:
    """Random scale, crop, mirroring and colors, all drawn from the sample's seed and nothing else.

    Labels are resized to the nearest pixel (pixel centers at half, like the image), so no id arises that was not there.
    An image smaller than the crop is filled up on the right and below: with ImageNet's mean, and its label with IGNORE.
    """

    def __init__(self, config: DataConfig) -> None:
        self.size = config.size
        smallest_factor, _ = config.scale
        self.min_side = math.floor(1 / smallest_factor) + 1  # a side that is scaled down leaves a pixel
        self.compose = A.Compose(list(_steps(config)))

    def __call__(self, image: Pixels, label: Pixels, seed: int) -> tuple[Pixels, Pixels]:
        """Return the image and the label, both of the crop's size."""
        if self.size is not None:
            image = to_size(image, self.size)
            label = _resize_label(label, self.size)
        if min(label.shape) < self.min_side:
            image = _fill_up(image, self.min_side, FILL)
            label = _fill_up(label, self.min_side, (IGNORE,))
        # Not set_random_seed: it seeds every transform alike, so that the scale decides on the crop and the mirroring.
        self.compose.set_random_state(np.random.default_rng(seed), random.Random(seed))  # noqa: S311  # not for secrets
        result = self.compose(image=image, mask=label)
        return result["image"], result["mask"]


def _steps(config: DataConfig) -> Iterator[A.BasicTransform]:
    """Yield the transforms in their order; one that would change nothing is left out."""
    smallest_factor, largest_factor = config.scale
    if config.scale != (1, 1):
        # albumentations takes factors as differences from 1.
        factors = (smallest_factor - 1, largest_factor - 1)
        yield A.RandomScale(factors, cv2.INTER_LINEAR, cv2.INTER_NEAREST_EXACT, p=1)
    height, width = config.crop
    yield A.PadIfNeeded(height, width, position="top_left", fill=FILL, fill_mask=IGNORE, p=1)
    yield A.RandomCrop(height, width, p=1)
    yield A.HorizontalFlip(p=config.flip)
    if config.color:
        factors = (1 - config.color, 1 + config.color)
        yield A.ColorJitter(brightness=factors, contrast=factors, saturation=factors, hue=(0, 0), p=1)


def _fill_up(pixels: Pixels, min_side: int, fill: tuple[int, ...]) -> Pixels:
    """Fill up an array (H, W) or (H, W, 3) below and on the right until both sides have `min_side` pixels."""
    height, width = pixels.shape[:2]
    below = max(0, min_side - height)
    right = max(0, min_side - width)
    filled = cv2.copyMakeBorder(
        pixels, top=0, bottom=below, left=0, right=right, borderType=cv2.BORDER_CONSTANT, value=fill
    )
    return np.asarray(filled, np.uint8)


def _resize_label(label: Pixels, size: tuple[int, int]) -> Pixels:
    """Bring a label (H, W) to a size (height, width); each pixel takes the class of the nearest one."""
    height, width = size
    return np.asarray(cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
