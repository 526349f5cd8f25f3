"""Settings that follow from the images, where the preset has none for this data and the user said none.

A preset's numbers are for the images of its paper: crops of 512x1024 and 80000 steps mean nothing to two dozen photos.
Pure functions: from the sizes and numbers of images to values, each with what it follows from. What a user says, by
`--set`, flags or a preset file, never comes here: `Derivation.keys` leaves it out.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median_low
from typing import Any, NamedTuple

from segdistill.config.schema import RunConfig

Size = tuple[int, int]

DERIVED_KEYS = (
    *("data.size", "data.crop", "data.scale", "data.batch_size"),
    *("optim.steps", "optim.warmup", "teacher.steps", "teacher.optim.warmup"),
    *("validate.every", "checkpoint.every"),
)
"""Settings that follow from the images where a preset has none for them, the stages of terms aside."""
EPOCHS = 50
"""Times that a derived training sees each image: between the 25 of the CamVid recipe and the 107 of skd's paper."""
MIN_STEPS = 500
"""Steps of a derived training at least: with fewer, a network of random weights has learned little of any images."""
MAX_EPOCHS = 500
"""Times that a training sees each image at most; beyond that the user is warned of his own number."""
VALIDATIONS = 10
"""Validations in a training, and checkpoints, where neither takes long beside it."""
TRAINED_PER_VALIDATED = 4
"""Images trained on for each one validated, at least: to validate takes a third of the time, on larger images."""
MIN_STEPS_BETWEEN_CHECKPOINTS, MAX_STEPS_BETWEEN_CHECKPOINTS = 50, 1000
"""Steps that a killed run loses: a checkpoint of each few would take longer than they do, and 1000 are the presets'."""
WARMUP_SHARE, MAX_WARMUP = 0.05, 500
"""Share of the steps over which the rate rises (the CamVid recipe has 50 of 1150), and the most steps of it."""
SIZE_MULTIPLE = 4
"""Divisor of the sides that images are brought to."""
MIN_CROP_MULTIPLE = 8
"""Divisor of a crop's sides at least, where the networks' stride is smaller."""
MAX_SMALLEST_SCALE = 0.75
"""Largest factor that the smallest one is raised to: things are seen smaller too, where a crop is all of an image.
The CamVid recipe has it."""
OUTLIER = 2
"""Times that a side of the smallest image goes into the usual one from which on it decides on the crop no longer."""


class Limits(NamedTuple):
    """What a kind of device is given to do at most, where it is derived."""

    device: str
    """Its name in words."""
    image_pixels: int
    """Pixels of an image: larger ones are made smaller first."""
    crop_pixels: int
    """Pixels of a crop; a preset's own crop is a limit too."""
    batch_size: int
    """Images per step; a preset's own number is a limit too."""
    steps: int
    """Steps of a training."""


CPU = Limits("a CPU", image_pixels=180 * 240, crop_pixels=120 * 160, batch_size=8, steps=10_000)
"""The sizes of the CamVid recipe, which two cores train in minutes."""
GPU = Limits("a GPU", image_pixels=1024 * 2048, crop_pixels=1024 * 1024, batch_size=64, steps=40_000)
"""The images of Cityscapes, and CIRKD's steps."""


class Images(NamedTuple):
    """What the scan of the data found."""

    sizes: Mapping[Size, int]
    """Number of training images of each height and width."""
    training: int
    """Number of training images, mixed-in ones aside."""
    validation: int
    """Number of validation images."""

    @property
    def usual(self) -> Size:
        """The median height and the median width."""
        heights, widths = self._sides()
        return median_low(heights), median_low(widths)

    @property
    def smallest(self) -> Size:
        """The smallest height and the smallest width, of one image or of two."""
        heights, widths = self._sides()
        return min(heights), min(widths)

    def below(self, size: Size) -> int:
        """Return how many images are lower or narrower than a size."""
        return sum(count for (height, width), count in self.sizes.items() if height < size[0] or width < size[1])

    def in_words(self) -> str:
        """Return number and sizes."""
        height, width = self.usual
        kind = "usually " if len(self.sizes) > 1 else ""
        return f"{self.training} images, {kind}{height}x{width}"

    def _sides(self) -> tuple[list[int], list[int]]:
        heights = [height for (height, _), count in self.sizes.items() for _ in range(count)]
        widths = [width for (_, width), count in self.sizes.items() for _ in range(count)]
        return heights, widths


class Derived(NamedTuple):
    """A setting that was derived."""

    key: str
    """Path of the setting, `data.crop`."""
    value: Any
    reason: str
    """What it follows from, in a few words."""


@dataclass(frozen=True)
class Derivation:
    """What of a configuration is left to be decided once the images are known."""

    keys: frozenset[str] = frozenset()
    """Settings that are derived: the preset has none for this data, and the user said none."""
    epochs: float | None = None
    """Times that each image is to be seen, as the user says."""
    max_steps: int | None = None
    """Most steps of each training, as the user says."""
    max_minutes: float | None = None
    """Most minutes of all trainings together, as the user says."""
    fits_memory: bool = False
    """Whether the batch is made smaller until a step of it fits into memory."""
    is_own_data: bool = True
    """Whether the preset's numbers were chosen for this data set."""
    own_networks: Mapping[str, str] = field(default_factory=dict)
    """Networks that the preset's weights were chosen for, by role; empty where no data of theirs is used."""
    preset_weights: frozenset[str] = frozenset()
    """Terms whose weight is the preset's, not the user's."""


def image_settings(
    config: RunConfig, keys: frozenset[str], images: Images, stride: int, limits: Limits
) -> list[Derived]:
    """Return the size that images are brought to, and the crop: no larger than the images, a multiple of the stride.

    Args:
        config: of the preset, whose crop is no smaller than the derived one on any device.
        keys: settings that may be derived.
        images: what the scan found.
        stride: the larger output stride of the networks.
        limits: of the device.
    """
    derived = []
    size = config.data.size
    if "data.size" in keys:
        size, reason = _working_size(images, limits)
        if size != config.data.size:
            derived.append(Derived("data.size", None if size is None else list(size), reason))
    if "data.crop" in keys:
        most = min(limits.crop_pixels, config.data.crop[0] * config.data.crop[1])
        whole, found = size or images.smallest, images.in_words()
        if size is not None:
            found = f"images at {in_words(size)}"
        elif len(images.sizes) > 1:
            found += f", at least {in_words(whole)}"
        multiple = max(stride, MIN_CROP_MULTIPLE)
        reason = f"{found}; at most {most} pixels, sides multiples of {multiple}"
        crop = _fitting(whole, most, multiple)
        derived.append(Derived("data.crop", list(crop), reason))
        if "data.scale" in keys:
            derived += _scale(config, crop, size or images.usual)
    return derived


def batch_setting(config: RunConfig, keys: frozenset[str], images: Images, parts: int, limits: Limits) -> list[Derived]:
    """Return the batch: the preset's, halved until half of the images fill it and it is the device's.

    Args:
        config: as `image_settings`.
        keys: likewise.
        images: likewise.
        parts: processes times micro-batches, of which each takes two images at least.
        limits: of the device.
    """
    if "data.batch_size" not in keys:
        return []
    most = min(limits.batch_size, images.training // 2)
    batch = config.data.batch_size
    while batch > most and can_halve(batch, parts):
        batch //= 2
    reason = f"{config.data.batch_size} of preset {config.preset}"
    if batch < config.data.batch_size:
        reason += f", halved for {images.training} images on {limits.device}"
    return [Derived("data.batch_size", batch, reason)]


def can_halve(batch: int, parts: int) -> bool:
    """Whether half of a batch divides into the parts, each of two images at least, as batch norm needs them."""
    return batch % (2 * parts) == 0 and batch // (2 * parts) >= 2


def length_setting(
    config: RunConfig, derivation: Derivation, images: Images, labeled: int, limits: Limits
) -> list[Derived]:
    """Return the steps of student and teacher: those of the epochs that were asked for, else EPOCHS within bounds.

    Args:
        config: with the batch that is used.
        derivation: what was asked for.
        images: what the scan found.
        labeled: training images of a batch, mixed-in ones aside.
        limits: of the device.
    """
    keys, epochs = derivation.keys, derivation.epochs
    if epochs is not None:
        steps = max(1, math.ceil(epochs * images.training / labeled))
        reason = f"--epochs {epochs:g} of {images.training} images"
    elif "optim.steps" in keys:
        steps = math.ceil(EPOCHS * images.training / labeled)
        reason = f"{EPOCHS} epochs of {images.training} images"
        most_of_epochs = max(1, MAX_EPOCHS * images.training // labeled)
        least, most = min(MIN_STEPS, most_of_epochs), limits.steps
        if steps < least:
            steps, reason = least, f"{reason} would be {steps}: at least {MIN_STEPS}, and {MAX_EPOCHS} epochs at most"
        if steps > most:
            steps, reason = most, f"{reason} would be {steps}: at most {most}"
    else:
        return []
    if derivation.max_steps is not None and steps > derivation.max_steps:
        steps, reason = derivation.max_steps, f"--steps {derivation.max_steps}"
    derived = [Derived("optim.steps", steps, reason)]
    if config.teacher.steps is not None and (epochs is not None or "teacher.steps" in keys):
        derived.append(Derived("teacher.steps", steps, reason))
    return derived


def interval_settings(config: RunConfig, keys: frozenset[str], images: Images) -> Iterator[Derived]:
    """Yield warm-up and intervals for the steps that the configuration has.

    Args:
        config: with the steps and the batch that are used.
        keys: settings that may be derived.
        images: what the scan found.
    """
    steps = config.optim.steps
    warmup = min(MAX_WARMUP, round(WARMUP_SHARE * steps))
    of_steps = f"of {steps} steps"
    if "optim.warmup" in keys:
        yield Derived("optim.warmup", warmup, f"{WARMUP_SHARE:.0%} {of_steps}, at most {MAX_WARMUP}")
    if config.teacher.optim is not None and config.teacher.optim.warmup is not None and "teacher.optim.warmup" in keys:
        yield Derived("teacher.optim.warmup", warmup, f"{WARMUP_SHARE:.0%} {of_steps}, at most {MAX_WARMUP}")
    interval = max(1, steps // VALIDATIONS)
    if "validate.every" in keys:
        least = TRAINED_PER_VALIDATED * images.validation // config.data.batch_size
        every = min(max(interval, least), steps)
        yield Derived("validate.every", every, f"{VALIDATIONS} times in {steps} steps, fewer for many images")
    if "checkpoint.every" in keys:
        every = min(max(interval, MIN_STEPS_BETWEEN_CHECKPOINTS), MAX_STEPS_BETWEEN_CHECKPOINTS)
        yield Derived("checkpoint.every", every, f"{VALIDATIONS} times in {steps} steps, or every 50 to 1000")


def stage_settings(before: int, stages: Mapping[str, int], keys: frozenset[str], steps: int) -> Iterator[Derived]:
    """Yield the steps of what terms have trained beforehand: the share of the student's steps that the preset has.

    Args:
        before: the student's steps in the preset.
        stages: the stages' steps in the preset, by the paths of the settings.
        keys: settings that may be derived.
        steps: the student's steps now.
    """
    for key, stage_steps in stages.items():
        if key in keys and steps != before:
            value = max(1, round(stage_steps * steps / before))
            yield Derived(key, value, f"the preset's share, {stage_steps} of {before} steps")


def with_derived(config: RunConfig, derived: list[Derived]) -> RunConfig:
    """Return a configuration with settings that were derived."""
    return config.changed(**{setting.key: setting.value for setting in derived})


def in_words(size: Size) -> str:
    """Return HxW."""
    return f"{size[0]}x{size[1]}"


def _scale(config: RunConfig, crop: Size, size: Size) -> list[Derived]:
    """Return the factors that images are scaled by, where the preset's smallest would leave less than a crop."""
    smallest, largest = config.data.scale
    covering = max(part / whole for part, whole in zip(crop, size, strict=True))
    least = round(min(covering, MAX_SMALLEST_SCALE), 2)
    if least <= smallest:
        return []
    reason = f"the preset's {smallest:g} makes images at {in_words(size)} smaller than the crop"
    return [Derived("data.scale", [least, max(least, largest)], reason)]


def _working_size(images: Images, limits: Limits) -> tuple[Size | None, str]:
    """Return the size that images are brought to, and why; None leaves them as they are."""
    usual, smallest = images.usual, images.smallest
    pixels = usual[0] * usual[1]
    has_outliers = any(OUTLIER * small < side for small, side in zip(smallest, usual, strict=True))
    if pixels <= limits.image_pixels and not has_outliers:
        return None, ""
    reason = f"{images.in_words()}; at most {limits.image_pixels} pixels on {limits.device}"
    if pixels <= limits.image_pixels:
        reason = f"{images.in_words()}, and some of half that side or less"
    return _fitting(usual, limits.image_pixels, SIZE_MULTIPLE), reason


def _fitting(size: Size, most_pixels: int, multiple: int) -> Size:
    """Return a size of the same shape within a number of pixels, sides rounded down to a multiple where they can be."""
    factor = min(1.0, math.sqrt(most_pixels / (size[0] * size[1])))
    height, width = (_rounded_down(side * factor, multiple) for side in size)
    return height, width


def _rounded_down(side: float, multiple: int) -> int:
    """Return the multiple below a side; of a shorter side a smaller multiple, which is a power of two too."""
    whole = int(side + 1e-6)  # a third of 360 is 120, whatever its last bit says
    if whole < multiple:
        multiple = min(multiple, MIN_CROP_MULTIPLE)
    while multiple > 1 and whole < multiple:
        multiple //= 2
    return max(1, whole // multiple * multiple)
