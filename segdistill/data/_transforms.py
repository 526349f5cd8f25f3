"""Augmentation. The only module that knows albumentations."""

import math
import random

import cv2
import numpy as np

from segdistill.config import IMAGENET_MEAN, DataConfig
from segdistill.data._base import Pixels
from segdistill.data._image import to_size
from segdistill.telemetry import switched_off
from segdistill.types import IGNORE

with switched_off():
    import albumentations as A

FILL = tuple(round(channel) for channel in IMAGENET_MEAN)
"""What images are filled up with."""


class Augment:
    """Random scale, crop, mirroring and colours, all drawn from the sample's seed and nothing else.

    Labels are resized to the nearest pixel (pixel centres at half, like the image), so no id arises that was not there.
    An image smaller than the crop is filled up on the right and below: with ImageNet's mean, and its label with IGNORE.
    """

    def __init__(self, config: DataConfig) -> None:
        self.size = config.size
        low, high = config.scale
        self.least = math.floor(1 / low) + 1  # a side that is scaled down leaves a pixel
        scale = A.RandomScale((low - 1, high - 1), cv2.INTER_LINEAR, cv2.INTER_NEAREST_EXACT, p=1)
        around = (1 - config.color, 1 + config.color)
        self.compose = A.Compose(
            [
                *([scale] if (low, high) != (1, 1) else []),
                A.PadIfNeeded(*config.crop, position="top_left", fill=FILL, fill_mask=IGNORE, p=1),
                A.RandomCrop(*config.crop, p=1),
                A.HorizontalFlip(p=config.flip),
                *([A.ColorJitter(around, around, around, hue=(0, 0), p=1)] if config.color else []),
            ]
        )

    def __call__(self, image: Pixels, label: Pixels, seed: int) -> tuple[Pixels, Pixels]:
        """Return the image and the label, both of the crop's size."""
        if self.size is not None:
            image, label = to_size(image, self.size), _nearest(label, self.size)
        if min(label.shape) < self.least:
            image, label = _filled_up(image, self.least, FILL), _filled_up(label, self.least, (IGNORE,))
        # Not set_random_seed: it seeds every transform alike, so that the scale decides on the crop and the mirroring.
        self.compose.set_random_state(np.random.default_rng(seed), random.Random(seed))  # noqa: S311  # not for secrets
        result = self.compose(image=image, mask=label)
        return result["image"], result["mask"]


def _filled_up(pixels: Pixels, least: int, fill: tuple[int, ...]) -> Pixels:
    below, right = (max(0, least - side) for side in pixels.shape[:2])
    return np.asarray(cv2.copyMakeBorder(pixels, 0, below, 0, right, cv2.BORDER_CONSTANT, value=fill), np.uint8)


def _nearest(label: Pixels, size: tuple[int, int]) -> Pixels:
    return np.asarray(cv2.resize(label, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
